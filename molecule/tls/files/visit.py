"""Visit a page as a browser does, and print the answer as JSON: visit.py URL ADDRESS:PORT [CA]."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from urllib.parse import urlsplit


def visit(url: str, at: str, ca: str = "") -> dict[str, object]:
    """Request a page from the server at an address, whatever its name resolves to; by HTTPS trust only ``ca``.

    Returns:
        status, headers, body, and the certificate's serial number and names.
    """
    parts = urlsplit(url)
    name = parts.hostname or ""
    host, _, port = at.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=10)
    connection = http.client.HTTPConnection(name, timeout=10)
    connection.sock, certificate = plain, None
    if parts.scheme == "https":
        secured = ssl.create_default_context(cafile=ca).wrap_socket(plain, server_hostname=name)
        connection.sock, certificate = secured, secured.getpeercert()
    connection.request("GET", parts.path or "/", headers={"Host": name})
    answer = connection.getresponse()
    return {
        "status": answer.status,
        "headers": {key.lower(): value for key, value in answer.getheaders()},
        "body": answer.read().decode(errors="replace"),
        "serial": (certificate or {}).get("serialNumber"),
        "names": [value for _, value in (certificate or {}).get("subjectAltName", ())],
    }


if __name__ == "__main__":
    try:
        print(json.dumps(visit(*sys.argv[1:])))
    except OSError as error:
        sys.exit(f"{sys.argv[1]} at {sys.argv[2]}: {error}")

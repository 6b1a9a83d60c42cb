"""Probe a release through its socket, as Nginx does, with the site's Host header and scheme."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

READY_PATH = "/-/hostwright/ready"  # as the image's runtime answers it
EXCERPT = 500


@dataclass(frozen=True)
class Reply:
    """A response. ``status`` 0 means that there was none; then ``text`` gives the reason."""

    status: int
    text: str

    @property
    def ready(self) -> bool:
        """Whether the readiness path reports that the release can serve."""
        return self.status == http.client.OK

    @property
    def healthy(self) -> bool:
        """Whether a page of the site answers: a status below 500, and not 400 (the host is not allowed)."""
        return 0 < self.status < http.client.INTERNAL_SERVER_ERROR and self.status != http.client.BAD_REQUEST


Ask = Callable[[Path, str, str, str, float], Reply]


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect through a descriptor: a socket's path is limited to 107 bytes, and a link is not followed."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        descriptor = os.open(self._path, os.O_PATH | os.O_NOFOLLOW)
        try:
            self.sock.connect(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)


def ask(path: Path, host: str, scheme: str, url: str, timeout: float) -> Reply:
    """Send one GET to a release's socket.

    Args:
        path: path of the socket on the host.
        host: Host header.
        scheme: scheme that the browser uses.
        url: path of the page.
        timeout: seconds for each read.
    """
    connection = _Connection(path, timeout)
    headers = {"Host": host, "X-Forwarded-Proto": scheme, "User-Agent": "hostwright-probe"}
    try:
        connection.request("GET", url, headers=headers)
        response = connection.getresponse()
        return Reply(response.status, response.read(EXCERPT).decode(errors="replace").strip())
    except (OSError, http.client.HTTPException) as error:
        return Reply(0, f"{type(error).__name__}: {error}")
    finally:
        connection.close()


def host_header(domains: list[str]) -> str:
    """Return a Host header that the site accepts: its first host (``www.`` below a wildcard)."""
    host = domains[0] if domains else "localhost"
    if host == "*":
        return "localhost"
    return f"www{host}" if host.startswith(".") else host

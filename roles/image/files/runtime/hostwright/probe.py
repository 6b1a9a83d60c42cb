"""Probe a release through its own socket."""

import http.client
import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostwright import configuration
from hostwright.configuration import Configuration
from hostwright.errors import HostwrightError

READY_PATH = "/-/hostwright/ready"
_PAUSE = 0.05
_EXCERPT = 500


@dataclass(frozen=True)
class Answer:
    """One answer of the release; with status 0, ``text`` is the reason why there was none."""

    path: str
    status: int
    text: str


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(release: Configuration, path: str, timeout: float) -> Answer:
    """Send one GET with the site's real Host header and scheme.

    Args:
        release: configuration with socket, host and scheme.
        path: path of the URL.
        timeout: seconds for each read.
    """
    connection = _UnixConnection(release.require_socket(), timeout)
    headers = {"Host": host_header(release), "X-Forwarded-Proto": release.scheme, "User-Agent": "hostwright-probe"}
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return Answer(path, response.status, response.read(_EXCERPT).decode(errors="replace").strip())
    except (OSError, http.client.HTTPException) as error:
        return Answer(path, 0, f"{type(error).__name__}: {error}")
    finally:
        connection.close()


def host_header(release: Configuration) -> str:
    """Return a Host header that the site accepts: its first host (``www.`` below a wildcard)."""
    host = release.allowed_hosts[0] if release.allowed_hosts else "localhost"
    if host == "*":
        return "localhost"
    return f"www{host}" if host.startswith(".") else host


def probe(timeout: float) -> dict[str, Any]:
    """Wait until the site is ready.

    Ready means status 200 on the readiness path, and on the health path a status below 500 other than 400 (which means
    that the host is not allowed).

    Args:
        timeout: seconds to wait.

    Raises:
        HostwrightError: the site was not ready in time; the message has the last answer.
    """
    release = configuration.require()
    release.require_socket()
    start = time.monotonic()
    last = None
    while True:
        left = max(start + timeout - time.monotonic(), 0.1)
        now = ready = ask(release, READY_PATH, left)
        if ready.status == http.client.OK:
            now = ask(release, release.health_path, max(start + timeout - time.monotonic(), 0.1))
            if 0 < now.status < 500 and now.status != http.client.BAD_REQUEST:
                return {
                    "ready": ready.status,
                    "health": {"path": now.path, "status": now.status},
                    "host": host_header(release),
                    "seconds": round(time.monotonic() - start, 3),
                }
        if last is None or now.status:  # the deadline may cut the last attempt short; an earlier answer says more
            last = now
        if time.monotonic() - start + _PAUSE > timeout:
            raise HostwrightError(
                f"The release is not ready after {timeout:g} s. Last answer to GET {last.path} "
                f"(Host: {host_header(release)}): {last.status or 'none'}, {json.dumps(last.text, ensure_ascii=False)}"
            )
        time.sleep(_PAUSE)

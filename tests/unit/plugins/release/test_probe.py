"""Probing a release through a real socket."""

from __future__ import annotations

import http.server
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.release.probe import Reply, ask, host_header

STATUS = {"/ok": 200, "/login": 302, "/missing": 404, "/host": 400, "/broken": 500}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(STATUS[self.path])
        self.end_headers()
        self.wfile.write(f"{self.headers['Host']} {self.headers['X-Forwarded-Proto']}".encode())

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server on a socket whose path is longer than the limit."""
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    monkeypatch.chdir(directory)
    with socketserver.ThreadingUnixStreamServer("app.sock", Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield directory / "app.sock"
        server.shutdown()


@pytest.mark.parametrize("path", STATUS)
def test_the_reply_to_a_get(release: Path, path: str) -> None:
    reply = ask(release, "polls.example.org", "https", path, 5)
    assert reply == Reply(STATUS[path], "polls.example.org https")
    assert reply.ready == (path == "/ok")
    assert reply.healthy == (path in ("/ok", "/login", "/missing"))


def test_a_link_to_another_socket_is_not_followed(release: Path, tmp_path: Path) -> None:
    (tmp_path / "app.sock").symlink_to(release)
    assert ask(tmp_path / "app.sock", "polls.example.org", "http", "/ok", 5).status == 0


def test_a_missing_answer_has_status_0_and_a_reason(tmp_path: Path) -> None:
    reply = ask(tmp_path / "app.sock", "polls.example.org", "http", "/", 5)
    assert reply.status == 0
    assert "FileNotFoundError" in reply.text
    assert not reply.healthy


@pytest.mark.parametrize(
    ("domains", "host"),
    [(["a.org", "b.org"], "a.org"), ([".a.org"], "www.a.org"), (["*"], "localhost"), ([], "localhost")],
)
def test_the_host_header_of_the_probe(domains: list[str], host: str) -> None:
    assert host_header(domains) == host

"""The real server on its socket: readiness, probe, graceful stop, and what a killed one leaves."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostwright import configuration, probe, serve
from hostwright.errors import BusyError, ConfigurationError

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release

Start = Callable[[], "subprocess.Popen[str]"]


def get(release: Release, path: str, host: str = "notes.example.org", scheme: str = "https") -> tuple[int, str]:
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(str(release.socket))
    connection.request("GET", path, headers={"Host": host, "X-Forwarded-Proto": scheme})
    response = connection.getresponse()
    answer = response.status, response.read().decode()
    connection.close()
    return answer


def stop(server: subprocess.Popen[str]) -> str:
    server.send_signal(signal.SIGTERM)
    output, _ = server.communicate(timeout=20)
    return output


def test_the_site_serves(release: Release, serve: Start) -> None:
    release.answer("migrate")
    server = serve()
    found = release.answer("probe", "--timeout", "10")
    assert (found["ready"], found["health"], found["host"]) == (200, {"path": "/", "status": 200}, "notes.example.org")
    # The project sees the real host and scheme, from the probe too, and serves no other host.
    asked = probe.ask(configuration.read(release.save()), "/", 5)
    assert asked.text == "0 notes for https://notes.example.org/"
    assert get(release, "/") == (200, "0 notes for https://notes.example.org/")
    assert get(release, "/", host="www.example.net")[0] == 200
    assert get(release, "/", host="evil.example.com")[0] == 400
    assert oct(release.socket.stat().st_mode & 0o777) == "0o660"
    assert get(release, "/broken")[0] == 500
    output = stop(server)
    assert server.returncode == 0
    # Errors are in the log, once.
    assert output.count("RuntimeError: broken on purpose") == 1


def test_requests_in_flight_finish_at_sigterm(release: Release, serve: Start) -> None:
    release.answer("migrate")
    server = serve()
    release.answer("probe", "--timeout", "10")
    answers: list[tuple[int, str]] = []
    threads = [threading.Thread(target=lambda: answers.append(get(release, "/slow?seconds=1.5"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    start = time.monotonic()
    stop(server)
    took = time.monotonic() - start
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [200, 200]
    assert 0.5 < took < 5
    assert release.shell("from notes.models import Note; print(Note.objects.count())") == "2"


def test_a_killed_server_s_socket_is_replaced(release: Release, serve: Start) -> None:
    release.answer("migrate")
    server = serve()
    release.answer("probe", "--timeout", "10")
    os.killpg(server.pid, signal.SIGKILL)
    server.communicate()
    assert release.socket.exists()
    second = serve()
    release.answer("probe", "--timeout", "10")
    # A third one does not take the socket away from it.
    result = release.verb("serve")
    assert (result.returncode, "another server answers" in result.stderr) == (75, True)
    assert get(release, "/")[0] == 200
    stop(second)


def test_unready_until_migrated(release: Release, serve: Start) -> None:
    server = serve()
    result = release.verb("probe", "--timeout", "3")
    assert result.returncode == 1
    assert "does not exist" in result.stderr
    assert not release.database.exists()
    release.database.parent.mkdir(parents=True)
    release.database.touch()
    status, text = get(release, probe.READY_PATH)
    assert status == 503
    assert json.loads(text)["reason"].startswith("pending migrations: contenttypes.0001_initial, ")
    release.answer("migrate")
    assert get(release, probe.READY_PATH) == (200, '{"status": "ready"}\n')
    stop(server)


def test_a_project_that_does_not_import_ends_the_server_with_one_message(release: Release, serve: Start) -> None:
    release.write({"mysite/wsgi.py": "import nonsense\n"})
    server = serve()
    output, _ = server.communicate(timeout=20)
    assert output.count("The project does not import") == 1
    assert "mysite/wsgi.py:1: import nonsense" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(("path", "status"), [("/broken", 500), ("/missing", 404)])
def test_the_health_path_decides(release: Release, serve: Start, path: str, status: int) -> None:
    release.configuration["health_path"] = path
    release.answer("migrate")
    serve()
    result = release.verb("probe", "--timeout", "2")
    assert result.returncode == (1 if status >= 500 else 0)
    if status >= 500:
        assert f"Last answer to GET {path} (Host: notes.example.org): 500" in result.stderr


def test_a_probe_without_a_server_ends_in_time(release: Release) -> None:
    start = time.monotonic()
    result = release.verb("probe", "--timeout", "0.5")
    assert (result.returncode, "FileNotFoundError" in result.stderr) == (1, True)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("hosts", "header"), [(("a.org",), "a.org"), ((".a.org",), "www.a.org"), (("*",), "localhost")]
)
def test_host_header(hosts: tuple[str, ...], header: str) -> None:
    assert probe.host_header(configuration.Configuration(environment="production", allowed_hosts=hosts)) == header


def test_a_socket_s_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="directory is missing"):
        serve.remove_stale_socket(tmp_path / "nowhere" / "app.sock")
    (tmp_path / "app.sock").write_text("a file", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is no socket"):
        serve.remove_stale_socket(tmp_path / "app.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "live.sock"))
        listener.listen()
        with pytest.raises(BusyError):
            serve.remove_stale_socket(tmp_path / "live.sock")
    serve.remove_stale_socket(tmp_path / "live.sock")
    assert not (tmp_path / "live.sock").exists()

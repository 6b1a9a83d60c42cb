"""The real server on its socket: start, readiness, probe, graceful stop, and the socket of a killed server."""

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

Start = Callable[..., "subprocess.Popen[str]"]


def get(
    release: Release, path: str, host: str = "notes.example.org", scheme: str = "https", **headers: str
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(str(release.socket))
    connection.request("GET", path, headers={"Host": host, "X-Forwarded-Proto": scheme, **headers})
    response = connection.getresponse()
    answer = response.status, response.read().decode()
    connection.close()
    return answer


def stop(server: subprocess.Popen[str]) -> str:
    server.send_signal(signal.SIGTERM)
    output, _ = server.communicate(timeout=20)
    return output


def test_the_site_serves(release: Release, serve: Start) -> None:
    release.migrate()
    server = serve()
    found = release.answer("probe", "--timeout", "10")
    assert (found["ready"], found["health"], found["host"]) == (200, {"path": "/", "status": 200}, "notes.example.org")
    # The project sees the real host and scheme, also from the probe, and refuses other hosts.
    asked = probe.ask(configuration.read(release.save()), "/", 5)
    assert asked.text == "0 notes for https://notes.example.org/"
    assert get(release, "/") == (200, "0 notes for https://notes.example.org/")
    assert get(release, "/", host="www.example.net")[0] == 200
    assert get(release, "/", host="evil.example.com")[0] == 400
    assert oct(release.socket.stat().st_mode & 0o777) == "0o660"
    assert get(release, "/broken")[0] == 500
    assert get(release, "/address", **{"X-Real-IP": "2001:db8::7"}) == (200, "2001:db8::7")
    assert get(release, "/address")[0] == 200
    output = stop(server)
    assert server.returncode == 0
    # Each error is in the log once.
    assert output.count("RuntimeError: broken on purpose") == 1


def test_requests_in_flight_finish_at_sigterm(release: Release, serve: Start) -> None:
    release.migrate()
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
    release.migrate()
    server = serve()
    release.answer("probe", "--timeout", "10")
    os.killpg(server.pid, signal.SIGKILL)
    server.communicate()
    assert release.socket.exists()
    second = serve()
    release.answer("probe", "--timeout", "10")
    # A third server does not take over the socket.
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
    release.migrate()
    assert get(release, probe.READY_PATH) == (200, '{"status": "ready"}\n')
    stop(server)


def test_readiness_shows_how_old_the_newest_backup_is(release: Release, serve: Start) -> None:
    release.migrate()
    server = serve()
    release.answer("probe", "--timeout", "10")
    path = release.socket.parents[2] / "backup.json"
    for age, stale in ((100, False), (8000, True)):
        path.write_text(json.dumps({"time": time.time() - age, "stale_after_seconds": 7200, "drill": True}))
        status, text = get(release, probe.READY_PATH)
        backup = json.loads(text)["backup"]
        assert (status, backup["stale"], backup["drill"]) == (200, stale, True)
        assert age <= backup["age_seconds"] < age + 10
    path.write_text(json.dumps({"time": None, "stale_after_seconds": 7200, "drill": None}))
    assert json.loads(get(release, probe.READY_PATH)[1])["backup"]["age_seconds"] is None
    path.write_text("nonsense")
    assert get(release, probe.READY_PATH) == (200, '{"status": "ready"}\n')
    stop(server)


def test_a_project_that_does_not_import_ends_the_server_with_one_message(release: Release, serve: Start) -> None:
    release.write({"mysite/wsgi.py": "import nonsense\n"})
    server = serve()
    output, _ = server.communicate(timeout=20)
    assert output.count("The project does not import") == 1
    assert "mysite/wsgi.py:1: import nonsense" in output
    assert "Traceback" not in output


# A probe of a page that fails lasts for the whole time; on a busy machine a server needs some seconds to start.
@pytest.mark.parametrize(("path", "status", "seconds"), [("/broken", 500, "6"), ("/missing", 404, "20")])
def test_the_health_path_decides(release: Release, serve: Start, path: str, status: int, seconds: str) -> None:
    release.configuration["health_path"] = path
    release.migrate()
    serve()
    result = release.verb("probe", "--timeout", seconds)
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


def test_an_unusable_socket_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="directory is missing"):
        serve.remove_stale_socket(tmp_path / "nowhere" / "app.sock")
    (tmp_path / "app.sock").write_text("a file", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is not a socket"):
        serve.remove_stale_socket(tmp_path / "app.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "live.sock"))
        listener.listen()
        with pytest.raises(BusyError):
            serve.remove_stale_socket(tmp_path / "live.sock")
    serve.remove_stale_socket(tmp_path / "live.sock")
    assert not (tmp_path / "live.sock").exists()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def seconds_of_processor(process: subprocess.Popen[str]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def commit(release: Release, number: int) -> None:
    new = release.current.with_name("current.new")
    new.symlink_to(f"releases/{number}")
    new.replace(release.current)


def test_a_release_that_is_not_current_waits_until_it_is(release: Release, serve: Start) -> None:
    release.migrate()
    commit(release, 2)
    server = serve()
    assert first_line(server) == "hostwright: release 1 waits: current names release 2.\n"
    before = seconds_of_processor(server)
    time.sleep(1.5)
    assert seconds_of_processor(server) - before <= 0.02
    assert not release.socket.exists()
    assert not [path for path in Path(f"/proc/{server.pid}/fd").iterdir() if "sqlite3" in str(path.readlink())]
    commit(release, 1)
    release.answer("probe", "--timeout", "10")
    assert get(release, "/")[0] == 200
    stop(server)
    assert server.returncode == 0


def test_go_lets_a_release_start_once(release: Release, serve: Start) -> None:
    release.migrate()
    commit(release, 2)
    go = release.socket.with_name("go")
    go.touch()
    server = serve()
    release.answer("probe", "--timeout", "10")
    assert not go.exists()
    os.killpg(server.pid, signal.SIGKILL)
    server.communicate()
    assert first_line(serve()).startswith("hostwright: release 1 waits")


def test_before_the_first_commit_a_release_waits(release: Release, serve: Start) -> None:
    release.current.unlink()
    assert first_line(serve()) == "hostwright: release 1 waits: no release has been committed yet.\n"


@pytest.mark.parametrize("verb", [("serve",), ("work", "count", "--verbosity", "2")])
def test_sigterm_ends_the_wait(release: Release, serve: Start, verb: tuple[str, ...]) -> None:
    commit(release, 2)
    waiting = serve(*verb)
    assert "waits" in first_line(waiting)
    start = time.monotonic()
    assert stop(waiting) == ""
    assert waiting.returncode == 0
    assert time.monotonic() - start < 0.2


def test_the_wait_does_not_import_django(release: Release) -> None:
    release.current.unlink()
    code = """
import sys, threading, pathlib
from hostwright import configuration, current, serve
release = configuration.require()
link = release.require_socket().parents[2] / "current"
threading.Timer(0.5, lambda: link.symlink_to("releases/1")).start()
current.wait(release, may_start=True)
print([name for name in sys.modules if name.partition(".")[0] in ("django", "mysite", "notes")])
"""
    assert release.command("-c", code).stdout.splitlines()[1:] == ["[]"]


WORK = """
    import signal, sys, time
    from django.core.management.base import BaseCommand
    from notes.models import Note

    class Command(BaseCommand):
        def add_arguments(self, parser):
            parser.add_argument("--colour")

        def handle(self, *args, **options):
            signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to end"))
            print(options["colour"], options["verbosity"], Note.objects.count(), flush=True)
            time.sleep(60)
"""


def test_work_runs_a_management_command_of_the_current_release(release: Release, serve: Start) -> None:
    release.write({"notes/management/__init__.py": "", "notes/management/commands/work.py": WORK})
    release.migrate()
    commit(release, 2)
    go = release.socket.with_name("go")
    go.touch()
    work = serve("work", "work", "--colour", "blue", "--verbosity", "2")
    assert first_line(work) == "hostwright: release 1 waits: current names release 2.\n"
    # The file go permits a start of the server only.
    assert go.exists()
    commit(release, 1)
    assert first_line(work) == "blue 2 0\n"
    assert stop(work) == "asked to end\n"
    assert work.returncode == 1


def test_a_command_without_a_sigterm_handler_ends_at_once(release: Release, serve: Start) -> None:
    deaf = WORK.replace('signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to end"))', "pass")
    release.write({"notes/management/__init__.py": "", "notes/management/commands/work.py": deaf})
    release.migrate()
    work = serve("work", "work", "--colour", "blue")
    assert first_line(work) == "blue 1 0\n"
    start = time.monotonic()
    assert stop(work) == ""
    # A child of the runtime, which has a handler: as first process of a container it would ignore SIGTERM.
    assert work.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - start < 1


def test_work_without_a_command_is_refused(release: Release) -> None:
    result = release.verb("work")
    assert (result.returncode, "name a management command" in result.stderr) == (2, True)


SHADOWS = ("__init__.py", "granian/__init__.py", "click/__init__.py", "hostwright/__init__.py", "zstandard/__init__.py")


def test_packages_in_the_working_directory_do_not_affect_the_server(release: Release, serve: Start) -> None:
    release.write(dict.fromkeys(SHADOWS, ""))
    release.write({"notes/management/__init__.py": "", "notes/management/commands/work.py": WORK})
    release.answer("preflight")
    release.migrate()
    server = serve()
    release.answer("probe", "--timeout", "10")
    assert get(release, "/") == (200, "0 notes for https://notes.example.org/")
    assert release.shell("from notes.models import Note; print(Note.objects.count())") == "0"
    assert release.command("manage.py", "check").returncode == 0
    for name in ("", "mailer"):
        release.variables["HOSTWRIGHT_WORKER"] = name
        work = serve("work", "work", "--colour", "blue")
        assert first_line(work) == "blue 1 0\n"
        stop(work)
    assert "Traceback" not in stop(server)

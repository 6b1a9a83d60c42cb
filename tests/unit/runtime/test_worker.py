"""A worker with a real command: when the command runs, rests and ends, and what remains."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostwright import configuration
from hostwright.worker import Worker

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release

Start = Callable[..., "subprocess.Popen[str]"]

# The command does not load Django: the test is about its parent.
MANAGE = """
    import os, signal, subprocess, sys, time

    if "stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif "polite" in sys.argv:
        signal.signal(signal.SIGTERM, lambda *_: (print("asked to end", flush=True), os._exit(5)))
    if "forking" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        daemon = subprocess.Popen(["sleep", "60"], start_new_session=True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print("forked", daemon.pid, flush=True)
    if "orphaning" in sys.argv:
        if os.fork() == 0:
            orphan = os.fork()
            if orphan:
                print("orphan", orphan, flush=True)
            else:
                time.sleep(0.3)
            os._exit(0)
        os.wait()
    print("runs", flush=True)
    if "short" in sys.argv:
        sys.exit(7)
    time.sleep(30)
"""
RESTS = "hostwright: release 1 rests while another release is committed.\n"


@pytest.fixture
def work(release: Release, serve: Start) -> Iterator[Start]:
    """Return a function that starts the worker ``mailer``; at the end its command is killed."""
    release.write({"manage.py": MANAGE})
    release.variables["HOSTWRIGHT_WORKER"] = "mailer"
    release.configuration["server"]["stop_timeout"] = 1
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        started.append(serve("work", *words))
        return started[-1]

    yield start
    for worker in started:
        if worker.poll() is None:
            for child in children(worker):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line of the worker or its command; an empty string after 10 s."""
    assert process.stdout is not None
    timer = threading.Timer(10, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


def rest(release: Release, seconds: float = 60) -> None:
    new = release.socket.with_name("new")
    new.touch()
    os.utime(new, (time.time() + seconds,) * 2)
    new.replace(new.with_name("rest"))


def commit(release: Release, number: int) -> None:
    new = release.current.with_name("current.new")
    new.symlink_to(f"releases/{number}")
    new.replace(release.current)


def rested(release: Release) -> Path:
    return release.socket.with_name("rested-mailer")


def wait_for(true: Callable[[], bool], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def children(process: subprocess.Popen[str]) -> list[str]:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()


def end(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=10)[0]


def test_a_worker_rests_until_the_file_rest_is_removed(release: Release, work: Start) -> None:
    worker = work("polite")
    assert line(worker) == "runs\n"
    assert not rested(release).exists()
    rest(release)
    assert line(worker) == "asked to end\n"
    assert line(worker) == RESTS
    wait_for(rested(release).exists)
    assert children(worker) == []
    # A second committer removes old answers, and gets a new one.
    rested(release).unlink()
    wait_for(rested(release).exists)
    release.socket.with_name("rest").unlink()
    assert line(worker) == "runs\n"
    assert not rested(release).exists()
    assert worker.poll() is None


def test_a_rest_ends_at_its_deadline(release: Release, work: Start) -> None:
    worker = work("plain")
    assert line(worker) == "runs\n"
    start = time.monotonic()
    rest(release, 2)
    assert line(worker) == RESTS
    assert line(worker) == "runs\n"
    assert 1.9 < time.monotonic() - start < 5
    assert release.socket.with_name("rest").exists()


def test_a_worker_that_starts_during_a_rest_answers_and_does_not_run_its_command(release: Release, work: Start) -> None:
    rest(release)
    worker = work("plain")
    assert line(worker) == RESTS
    wait_for(rested(release).exists)
    assert end(worker) == ""
    assert worker.returncode == 0
    assert not rested(release).exists()


def test_an_answer_of_a_killed_worker_is_removed(release: Release, work: Start) -> None:
    rested(release).touch()
    assert line(work("plain")) == "runs\n"
    assert not rested(release).exists()


def test_the_worker_of_a_retired_release_ends_its_command(release: Release, work: Start) -> None:
    worker = work("polite")
    assert line(worker) == "runs\n"
    rest(release)
    assert [line(worker), line(worker)] == ["asked to end\n", RESTS]
    commit(release, 2)
    release.socket.with_name("rest").unlink()
    assert line(worker) == "hostwright: release 1 waits: current names release 2.\n"
    time.sleep(0.6)
    assert children(worker) == []
    commit(release, 1)
    assert line(worker) == "runs\n"
    # The same without a rest: current alone decides.
    commit(release, 2)
    assert line(worker) == "asked to end\n"
    assert line(worker) == "hostwright: release 1 waits: current names release 2.\n"
    assert end(worker) == ""
    assert worker.returncode == 0


def test_a_commit_between_two_checks_does_not_let_the_old_worker_run(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTWRIGHT_CONFIG", str(release.save()))
    old = Worker(configuration.require(), "mailer", ["send"])
    rest(release)
    resting = Worker._resting

    def check_right_after_the_commit(worker: Worker) -> bool:
        commit(release, 2)
        release.socket.with_name("rest").unlink()
        return resting(worker)

    assert not old._may_run()
    monkeypatch.setattr(Worker, "_resting", check_right_after_the_commit)
    assert not old._may_run()


def test_a_command_that_ignores_sigterm_is_killed(release: Release, work: Start) -> None:
    worker = work("stubborn")
    assert line(worker) == "runs\n"
    start = time.monotonic()
    rest(release)
    time.sleep(0.8)
    assert not rested(release).exists()
    assert line(worker) == RESTS
    assert 1 < time.monotonic() - start < 4
    assert children(worker) == []


def test_processes_started_by_the_command_end_with_it(release: Release, work: Start) -> None:
    worker = work("forking")
    daemon = int(line(worker).split()[1])
    assert line(worker) == "runs\n"
    rest(release)
    try:
        assert line(worker) == RESTS
        with pytest.raises(ProcessLookupError):
            os.kill(daemon, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(daemon, signal.SIGKILL)


def test_orphans_are_reaped(work: Start) -> None:
    worker = work("orphaning")
    orphan = line(worker).split()[1]
    assert line(worker) == "runs\n"
    wait_for(lambda: len(children(worker)) == 1)
    assert not Path("/proc", orphan).exists()
    end(worker)


@pytest.mark.parametrize(("word", "status"), [("polite", 5), ("plain", 128 + signal.SIGTERM)])
def test_sigterm_is_passed_on_and_the_status_is_the_command_s(work: Start, word: str, status: int) -> None:
    worker = work(word)
    assert line(worker) == "runs\n"
    assert end(worker) == ("asked to end\n" if word == "polite" else "")
    assert worker.returncode == status


def test_sigterm_while_the_command_ends_for_a_rest(release: Release, work: Start) -> None:
    worker = work("stubborn")
    assert line(worker) == "runs\n"
    rest(release)
    time.sleep(0.5)
    end(worker)
    assert worker.returncode == 0
    assert not rested(release).exists()


def test_a_command_that_ends_by_itself_ends_the_worker(work: Start) -> None:
    worker = work("short")
    assert worker.communicate(timeout=10)[0] == "runs\n"
    assert worker.returncode == 7


def test_a_job_ignores_a_rest(release: Release, work: Start) -> None:
    del release.variables["HOSTWRIGHT_WORKER"]
    rest(release)
    job = work("short")
    assert job.communicate(timeout=10)[0] == "runs\n"
    assert job.returncode == 7

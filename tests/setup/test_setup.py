"""Set-up: it can be killed and run again, and installs only what its purpose needs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
KILL_TIMES = (0.5, 5.0, 12.0)  # seconds after which set-up is killed: early, in the middle of pip, late in pip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this project's files in which set-up has not run."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, target, follow_symlinks=False)
    return tmp_path / "checkout"


def environment() -> dict[str, str]:
    """The environment without this run's virtual environment."""
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if ".venv" not in part)
    return {**{k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}, "PATH": path}


def test_set_up_that_was_killed_is_finished_by_the_next_one(checkout: Path) -> None:
    for seconds in KILL_TIMES:
        process = subprocess.Popen(
            ["scripts/setup"],
            cwd=checkout,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    subprocess.run(["scripts/setup"], cwd=checkout, env=environment(), stdin=subprocess.DEVNULL, check=True)
    documented = subprocess.run(
        [".venv/bin/ansible-doc", "hostwright.django.release"],
        cwd=checkout,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Starts a container of an image that is on the host" in " ".join(documented.stdout.split())


def test_set_up_names_the_python_it_needs(checkout: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        (programs / name).write_text("#!/bin/sh\necho Python 3.9.2\nexit 1\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["scripts/setup"],
        cwd=checkout,
        env={**environment(), "PATH": f"{programs}{os.pathsep}{environment()['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert not (checkout / ".venv").exists()


def set_up_without_engine(checkout: Path, tmp_path: Path, *words: str) -> tuple[int, list[str]]:
    """Set up with an Engine that does not answer; return the exit status and the calls of pip and system commands."""
    programs = tmp_path / "bin"
    programs.mkdir()
    calls = tmp_path / "calls"
    calls.touch()
    refusing = f'#!/bin/sh\necho "${{0##*/}} $*" >> {calls}\nexit 1\n'
    # A substitute for Python, also in the virtual environment that it makes.
    python = f"""#!/bin/sh
case "$*" in
    --version) echo Python 3.11.2 ;;
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip"*) echo "$*" >> {calls} ;;
esac
"""
    texts = {"python3": python, **dict.fromkeys(("docker", "dockerd", "apt-get", "apt-cache", "sudo", "sg"), refusing)}
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["scripts/setup", *words],
        cwd=checkout,
        env={
            **environment(),
            "PATH": f"{programs}{os.pathsep}{environment()['PATH']}",
            "DOCKER_HOST": "tcp://127.0.0.1:9",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.returncode, calls.read_text().splitlines()


def test_linters_and_unit_tests_need_the_virtual_environment_only(checkout: Path, tmp_path: Path) -> None:
    status, calls = set_up_without_engine(checkout, tmp_path, "check")
    assert status == 0
    (call,) = calls
    assert call.endswith("--requirement requirements-test.txt")
    link = checkout / ".ansible" / "collections" / "ansible_collections" / "hostwright" / "django"
    assert link.resolve() == checkout


def test_a_deployment_needs_an_engine(checkout: Path, tmp_path: Path) -> None:
    status, calls = set_up_without_engine(checkout, tmp_path)
    assert (status, calls) == (1, ["docker version"])


def test_the_groups_decide_what_is_set_up(checkout: Path) -> None:
    setup = checkout / "scripts" / "setup"
    setup.write_text('#!/bin/sh\necho "$*" > arguments\nexit 1\n')
    for words, purpose in (
        (["lint"], "check"), (["unit", "app"], "check"), (["lint", "setup"], "test"), ([], "test"), (["deep"], "test"),
    ):  # fmt: skip
        done = subprocess.run(
            ["scripts/test", *words], cwd=checkout, env=environment(), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (1, "0 passed, 1 failed\n")
        assert (checkout / "arguments").read_text().split() == [purpose]

"""Set-up that is killed and run again must end up whole."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
MOMENTS = (0.5, 5.0, 12.0)  # seconds after which set-up is killed: early, in the middle of pip, late in it


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of this project as it is, in which nothing was set up."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, target, follow_symlinks=False)
    return tmp_path / "checkout"


def environment() -> dict[str, str]:
    """Without this run's own virtual environment."""
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if ".venv" not in part)
    return {**{k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}, "PATH": path}


def test_set_up_that_was_killed_is_finished_by_the_next_one(checkout: Path) -> None:
    for seconds in MOMENTS:
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
    asked = subprocess.run(
        [".venv/bin/ansible-doc", "hostwright.django.release"],
        cwd=checkout,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Starts a container of an image that is on the host" in " ".join(asked.stdout.split())


def test_set_up_says_which_python_it_needs(checkout: Path, tmp_path: Path) -> None:
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

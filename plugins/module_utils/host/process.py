"""Programs of the host, run with a time limit and without a terminal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SEARCH_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/snap/bin")
NOT_FOUND = 127
TIMED_OUT = 124
KILLED = 128 + 9  # exit status for SIGKILL, as a shell and the Engine report it


@dataclass(frozen=True)
class Answer:
    """Result of a program: its exit status (127: program not found, 124: timed out) and its output."""

    status: int
    stdout: str = ""
    stderr: str = ""

    @property
    def ok(self) -> bool:
        """Whether the program ended with exit status 0."""
        return self.status == 0

    @property
    def end(self) -> str:
        """How the program ended, for a message."""
        if self.status == KILLED:
            return f"it was killed (exit status {KILLED}), probably because it ran out of memory"
        return f"it ended with exit status {self.status}"

    @property
    def said(self) -> str:
        """The program's output, for a message: standard error first, then standard output."""
        return "\n".join(part for part in (self.stderr.strip(), self.stdout.strip()) if part)


Runner = Callable[[Sequence[str]], Answer]


def search_path() -> str:
    """The login user's PATH, plus the directories of system programs."""
    given = [part for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    return os.pathsep.join([*given, *(part for part in SEARCH_PATH if part not in given)])


def run(command: Sequence[str], timeout: float = 30) -> Answer:
    """Run one program and return its result; a failure of the program raises nothing.

    Args:
        command: the program and its arguments.
        timeout: seconds after which it is killed.
    """
    environment = {**os.environ, "PATH": search_path(), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=timeout, env=environment
        )
    except (FileNotFoundError, PermissionError):
        return Answer(NOT_FOUND, stderr=f"no program '{command[0]}' on this host")
    except subprocess.TimeoutExpired:
        return Answer(TIMED_OUT, stderr=f"'{' '.join(command[:3])}' did not end within {timeout:.0f} s")
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

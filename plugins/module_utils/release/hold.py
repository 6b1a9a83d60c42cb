"""Requests that wait while a release commits: Nginx keeps them, until a deadline that it enforces itself.

The sign is a file whose modification time is the deadline. Whoever made it may die: Nginx lets go all the same.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..host import files

MARGIN = 1.0  # seconds before Nginx's deadline at which the committer gives up (facts of the prototype: 9 of 10)
LISTENING = "00010000"  # the flag of a listening socket in /proc/net/unix (SO_ACCEPTCON)
PAUSE = 0.01
LOOKS = 2  # in a row that must find nobody
BEAT = 2.0  # seconds between two signs of life of a maintenance window


class Gate:
    """One such file: ``hold`` keeps requests waiting, ``maintenance`` has them answered by 503.

    A release's ``rest`` is another one; the runtime of its workers reads it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.deadline = 0.0

    def shut(self, seconds: float) -> None:
        """Shut it for so many seconds from now, at once and whole: a rename."""
        self.deadline = time.time() + seconds
        pending = self.path.with_name(f".{self.path.name}.new")
        descriptor = files.create(pending, 0o644)  # the site may write beside a rest
        os.utime(descriptor, (self.deadline, self.deadline))
        os.close(descriptor)
        files.replace(pending, self.path)

    def open(self) -> None:
        """Let requests through again."""
        files.remove_tree(self.path)

    def left(self) -> float:
        """Seconds that the committer has left."""
        return self.deadline - MARGIN - time.time()


class RenewedGate(Gate):
    """A gate whose deadline is renewed: it stays shut for as long as this process lives."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._over = threading.Event()
        self._beat: threading.Thread | None = None

    def shut(self, seconds: float) -> None:
        """Shut it; it counts for ``seconds`` at most after this process has died."""
        super().shut(seconds)
        self._beat = threading.Thread(target=self._go_on, args=(seconds,), daemon=True)
        self._beat.start()

    def _go_on(self, seconds: float) -> None:
        while not self._over.wait(min(BEAT, seconds / 3)):
            self.deadline = time.time() + seconds
            # No file is made: the disk may be full by now. One that somebody has removed stays so; the guard will tell.
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path, (self.deadline, self.deadline), follow_symlinks=False)

    def open(self) -> None:
        """Let requests through again."""
        self._over.set()
        if self._beat:
            self._beat.join()
        super().open()

    def left(self) -> float:
        """Seconds that the committer has left: it may take its time."""
        return float("inf")


def connections(process: int, socket: str, proc: Path = Path("/proc")) -> int:
    """How many of Nginx's connections a release has not finished with.

    The kernel lists them in the network namespace of the side that connects, under the path that the release bound.

    Args:
        process: id of a process in Nginx's container.
        socket: path of the release's socket in the release's container.
        proc: where the kernel tells.
    """
    try:
        lines = (proc / str(process) / "net" / "unix").read_text().splitlines()[1:]
    except OSError:
        return 0  # no Nginx: nobody is connected
    named = [words for words in (line.split(maxsplit=7) for line in lines) if words[7:] == [socket]]
    return sum(1 for words in named if words[3] != LISTENING)


def drain(count: Callable[[], int], cap: float) -> float:
    """Wait until no connection is left, ``cap`` seconds at most; return the seconds it took.

    Twice in a row nobody must be there: a request that passed the gate right before may not have connected yet.
    """
    start = time.monotonic()
    free = 0
    while free < LOOKS and time.monotonic() - start < cap:
        free = 0 if count() else free + 1
        time.sleep(PAUSE)
    return time.monotonic() - start

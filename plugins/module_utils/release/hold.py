"""The hold: Nginx keeps requests waiting while a release commits, until a deadline that Nginx itself enforces.

A file signals the hold; its modification time is the deadline. If the process that made it dies, the hold still ends.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..host import files

MARGIN = 1.0  # seconds before Nginx's deadline at which the committer gives up
LISTENING = "00010000"  # the flag of a listening socket in /proc/net/unix (SO_ACCEPTCON)
PAUSE = 0.01
EMPTY_COUNTS = 2  # consecutive counts without a connection that end a drain
BEAT = 2.0  # seconds between two renewals of a gate's deadline


class Gate:
    """Such a file: for ``hold`` Nginx keeps requests waiting, for ``maintenance`` it answers 503.

    A release's ``rest`` pauses its workers; their runtime reads it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.deadline = 0.0

    def shut(self, seconds: float) -> None:
        """Shut it for ``seconds`` from now, atomically by a rename."""
        self.deadline = time.time() + seconds
        pending = self.path.with_name(f".{self.path.name}.new")
        descriptor = files.create(pending, 0o644)  # safe where the site may write, as in the directory of ``rest``
        os.utime(descriptor, (self.deadline, self.deadline))
        os.close(descriptor)
        files.replace(pending, self.path)

    def open(self) -> None:
        """Let requests through again."""
        files.remove_tree(self.path)

    def left(self) -> float:
        """Return the seconds that the committer has left."""
        return self.deadline - MARGIN - time.time()


class RenewedGate(Gate):
    """A gate that a thread renews: it stays shut while this process lives."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._over = threading.Event()
        self._beat: threading.Thread | None = None

    def shut(self, seconds: float) -> None:
        """Shut it; it stays shut for ``seconds`` at most after this process has died."""
        super().shut(seconds)
        self._beat = threading.Thread(target=self._renew, args=(seconds,), daemon=True)
        self._beat.start()

    def _renew(self, seconds: float) -> None:
        while not self._over.wait(min(BEAT, seconds / 3)):
            self.deadline = time.time() + seconds
            # The file is not made again: the disk may be full. If somebody has removed it, the guard's check fails.
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path, (self.deadline, self.deadline), follow_symlinks=False)

    def open(self) -> None:
        """Let requests through again."""
        self._over.set()
        if self._beat:
            self._beat.join()
        super().open()

    def left(self) -> float:
        """Return infinity: the deadline is renewed."""
        return float("inf")


def connections(process: int, socket: str, proc: Path = Path("/proc")) -> int:
    """Return the number of open connections from Nginx to a release.

    The kernel lists them in the network namespace of the connecting side, under the path that the release bound.

    Args:
        process: id of a process in Nginx's container.
        socket: path of the release's socket in the release's container.
        proc: mount point of procfs.
    """
    try:
        lines = (proc / str(process) / "net" / "unix").read_text().splitlines()[1:]
    except OSError:
        return 0  # Nginx does not run, so it has no connections
    return sum(words[7:] == [socket] and words[3] != LISTENING for words in (line.split(maxsplit=7) for line in lines))


def drain(count: Callable[[], int], cap: float) -> float:
    """Wait until no connection is left, ``cap`` seconds at most; return the seconds that it took.

    Two consecutive counts must be 0: a request that has just passed the gate may not be connected yet.
    """
    start = time.monotonic()
    free = 0
    while free < EMPTY_COUNTS and time.monotonic() - start < cap:
        free = 0 if count() else free + 1
        time.sleep(PAUSE)
    return time.monotonic() - start

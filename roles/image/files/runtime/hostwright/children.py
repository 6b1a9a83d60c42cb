"""Forked children: each does one task from this process's warm state, and answers over a socket.

A task that hangs, crashes or runs out of memory takes its own process with it and nothing else. No SQLite
connection may cross a fork (https://sqlite.org/howtocorrupt.html, 2.6): the parent has none open.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from hostwright.errors import HostwrightError

Answer = dict[str, Any]
Task = Callable[[socket.socket], Answer]

_LOG_LINES = 25
_LOG_BYTES = 16384
_CHUNK = 4096  # PIPE_BUF: a pipe that select calls writable takes as much without waiting.
_PR_SET_PDEATHSIG = 1  # prctl(2)


class ChildError(HostwrightError):
    """What a child had to do was not done.

    Attributes:
        log: what it wrote last, at most 25 lines.
        lost: whether it was ended by a signal or an exit, rather than said itself what went wrong.
    """

    def __init__(self, message: str, log: str, lost: bool) -> None:
        super().__init__(message)
        self.log = log
        self.lost = lost


class Child:
    """A process that is forked to do one task, and that does not outlive this one, however this one ends.

    Attributes:
        descriptors: become readable when there is something to ``poll``.
    """

    def __init__(self, task: Task) -> None:
        """Fork.

        Args:
            task: gets the child's end of the socket, for more than one exchange; what it returns is its last answer.
                All that it and the project's code print is the log.
        """
        self._socket, theirs = socket.socketpair()
        self._log, log = os.pipe()
        self.descriptors = {self._socket.fileno(), self._log}
        self._tail = self._received = b""
        self._status: int | None = None
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        # The parent's handlers must not run in the child.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _be_child(task, theirs, log, parent)
            with contextlib.suppress(OSError):
                os.setpgid(self._pid, self._pid)  # Whoever of the two comes first; the child does it too.
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        os.close(log)
        self._socket.setblocking(False)
        os.set_blocking(self._log, False)

    def send(self, word: str) -> None:
        """Send one line; a child that has ended does not get it, and ``poll`` will say so."""
        with contextlib.suppress(OSError):
            self._socket.send(word.encode() + b"\n")

    def poll(self) -> Answer | None:
        """Look for the child's next answer, without waiting.

        Returns:
            None if there is none yet.

        Raises:
            ChildError: the child says what went wrong, or has ended without an answer.
        """
        ended = self._has_ended()  # Asked first: what it sent before it ended can be read.
        self._read_log()
        self._received += self._read(self._socket.fileno()) or b""
        line, newline, rest = self._received.partition(b"\n")
        if not newline:
            if ended:
                raise ChildError(self._how_it_ended(), self.log, lost=True)
            return None
        self._received = rest
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise ChildError(answer["error"], self.log, lost=False)
        return answer

    @property
    def log(self) -> str:
        """The last lines that the child wrote."""
        self._read_log()
        return "\n".join(self._tail.decode(errors="replace").splitlines()[-_LOG_LINES:])

    def wait(self) -> None:
        """Wait until the child ends of itself, or by somebody's signal."""
        if self._status is None:
            self._status = os.waitpid(self._pid, 0)[1]

    def close(self) -> None:
        """End the child at once, and what it has started and left behind."""
        with contextlib.suppress(OSError):
            os.killpg(self._pid, signal.SIGKILL)
        self.wait()
        self._read_log()
        self._socket.close()
        os.close(self._log)

    def _has_ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is not None

    def _how_it_ended(self) -> str:
        status = os.waitstatus_to_exitcode(self._status or 0)
        if status >= 0:
            return f"the process ended without an answer, with exit status {status}"
        killed = " (it may have run out of memory)" if -status == signal.SIGKILL else ""
        return f"the process was ended by {signal.Signals(-status).name}{killed}"

    def _read(self, descriptor: int) -> bytes | None:
        """Return what is there to read; None if nothing is, or never will be again."""
        try:
            found = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            found = b""
        if not found:
            self.descriptors.discard(descriptor)
        return found or None

    def _read_log(self) -> None:
        while chunk := self._read(self._log):
            self._tail = (self._tail + chunk)[-_LOG_BYTES:]
            # Somebody who does not read what this process says must not keep it from enforcing limits.
            with contextlib.suppress(OSError):
                if select.select([], [2], [], 0)[1]:
                    os.write(2, chunk)


def tell(channel: socket.socket, answer: Answer) -> None:
    """Send an answer from a child to its parent."""
    channel.sendall(json.dumps(answer).encode() + b"\n")


def _be_child(task: Task, channel: socket.socket, log: int, parent: int) -> NoReturn:
    """Do the task and answer; the stack below this function and Python's own end are the parent's."""
    try:
        answer: Answer = {"error": "the process was interrupted"}
        try:
            _become_independent(log, parent)
            answer = task(channel)
        except HostwrightError as error:
            answer = {"error": str(error)}
        except (Exception, SystemExit) as error:  # noqa: BLE001 (the parent gets it)
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.flush()
        sys.stderr.flush()
        tell(channel, answer)
    finally:
        os._exit(0)


def _become_independent(log: int, parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    os.setpgid(0, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

"""Forked child processes: each runs one task with the modules that the parent has loaded, and answers over a socket.

A task that hangs, crashes or runs out of memory ends its own process only. No SQLite connection may be carried across
a fork (https://sqlite.org/howtocorrupt.html, 2.6): the parent has none open.
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
_CHUNK = 4096  # PIPE_BUF: a write of this size to a pipe that select reports as writable does not block.
_PR_SET_PDEATHSIG = 1  # prctl(2)


class ChildError(HostwrightError):
    """A child's task failed.

    Attributes:
        log: the last lines of the child's output, at most 25.
        lost: True if the child ended without an answer (by a signal or an exit); False if it reported the error itself.
    """

    def __init__(self, message: str, log: str, lost: bool) -> None:
        super().__init__(message)
        self.log = log
        self.lost = lost


class Child:
    """A forked process that runs one task. It never outlives its parent, however the parent ends.

    Attributes:
        descriptors: readable when ``poll`` may have something to return.
    """

    def __init__(self, task: Task) -> None:
        """Fork.

        Args:
            task: receives the child's end of the socket, for tasks with more than one exchange. Its return value is
                the last answer. All output of the task and of the project's code is the log.
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
                os.setpgid(self._pid, self._pid)  # The child does this too: whichever is first.
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        os.close(log)
        self._socket.setblocking(False)
        os.set_blocking(self._log, False)

    def send(self, word: str) -> None:
        """Send one line. If the child has ended the line is lost, and ``poll`` raises the error."""
        with contextlib.suppress(OSError):
            self._socket.send(word.encode() + b"\n")

    def poll(self) -> Answer | None:
        """Return the child's next answer, without waiting; None if there is none yet.

        Raises:
            ChildError: the child has reported an error, or has ended without an answer.
        """
        ended = self._has_ended()  # Before the read: an answer sent before the end must still be read.
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
        """The last lines of the child's output."""
        self._read_log()
        return "\n".join(self._tail.decode(errors="replace").splitlines()[-_LOG_LINES:])

    def wait(self) -> None:
        """Wait until the child ends by itself or by a signal."""
        if self._status is None:
            self._status = os.waitpid(self._pid, 0)[1]

    def close(self) -> None:
        """Kill the child and all processes of its group."""
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
        """Return available bytes; None if there are none, or the other end is closed."""
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
            # A reader of standard error that does not read must not block this process: it enforces the limits.
            with contextlib.suppress(OSError):
                if select.select([], [2], [], 0)[1]:
                    os.write(2, chunk)


def send_answer(channel: socket.socket, answer: Answer) -> None:
    """Send an answer from a child to its parent."""
    channel.sendall(json.dumps(answer).encode() + b"\n")


def _be_child(task: Task, channel: socket.socket, log: int, parent: int) -> NoReturn:
    """Run the task, answer and exit at once: the callers below and Python's exit handlers belong to the parent."""
    try:
        answer: Answer = {"error": "the process was interrupted"}
        try:
            _become_independent(log, parent)
            answer = task(channel)
        except HostwrightError as error:
            answer = {"error": str(error)}
        except (Exception, SystemExit) as error:  # noqa: BLE001 (sent to the parent)
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.flush()
        sys.stderr.flush()
        send_answer(channel, answer)
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

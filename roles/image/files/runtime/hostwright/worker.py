"""A worker: a management command that runs while its release is live, and is stopped while another release commits.

The container keeps running while the command is stopped. If the committer stopped the container instead and then died,
nobody would start it again: the Engine does not restart a container that was stopped by hand, even after a reboot. So
the committer creates a file ``rest`` beside the release's socket. Its modification time is a deadline: the command does
not run before it. When no process of the command is left, the worker creates the file ``rested-<worker>``.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hostwright import current
from hostwright.configuration import Configuration

_PAUSE = 0.25
_PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
_END = {signal.SIGTERM, signal.SIGINT}
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Worker:
    """The parent process of the command and of the command's orphans."""

    def __init__(self, release: Configuration, name: str, words: Sequence[str]) -> None:
        """Prepare to run a command.

        Args:
            release: configuration of this release; ``stop_timeout`` limits how long the command may take to end.
            name: name of the worker.
            words: the command and its arguments, as for ``manage.py``.
        """
        self._release = release
        self._own = current.number()
        self._rest = release.require_socket().with_name("rest")
        self._rested = self._rest.with_name(f"rested-{name}")
        self._words = words
        self._command = 0
        self._status = 0
        self._asked_to_end = False

    def run(self) -> NoReturn:
        """Run the command whenever it may run. When it ends by itself, exit with its exit status.

        Signals are passed on to the command. While it does not run, SIGTERM ends this process with exit status 0.
        """
        # The first process of a container receives a signal only if it handles it, or blocks and fetches it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # Adopts orphans even if it is not the first process.
        while True:
            self._wait()
            arguments = [sys.executable, "manage.py", *self._words]
            sys.stdout.flush()
            self._command = os.posix_spawn(sys.executable, arguments, os.environ, setpgroup=0, setsigmask=())
            self._watch()
            self._end()

    def _resting(self) -> bool:
        try:
            return self._rest.stat().st_mtime > time.time()
        except OSError:
            return False

    def _may_run(self) -> bool:
        # The order matters: the committer renames current before it removes the file.
        return not self._resting() and current.live(self._release) == self._own

    def _wait(self) -> None:
        """Wait until the command may run. Until then neither Django nor the database is used."""
        reported = ""
        while not self._may_run():
            if self._resting():
                self._rested.touch()
            reason = self._reason()
            if reason != reported:
                print(f"hostwright: {reason}.", flush=True)
                reported = reason
            self._fetch_signal()
            self._reap()
            if self._asked_to_end:
                self._rested.unlink(missing_ok=True)
                sys.exit(0)
        self._rested.unlink(missing_ok=True)  # Made by this process, or by one that was killed.

    def _reason(self) -> str:
        if current.live(self._release) == self._own:
            return f"release {self._own} rests while another release is committed"
        return current.reason(self._release)

    def _watch(self) -> None:
        """Wait until the command may no longer run. If it ends before that, exit with its status."""
        while self._asked_to_end or self._may_run():
            received = self._fetch_signal()
            if received:
                os.kill(self._command, received)
            self._reap()
            if not self._command:
                sys.exit(self._status)

    def _end(self) -> None:
        """End the command and all its descendants; kill what runs longer than ``stop_timeout``."""
        until = time.monotonic() + self._release.server.stop_timeout
        os.killpg(self._command, signal.SIGTERM)
        while self._reap():
            if time.monotonic() > until:
                self._kill_children()
            self._fetch_signal()

    def _kill_children(self) -> None:
        """Kill the direct children. Their own children then become children of this process."""
        own = os.getpid()
        for child in Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)

    def _fetch_signal(self) -> int:
        """Wait for a short time; return the signal to pass on to the command, or 0."""
        received = signal.sigtimedwait({*_PASSED_ON, signal.SIGCHLD}, _PAUSE)
        number = received.si_signo if received else 0
        self._asked_to_end = self._asked_to_end or number in _END
        return number if number in _PASSED_ON else 0

    def _reap(self) -> bool:
        """Reap children that have ended, including orphans; return whether any are left."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._command:
                    code = os.waitstatus_to_exitcode(ended[1])
                    self._status = code if code >= 0 else 128 - code  # the convention of shells and Docker for a signal
                    self._command = 0
            return True
        return False

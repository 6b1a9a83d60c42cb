"""A site's background process: a management command that runs while its release is live, and rests while one commits.

The container goes on while the command rests: the Engine would remember a container that was stopped by hand, after
a reboot too, and nobody would start it again if the committer died. So the committer makes a file ``rest`` beside the
release's socket, whose modification time is a deadline: while that lies ahead, the command does not run. That nothing
of it runs any more is answered by a file ``rested-<worker>``.
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
    """The parent of the command, and of whatever that leaves behind."""

    def __init__(self, release: Configuration, name: str, words: Sequence[str]) -> None:
        """Take what to run.

        Args:
            release: this one; it decides how long the command may take to end.
            name: the worker's.
            words: the command and its arguments, as ``manage.py`` gets them.
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
        """Run the command whenever it may run, and end with its exit status as soon as it ends by itself.

        SIGTERM is passed on to it; while it does not run, SIGTERM ends this process with exit status 0.
        """
        # As the first process of a container this one gets a signal only if it is handled, or blocked and fetched.
        signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # It is given orphans even if it is not the first one.
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
        # In this order: the committer renames current first and then removes the file.
        return not self._resting() and current.named(self._release) == self._own

    def _wait(self) -> None:
        """Return when the command may run, without Django and without the database until then."""
        said = ""
        while not self._may_run():
            if self._resting():
                self._rested.touch()
            reason = self._reason()
            if reason != said:
                print(f"hostwright: {reason}.", flush=True)
                said = reason
            self._fetch_signal()
            self._reap()
            if self._asked_to_end:
                self._rested.unlink(missing_ok=True)
                sys.exit(0)
        self._rested.unlink(missing_ok=True)  # This process has made it, or one that was killed.

    def _reason(self) -> str:
        if current.named(self._release) == self._own:
            return f"release {self._own} rests while another one is committed"
        return current.reason(self._release)

    def _watch(self) -> None:
        """Return when the command may not run any more; end with it if it ends before that."""
        while self._asked_to_end or self._may_run():
            received = self._fetch_signal()
            if received:
                os.kill(self._command, received)
            self._reap()
            if not self._command:
                sys.exit(self._status)

    def _end(self) -> None:
        """End the command and all that it has started; who takes longer than ``stop_timeout`` is killed."""
        until = time.monotonic() + self._release.server.stop_timeout
        os.killpg(self._command, signal.SIGTERM)
        while self._reap():
            if time.monotonic() > until:
                self._kill_children()
            self._fetch_signal()

    def _kill_children(self) -> None:
        """Kill what has no parent but this process; what those have started becomes its child then."""
        own = os.getpid()
        for child in Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)

    def _fetch_signal(self) -> int:
        """Wait for a moment; return the signal that the command is to get, 0 if there is none."""
        received = signal.sigtimedwait({*_PASSED_ON, signal.SIGCHLD}, _PAUSE)
        number = received.si_signo if received else 0
        self._asked_to_end = self._asked_to_end or number in _END
        return number if number in _PASSED_ON else 0

    def _reap(self) -> bool:
        """Take leave of children that have ended, orphans too; return whether there are others."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._command:
                    code = os.waitstatus_to_exitcode(ended[1])
                    self._status = code if code >= 0 else 128 - code  # as shells and Docker tell of a signal
                    self._command = 0
            return True
        return False

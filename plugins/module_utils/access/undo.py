"""A dead man's switch: a change of files that goes back by itself unless somebody confirms it.

What the files said before is kept on disk, with a script that puts it back, before the first of them is touched. A
timer of systemd runs the script, and so does the next boot, so that a host that is switched off and on again comes back
as it was. One rename decides who was first: ``armed`` becomes ``confirmed``, or ``undoing`` and then ``undone``.

The unit that undoes, hostwright-undo.service, belongs to the role hardening.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ..host.files import fsync, write_durably
from ..host.problems import Problem, ProblemError
from ..host.process import Runner

SERVICE = "hostwright-undo.service"
TIMER = "hostwright-undo.timer"
PATIENCE = 20  # seconds for an undoing that is under way


class Undo:
    """The switch of a host; ``directory`` holds its state."""

    def __init__(self, directory: Path, run: Runner) -> None:
        self.directory = directory
        self.run = run

    @property
    def armed(self) -> bool:
        """Whether a change waits to be confirmed."""
        return self._at("armed").exists()

    def arm(self, paths: Sequence[Path], commands: Sequence[str], seconds: int) -> None:
        """Keep what the files say now, and have it put back after a time.

        Args:
            paths: the files that are going to change, or to come, or to go.
            commands: lines of shell that put the files into effect when they are back. They run at boot too, before
                other services, so they must not wait for any.
            seconds: how long to wait for ``confirm``.

        Raises:
            ProblemError: systemd does not take the timer; nothing was changed.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("arming", "confirmed", "undone"):
            shutil.rmtree(self._at(name), ignore_errors=True)
        arming = self._at("arming")
        arming.mkdir(mode=0o700)
        lines = ["#!/bin/sh", "set -e"]
        for number, path in enumerate(paths):
            if path.exists():
                shutil.copy2(path, arming / str(number))
                fsync(arming / str(number))
                kept = f"{self._at('undoing')}/{number}"
                lines.append(f"cp --preserve=mode,timestamps {shlex.quote(kept)} {shlex.quote(str(path))}")
            else:
                lines.append(f"rm -f {shlex.quote(str(path))}")
        write_durably(arming / "undo", "\n".join([*lines, "sync", *commands, ""]), 0o700, os.geteuid(), os.getegid())

        self.run(["systemctl", "stop", TIMER])
        started = self.run(
            [
                "systemd-run",
                "--quiet",
                f"--unit={SERVICE}",
                f"--on-active={seconds}s",
                "--timer-property=AccuracySec=200ms",
            ]
        )
        if not started.ok:
            raise ProblemError(
                Problem(
                    "systemd does not take the timer that would undo the change; nothing was changed",
                    started.said or "systemd-run",
                    f"see 'systemctl status {SERVICE} {TIMER}' on the host, then run again",
                )
            )
        arming.rename(self._at("armed"))
        fsync(self.directory)

    def confirm(self) -> None:
        """Keep the change.

        Raises:
            ProblemError: it is too late, the change is undone; or there is none.
        """
        try:
            self._at("armed").rename(self._at("confirmed"))
        except FileNotFoundError:
            self._wait()
            late = self._at("undone").exists()
            self._forget()
            raise ProblemError(
                Problem(
                    "no new connection came in time after the firewall or SSH was changed, so the change was undone: "
                    "the host is as it was before"
                    if late
                    else "there is no change to confirm: somebody else has confirmed it or replaced it",
                    str(self.directory),
                    "look for what cuts SSH in hardening_extra_rules and hardening_ssh_settings; where the host is "
                    "only slow, raise hardening_undo_seconds; then run again"
                    if late
                    else "run again",
                )
            ) from None
        self._forget()

    def undo(self) -> None:
        """Undo an unconfirmed change now.

        Raises:
            ProblemError: it cannot be undone.
        """
        answer = self.run(["systemctl", "start", SERVICE])
        self._wait()
        if not answer.ok or not self._at("undone").exists():
            raise ProblemError(
                Problem(
                    "a change of the firewall or SSH that was not confirmed cannot be undone",
                    answer.said or str(self.directory),
                    f"see 'journalctl -u {SERVICE}' on the host",
                )
            )
        self._forget()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._at("undoing").exists() and time.monotonic() < deadline:
            time.sleep(0.1)

    def _forget(self) -> None:
        self.run(["systemctl", "stop", TIMER])
        for name in ("confirmed", "undone"):
            shutil.rmtree(self._at(name), ignore_errors=True)

    def _at(self, name: str) -> Path:
        return self.directory / name

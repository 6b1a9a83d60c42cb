"""A dead man's switch: a change of files that is undone unless it is confirmed.

Before the first file changes, copies of the files and a script that restores them are written to disk. A systemd timer
runs the script, and so does the next boot, so that a host that is power-cycled comes back as it was. One rename decides
between the two outcomes: ``armed`` becomes ``confirmed``, or ``undoing`` and then ``undone``.

The role hardening installs the unit that undoes the change, hostwright-undo.service.
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
UNDO_TIME = 20  # seconds to wait for an undo in progress


class Undo:
    """The dead man's switch of a host; ``directory`` contains its state."""

    def __init__(self, directory: Path, run: Runner) -> None:
        self.directory = directory
        self.run = run

    @property
    def armed(self) -> bool:
        """Whether a change is unconfirmed."""
        return self._at("armed").exists()

    def arm(self, paths: Sequence[Path], commands: Sequence[str], seconds: int) -> None:
        """Save the files, and start the timer that restores them.

        Args:
            paths: the files that will be changed, created or removed.
            commands: shell commands that activate the restored files. They also run at boot, before other services,
                so they must not wait for a service.
            seconds: how long to wait for ``confirm``.

        Raises:
            ProblemError: systemd refuses the timer; nothing was changed.
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
        timer = ["systemd-run", "--quiet", f"--unit={SERVICE}", f"--on-active={seconds}s"]
        started = self.run([*timer, "--timer-property=AccuracySec=200ms"])
        if not started.ok:
            raise ProblemError(
                Problem(
                    "systemd refuses the timer that would undo the change; nothing was changed",
                    started.said or "systemd-run",
                    f"see 'systemctl status {SERVICE} {TIMER}' on the host, then run again",
                )
            )
        arming.rename(self._at("armed"))
        fsync(self.directory)

    def confirm(self) -> None:
        """Keep the change.

        Raises:
            ProblemError: the change was undone already; or there is none.
        """
        try:
            self._at("armed").rename(self._at("confirmed"))
        except FileNotFoundError:
            self._wait()
            late = self._at("undone").exists()
            self._clean_up()
            raise ProblemError(
                Problem(
                    "no new connection came in time after the firewall or SSH was changed, so the change was undone: "
                    "the host is as it was before"
                    if late
                    else "there is no change to confirm: another run has confirmed or replaced it",
                    str(self.directory),
                    "find the cause in hardening_extra_rules and hardening_ssh_settings; if the host is just slow, "
                    "raise hardening_undo_seconds; then run again"
                    if late
                    else "run again",
                )
            ) from None
        self._clean_up()

    def undo(self) -> None:
        """Undo an unconfirmed change now.

        Raises:
            ProblemError: the change cannot be undone.
        """
        answer = self.run(["systemctl", "start", SERVICE])
        self._wait()
        if not answer.ok or not self._at("undone").exists():
            raise ProblemError(
                Problem(
                    "an unconfirmed change of the firewall or SSH cannot be undone",
                    answer.said or str(self.directory),
                    f"see 'journalctl -u {SERVICE}' on the host",
                )
            )
        self._clean_up()

    def _wait(self) -> None:
        deadline = time.monotonic() + UNDO_TIME
        while self._at("undoing").exists() and time.monotonic() < deadline:
            time.sleep(0.1)

    def _clean_up(self) -> None:
        self.run(["systemctl", "stop", TIMER])
        for name in ("confirmed", "undone"):
            shutil.rmtree(self._at(name), ignore_errors=True)

    def _at(self, name: str) -> Path:
        return self.directory / name

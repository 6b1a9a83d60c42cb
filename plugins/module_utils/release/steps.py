"""The steps of a release, and the current one."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from .errors import ReleaseError


class Step(StrEnum):
    """The steps of a release, in their order; a message begins with ``could not {step}: ``.

    ``Progress.at`` replaces ``{}`` by a name.
    """

    BEGIN = "begin"
    READ_SETTINGS = "read the settings"
    CHOOSE_BACKUP = "choose the backup"
    SWEEP = "tidy up after an unfinished release"
    READ_LIVE = "read the live release's record"
    START_LIVE = "start the live release again"
    CHOOSE_RELEASE = "choose the release to go back to"
    CHECK_BACKUP = "check the backup's files"
    PREPARE = "prepare the release"
    UNPACK = "verify and unpack {}"
    STOP_LIVE = "stop the live release, whose database cannot be guarded"
    LOAD = "load the project and its migrations"
    COMPARE_RESTORED = "compare the restored database with the code"
    COMPARE_IMPORTED = "compare the imported database with the code"
    CHOOSE_SCHEMA = "choose the schema"
    CHOOSE_DATABASE = "choose the database"
    BEFORE = "run '{}' before the release"
    REHEARSE = "rehearse the migrations on a copy of the database"
    START = "start the new release"
    WAIT_LOADED = "wait until the new release has loaded"
    REST = "pause the workers of the old release"
    HOLD = "hold requests"
    DRAIN = "drain the old release"
    GUARD = "guard the old database"
    COPY = "copy the database into a new generation"
    MIGRATE = "migrate the new database generation"
    WAIT_READY = "wait until the new release is ready"
    COMMIT = "commit"
    RETIRE = "retire the old release"
    AFTER = "run '{}' after the {}"


class Progress:
    """The current step, for messages and, in a file, for other processes."""

    def __init__(self, path: Path) -> None:
        """``path``: file that publishes the current step."""
        self.step: str = Step.BEGIN.value
        self._path = path

    def at(self, step: Step, *names: str) -> None:
        """Begin a step. On a full disk it is not published, so that what fills the disk can be removed."""
        self.step = step.value.format(*names)
        with suppress(OSError):
            self._path.write_text(f"{self.step}\n")

    def error(self, message: str, log: str = "") -> ReleaseError:
        """Return the failure of the current step."""
        return ReleaseError(self.step, message, log)

    def over(self) -> None:
        """Remove the published step; ``step`` stays."""
        self._path.unlink(missing_ok=True)

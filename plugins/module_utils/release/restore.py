"""A restore, an import, a rebuild: a release on a database generation that is filled from a backup or a file.

Unpacking, migrating, starting and probing happen beside the live release, on a separate generation. Requests wait only
while the new release takes over.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract import BACKUPS, MEDIA
from .backups import Backup
from .errors import ReleaseError
from .generation import database
from .getting_ready import begin
from .migrator import Migrator, MigratorError, tail
from .spec import Command
from .steps import Step

if TYPE_CHECKING:
    from .transaction import Draft, Transaction

OUTPUT_LINES = 5  # of the runtime's output, in a message
TIME_LIMIT = 3600.0  # default seconds for verification and unpacking


@dataclass(frozen=True)
class Source:
    """The source of a generation: a backup in a directory, or a database file there."""

    directory: Path
    backup: Backup | None = None
    file: str = ""

    @property
    def name(self) -> str:
        """The backup's id, or the file's name."""
        return self.backup.id if self.backup else self.file

    @property
    def bytes(self) -> int:
        """Size of the database, in bytes; for a packed file, the file's size."""
        if self.backup:
            return self.backup.bytes
        parts = (self.directory / f"{self.file}{suffix}" for suffix in ("", "-wal"))
        return sum(path.stat().st_size for path in parts if path.exists())

    def words(self, target: str) -> list[str]:
        """Return the runtime's verb that fills ``target``, and its arguments."""
        if self.backup:
            source = ["--output", BACKUPS, "--backup", self.backup.id, "--media", MEDIA]
        else:
            source = ["--file", f"{BACKUPS}/{self.file}"]
        return ["restore", *source, "--target", target]


@dataclass(frozen=True)
class RestoreRequest:
    """The options of a restore.

    ``hold_seconds`` is how long requests may wait, ``post_restore`` the commands that follow, ``time_limit`` the
    seconds for verification and unpacking.
    """

    hold_seconds: float = 10.0
    maintenance: bool = False
    post_restore: tuple[Command, ...] = ()
    time_limit: float = TIME_LIMIT


@dataclass
class Restore:
    """The way to get a release ready on a restored generation, and what has come of it.

    ``began`` is when the restore began, in seconds since 1970; ``answer`` is the runtime's. ``lost`` says that the live
    release's database was missing, ``unguarded`` why it could not be guarded.
    """

    source: Source
    time_limit: float
    began: float = field(default_factory=time.time)
    answer: dict[str, Any] = field(default_factory=dict)
    lost: bool = False
    unguarded: str = ""

    def __call__(self, transaction: Transaction) -> None:
        """Fill a generation, migrate it and serve it; then stop the old release, if there is one, from writing."""
        old = transaction.old
        if old is None:
            begin(transaction)
        self._unpack(transaction)
        if old:
            self.lost = not (transaction.site.generation(old.record.generation) / "db.sqlite3").is_file()
            if self.lost:
                old.stop()
        migrator = self._migrate(transaction)
        transaction.serve()
        if old is None:
            return
        if not self.lost:
            old.pause_workers()
            try:
                old.hold(migrator)
                return
            except MigratorError as error:
                self.unguarded = str(error)
            old.stop()
        transaction.draft.end_migrator()  # no process is left that could write, so no guard is needed

    def audit_fields(self, draft: Draft) -> dict[str, Any]:
        """Return the audit log's further fields of a restore."""
        measured = {"rpo_seconds": self._rpo, "rto_seconds": self._rto(draft)}
        return {
            "what": "restore" if self.source.backup else "import",
            "backup": self.source.name,
            **{name: round(value) for name, value in measured.items() if value},
        }

    def result(self, draft: Draft) -> dict[str, Any]:
        """Return the further fields of a module's result."""
        content = self.answer.get("manifest", self.answer)
        return {
            "backup": self.source.name,
            "backup_time": self.source.backup.manifest["time"] if self.source.backup else "",
            "rows_total": content.get("rows_total"),
            "media_restored": self.answer.get("media_restored", 0),
            "rpo_seconds": None if self._rpo is None else round(self._rpo),
            "rto_seconds": round(self._rto(draft), 1),
            "live_database_missing": self.lost,
            "live_database_problem": self.unguarded,
        }

    @property
    def _rpo(self) -> float | None:
        """Age of the backup when the restore began, in seconds; None for an imported file."""
        return self.began - self.source.backup.moment if self.source.backup else None

    def _rto(self, draft: Draft) -> float:
        """Seconds from the beginning until the site served the restored database, 0 if it does not."""
        return draft.committed - self.began if draft.committed else 0.0

    def _unpack(self, transaction: Transaction) -> None:
        """Have the runtime verify the source and fill the new generation from it.

        Raises:
            ReleaseError: the disk is too small, or the source is damaged.
        """
        source, progress, containers = self.source, transaction.progress, transaction.containers
        progress.at(Step.UNPACK, source.name)
        media = source.backup.missing_media_bytes(transaction.site.media) if source.backup else 0
        transaction.require_room(source.bytes + media, f"the database of {source.name}")
        transaction.make_generation()
        containers.remove(containers.helper)
        draft, spec = transaction.draft, transaction.spec
        filler = containers.filler(spec, draft.number, source.directory, *source.words(database(draft.generation)))
        done = transaction.engine.run(filler, self.time_limit)
        if done.status != 0:
            reason = ": ".join(filter(None, (done.end, tail(done.said, OUTPUT_LINES).rstrip("."))))
            kept = "The database was not changed; some missing uploads may be back" if media else "Nothing was changed"
            raise progress.error(f"{reason}. {kept}")
        try:
            self.answer = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError) as error:
            reason = f"the runtime in {spec.image} cannot restore: rebuild the image"
            raise progress.error(reason, tail(done.said)) from error

    def _migrate(self, transaction: Transaction) -> Migrator:
        """Bring the restored database to the schema of the code.

        Raises:
            ReleaseError: it is newer than the code, or a migration failed.
        """
        migrator = transaction.load_project()
        draft, spec, name = transaction.draft, transaction.spec, self.source.name
        if self.source.backup is None and draft.pending and not draft.found.get("applied"):
            raise ReleaseError(
                Step.COMPARE_IMPORTED,
                f"{name} has none of Django's migrations: it is empty, or the database of another program. "
                "Nothing was changed",
            )
        back = self.answer.get("media_restored", 0)
        kept = f"The database was not changed; missing uploads are back: {back}" if back else "Nothing was changed"
        # Rows of removed applications and of squashed migrations stay in Django's table; the same code ran with them.
        if draft.unknown and self._image != spec.image:
            raise ReleaseError(
                Step.COMPARE_RESTORED,
                f"{name} has migrations that {spec.image} lacks, so it is newer than the code: "
                f"{', '.join(draft.unknown)}. {self._remedy(transaction)} {kept}",
            )
        transaction.migrate(migrator, spec.migrate_timeout, draft.pending)
        return migrator

    @property
    def _image(self) -> str:
        """The image that made the backup; empty for an imported file."""
        return str(self.source.backup.manifest["image"]) if self.source.backup else ""

    def _remedy(self, transaction: Transaction) -> str:
        """Return a sentence that says how to get the code that the backup needs."""
        image = self._image
        if not image:
            return (
                "Deploy the version that has them, then restore again. If they belong to permanently removed "
                "applications, delete their rows from its table django_migrations before."
            )
        version = image.rpartition(":")[2]
        if transaction.engine.image(image) is None:
            return f"It was made by {image}, which is not on this host: deploy version {version}, then restore again."
        kept = [number for number, record in transaction.site.records().items() if record.image == image]
        way = f"playbooks/rollback.yml -e rollback_to={kept[-1]}" if kept else f"deploy.yml -e site_version={version}"
        return f"It was made by {image}, which is on this host: make that the live release ({way}), then restore again."

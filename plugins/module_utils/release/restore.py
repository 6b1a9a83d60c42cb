"""Restore a site: a release of the same image on a database generation that is filled from a backup or a file.

All of it happens beside the live release, on a generation of its own: unpacking, migrating, starting, probing. Requests
wait only while the live one is left.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..contract import BACKUPS, MEDIA
from ..host.files import make_directory, write_durably
from .backups import Backup, Protected, check
from .errors import ReleaseError
from .generation import Move, database
from .hold import Maintenance
from .migrator import Migrator, MigratorError, tail
from .record import Record
from .rollback import wish_of
from .site import APP_GID, APP_UID
from .spec import Command, Spec
from .transaction import MAINTENANCE_SECONDS, Attempt, Outcome, Releaser

SAID_LINES = 5
KEPT_RELEASES = 2  # at least: the way back from a restore is the release before it


@dataclass(frozen=True)
class Source:
    """What a generation is filled from: a backup of a directory, or, with ``file``, a database that lies in it."""

    directory: Path
    backup: Backup | None = None
    file: str = ""

    @property
    def name(self) -> str:
        """What it is called: a backup by its id."""
        return self.backup.id if self.backup else self.file

    @property
    def bytes(self) -> int:
        """Size of the database that it gives; of a file that is packed, its own."""
        if self.backup:
            return self.backup.bytes
        parts = (self.directory / f"{self.file}{suffix}" for suffix in ("", "-wal"))
        return sum(path.stat().st_size for path in parts if path.exists())

    def words(self, target: str) -> list[str]:
        """The runtime's verb that fills ``target``, and its arguments."""
        if self.backup:
            source = ["--output", BACKUPS, "--backup", self.backup.id, "--media", MEDIA]
        else:
            source = ["--file", f"{BACKUPS}/{self.file}"]
        return ["restore", *source, "--target", target]


@dataclass(frozen=True)
class Wish:
    """How a restore is wanted: seconds that requests may wait, commands after it, seconds that unpacking may take."""

    hold_seconds: float = 10.0
    maintenance: bool = False
    post_restore: tuple[Command, ...] = ()
    time_limit: float = 3600.0


@dataclass
class Restored:
    """What a restore did, as far as it has come.

    ``rpo`` is the age of the backup when the restore began, ``rto`` the seconds until the site served it; ``lost`` says
    that the live release's database was not there any more, ``unguarded`` why it could not be guarded.
    """

    source: Source
    began: float
    answer: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    rto: float = 0.0
    lost: bool = False
    unguarded: str = ""

    @property
    def rpo(self) -> float | None:
        """Seconds between the backup and the beginning; None of an imported file."""
        return self.began - self.source.backup.moment if self.source.backup else None

    def told(self) -> dict[str, Any]:
        """What the audit log says of it besides what it says of every release."""
        measured = {"rpo_seconds": self.rpo, "rto_seconds": self.rto}
        return {
            "what": "restore" if self.source.backup else "import",
            "backup": self.source.name,
            **{name: round(value) for name, value in measured.items() if value},
        }

    def result(self) -> dict[str, Any]:
        """What a module returns besides what it returns of every release."""
        of = self.answer.get("manifest", self.answer)
        return {
            "backup": self.source.name,
            "backup_time": self.source.backup.manifest["time"] if self.source.backup else "",
            "rows_total": of.get("rows_total"),
            "media_restored": self.answer.get("media_restored", 0),
            "rpo_seconds": None if self.rpo is None else round(self.rpo),
            "rto_seconds": round(self.rto, 1),
            "live_database_missing": self.lost,
            "live_database_problem": self.unguarded,
        }


class Restorer(Releaser):
    """Makes releases on restored generations; ``restored`` tells of the last one."""

    restored = Restored(Source(Path()), 0.0)

    def restore(self, source: Source, wish: Wish) -> Outcome:
        """Make a release of the live one's image and configuration on a database that is filled from ``source``.

        Raises:
            ReleaseError: it failed; what served before serves on.
        """
        self._start_clock(source)
        with self._explained(), self._locked():
            current = self.site.live_record("look at the live release")
            self._housekeeping.sweep(current)
            spec = replace(
                wish_of(self.site, self.engine, current, self.progress.step),
                hold_seconds=wish.hold_seconds,
                maintenance=wish.maintenance,
                post_restore=wish.post_restore,
            )
            new = Attempt(self.site.next_number(), self._next_generation(), self.site.secret_key())
            return self._transact(current, new, spec, partial(self._switch, current, new, spec, wish.time_limit))

    def rebuild(self, spec: Spec, source: Source, time_limit: float = Wish.time_limit) -> Outcome:
        """Make the site's first release on this host, with a backup's secret key, on a database filled from it.

        Raises:
            ReleaseError: it failed, or the site is here already.
        """
        self._start_clock(source)
        with self._explained(), self._locked():
            if self.site.current.is_symlink():
                raise ReleaseError(
                    "look at the live release", f"{self.site.name} is on this host already: restore it as it is"
                )
            self._housekeeping.sweep(None)
            protected = self._protected(source, spec)
            key = protected.secret_key if protected else self.site.secret_key()
            new = Attempt(self.site.next_number(), 1, key)
            outcome = self._transact(None, new, spec, partial(self._begin_anew, new, spec, time_limit))
            return replace(outcome, warnings=(*outcome.warnings, *self.restored.warnings))

    def explained(self, error: ReleaseError) -> str:
        """A failure as a message; what was noticed on the way may be its reason."""
        return "\n".join([super().explained(error), *self.restored.warnings])

    def _start_clock(self, source: Source) -> None:
        self.restored = Restored(source, time.time())
        self._told.update(self.restored.told())

    def _protected(self, source: Source, spec: Spec) -> Protected | None:
        """Read what a rebuild needs of the backup, and notice secrets that the site had and is not given."""
        if source.backup is None:
            return None
        self.progress.at("check the backup's files")
        check(source.backup)
        protected = Protected.of(source.backup)
        missing = [name for name in protected.secrets if name not in spec.secrets]
        if missing:
            where = f"{source.backup.id}.config.tar, in config/secrets/{source.backup.manifest['release']}/"
            names = ", ".join(missing)
            self.restored.warnings = (
                f"the site had secrets that site_secrets does not name: {names}. Their values are in {where}",
            )
        return protected

    def _next_generation(self) -> int:
        """A number above every generation that is there, or that a record names though it is gone."""
        named = {record.generation for record in self.site.records().values()}
        return 1 + max(self.site.generations() | named)

    def _switch(self, current: Record, new: Attempt, spec: Spec, time_limit: float) -> None:
        """Up to the commit: the restored generation served by the new release, the old one at rest."""
        self._unpack(new, spec, time_limit)
        self.restored.lost = not (self.site.generation(current.generation) / "db.sqlite3").is_file()
        if self.restored.lost:
            self._leave(current, new, spec)
        migrator = self._migrate_restored(new, spec)
        self._serve(new, spec)
        if not self.restored.lost:
            self._rest_workers(current, new, spec)
            try:
                self._hold(current, new, spec, migrator)
                return
            except MigratorError as error:
                self.restored.unguarded = str(error)
            self._leave(current, new, spec)
        new.close()  # nobody is left who could write, and so there is nothing to guard

    def _begin_anew(self, new: Attempt, spec: Spec, time_limit: float) -> None:
        """Up to the commit of the first release: nobody waits."""
        write_durably(self.site.unfinished, "", 0o600)
        self._unpack(new, spec, time_limit)
        self._migrate_restored(new, spec)
        self._serve(new, spec)

    def _unpack(self, new: Attempt, spec: Spec, time_limit: float) -> None:
        """Have the runtime verify the source and fill the new generation from it.

        Raises:
            ReleaseError: there is no room, or the source is damaged.
        """
        source = self.restored.source
        self.progress.at(f"verify and unpack {source.name}")
        media = source.backup.missing_media_bytes(self.site.media) if source.backup else 0
        self._require_room(source.bytes + media, f"the database of {source.name}")
        make_directory(self.site.generation(new.generation), 0o700, APP_UID, APP_GID)
        self.containers.remove(self.containers.helper)
        words = source.words(database(new.generation))
        done = self.engine.run(self.containers.filler(spec, new.number, source.directory, *words), time_limit)
        if done.status != 0:
            reason = ": ".join(filter(None, (done.end, tail(done.said, SAID_LINES).rstrip("."))))
            kept = "The database was not changed; some missing uploads may be back" if media else "Nothing was changed"
            raise ReleaseError(self.progress.step, f"{reason}. {kept}")
        try:
            self.restored.answer = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError) as error:
            reason = f"the runtime in {spec.image} does not restore: build the image anew"
            raise ReleaseError(self.progress.step, reason, tail(done.said)) from error

    def _leave(self, current: Record, new: Attempt, spec: Spec) -> None:
        """Stop a live release whose database is gone, or cannot be guarded; visitors get the plain page meanwhile.

        As long as one whose database is gone runs, the Engine shows every other container the directory that was
        removed, and not the new generation.
        """
        self.progress.at("stop the live release, whose database cannot be guarded")
        held, new.gate = new.gate, Maintenance(self.site.maintenance)
        new.held_since = new.held_since or time.monotonic()
        new.gate.shut(MAINTENANCE_SECONDS)
        if held and held.path != new.gate.path:
            held.open()
        running = [name for name in self.containers.of_release(current.release) if self.containers.running(name)]
        new.stopped = [*new.stopped, *running]
        self.containers.stop(running, spec.stop_timeout)

    def _migrate_restored(self, new: Attempt, spec: Spec) -> Migrator:
        """Bring the restored database to the schema of the code.

        Raises:
            ReleaseError: it is newer than the code, or a migration failed.
        """
        migrator = self._look(new, spec, spec.image)
        if self.restored.source.backup is None and new.found["pending"] and not new.found.get("applied"):
            raise ReleaseError(
                "compare the imported database with the code",
                f"{self.restored.source.name} has none of Django's migrations: it is empty, or another program's. "
                "Nothing was changed",
            )
        unknown = new.found.get("unknown") or []
        back = self.restored.answer.get("media_restored", 0)
        kept = f"The database was not changed; missing uploads are back: {back}" if back else "Nothing was changed"
        # Django keeps the lines of applications that are gone, and of squashed migrations: the same code ran with them.
        if unknown and self._made_by() != spec.image:
            raise ReleaseError(
                "compare the restored database with the code",
                f"{self.restored.source.name} has migrations that {spec.image} lacks, so it is newer than the code: "
                f"{', '.join(unknown)}. {self._cure()} {kept}",
            )
        self._migrate(new, migrator, Move(0, tuple(new.found["pending"])), float(spec.migrate_timeout))
        return migrator

    def _made_by(self) -> str:
        """The image that the backup was made by; empty of an imported file."""
        return str(self.restored.source.backup.manifest["image"]) if self.restored.source.backup else ""

    def _cure(self) -> str:
        """How to come to the code that the backup needs."""
        image = self._made_by()
        if not image:
            return (
                "Deploy the version that has them, then restore again. Lines of its table django_migrations that "
                "belong to applications that are gone for good, delete before."
            )
        version = image.rpartition(":")[2]
        if self.engine.image(image) is None:
            return f"It was made by {image}, which is not on this host: deploy version {version}, then restore again."
        kept = [n for n, record in self.site.records().items() if record.image == image]
        way = f"playbooks/rollback.yml -e rollback_to={kept[-1]}" if kept else f"deploy.yml -e site_version={version}"
        return f"It was made by {image}, which is on this host: make that the live release ({way}), then restore again."

    def _serve(self, new: Attempt, spec: Spec) -> None:
        self._start(new, spec)
        self.progress.at("wait until the new release is ready")
        self._readiness.wait_ready(new.number, spec, time.monotonic() + spec.health_timeout)

    def _commit(self, current: Record | None, new: Attempt, spec: Spec, image_id: str) -> Record:
        new.restored = self.restored.source.name
        record = super()._commit(current, new, spec, image_id)
        self.restored.rto = time.time() - self.restored.began
        self._told.update(self.restored.told())
        return record

    def _finish(self, live: Record, old: Record | None, new: Attempt, spec: Spec) -> None:
        super()._finish(live, old, new, replace(spec, keep_releases=max(spec.keep_releases, KEPT_RELEASES)))

    def _after(self, new: Attempt, spec: Spec) -> None:
        super()._after(new, spec)
        self._run_after(new, spec, spec.post_restore, "restore")

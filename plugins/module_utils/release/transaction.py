"""One release of a site: prepare, get ready, commit and finish it, or undo it so that the old one still serves."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..contract import APP_GID, APP_UID, TIME, configuration_of
from ..host.engine import Engine, EngineError
from ..host.files import make_directory, remove_tree, write_durably
from . import static_files
from .containers import Containers
from .errors import ReleaseError
from .generation import DATABASES, REHEARSAL, database
from .hold import MARGIN
from .housekeeping import Housekeeping
from .migrator import Migrator, MigratorError, tail
from .old_release import OldRelease
from .outcome import Outcome
from .plan import OVERHEAD
from .readiness import Readiness
from .record import Record
from .secret_files import UNIT
from .secret_key import SecretKey
from .site import CLOSED, OPEN, Site, with_numbers
from .spec import Command, Spec
from .steps import Progress, Step

LOAD_SECONDS = 120
ROOM = 1.1  # free space to require, as a factor of the size
KEPT_BY_RESTORE = 2  # least number of releases that a restore keeps, so that it can be rolled back


@dataclass
class Draft:
    """The new release before its commit: its numbers, its secret key, and results of the steps so far.

    ``found`` is the preflight's answer, ``rehearsed`` the rehearsal's; ``restored`` names the backup or file that its
    database comes from; ``committed`` is the moment of the commit, in seconds since 1970.
    """

    number: int
    generation: int
    key: SecretKey
    restored: str = ""
    image_id: str = ""
    migrator: Migrator | None = None
    found: dict[str, Any] = field(default_factory=dict)
    rehearsed: dict[str, Any] = field(default_factory=dict)
    migrations: tuple[str, ...] = ()
    committed: float = 0.0

    @property
    def pending(self) -> tuple[str, ...]:
        """Migrations of the code that the database lacks."""
        return tuple(self.found["pending"])

    @property
    def unknown(self) -> tuple[str, ...]:
        """Migrations of the database that the code lacks."""
        return tuple(self.found.get("unknown") or ())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Findings of the preflight that do not prevent the release."""
        newer = "the database has migrations that this version lacks, so it is newer than the code: "
        return (*self.found.get("warnings", ()), *([newer + ", ".join(self.unknown)] if self.unknown else ()))

    def end_migrator(self) -> None:
        """End the migrator, and with it the guard."""
        if self.migrator:
            self.migrator.close()
            self.migrator = None


@dataclass
class Transaction:
    """A release from its preparation to its end.

    ``current`` is the live release's record; ``audit_fields`` returns further fields of the audit log.
    """

    site: Site
    engine: Engine
    containers: Containers
    readiness: Readiness
    housekeeping: Housekeeping
    progress: Progress
    current: Record | None
    spec: Spec
    draft: Draft
    audit_fields: Callable[[Draft], Mapping[str, Any]]
    old: OldRelease | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.current:
            self.old = OldRelease(self.current, self.spec, self.containers, self.readiness, self.progress)

    # The stages

    def run(self, get_ready: Callable[[Transaction], None]) -> Outcome:
        """Make the release; a failure before the commit is undone.

        Args:
            get_ready: does everything between the preparation and the commit. Afterwards the new release answers
                through its socket, and the old one cannot write.

        Raises:
            ReleaseError, MigratorError, EngineError, OSError: the release was not made, or a command after it failed.
        """
        started = time.time()
        try:
            self.prepare()
            get_ready(self)
            record = self.commit()
        except BaseException as error:
            self.undo()
            self._audit(started, f"could not {self.progress.step}: {error}")
            if isinstance(error, ReleaseError | MigratorError | EngineError | OSError):
                raise
            raise self.progress.error(f"{type(error).__name__}: {error}") from error
        self._audit(started, "released")
        self.finish(record)
        return self._outcome("released", self.draft.migrations)

    def rehearse(self) -> Outcome:
        """Run every step that has no visible effect, then clean up.

        Raises:
            ReleaseError, MigratorError, EngineError, OSError: the release would fail.
        """
        try:
            self.prepare()
            migrator = self.load_project()
            if self.current and self.draft.pending:
                self.rehearse_migrations(migrator, self.current.generation)
        finally:
            self.undo()
        return self._outcome("none", self.draft.pending)

    def prepare(self) -> None:
        """Make the new release's directory, secrets and configuration.

        Raises:
            ReleaseError: the image is missing, or a foreign container or volume has a name that the release needs.
        """
        self.progress.at(Step.PREPARE)
        number = self.draft.number
        if not UNIT.exists():
            raise self.progress.error(
                f"there is no {UNIT} on this host, so a reboot would leave the site without its secrets: "
                "provision the host first (deploy.yml without --tags, or the role hostwright.django.host)"
            )
        make_directory(self.site.release(number), CLOSED, 0, APP_GID)
        self.site.write_secrets(number, self.spec.secrets, self.draft.key)
        self.configure()
        image = self.engine.image(self.spec.image)
        if image is None:
            raise self.progress.error(f"there is no image {self.spec.image} on the host: push it first")
        self.draft.image_id = image.id
        self.containers.check(self.progress.step, self.spec, number)

    def commit(self) -> Record:
        """Make the new release the live one, unless its database may be out of date."""
        self.progress.at(Step.COMMIT)
        draft, spec, current = self.draft, self.spec, self.current
        record = Record(
            site=self.site.name, release=draft.number, image=spec.image, image_id=draft.image_id,
            version=spec.image.rpartition(":")[2], source_digest=spec.source_digest, generation=draft.generation,
            container=self.containers.web(draft.number), configuration=configuration_of(draft.number),
            created=_utc(time.time()), migrations=draft.migrations, previous=current.release if current else None,
            spec_digest=spec.digest(draft.key.value), spec=spec.recorded(), restored=draft.restored,
        )  # fmt: skip
        self.site.commit(record, self._check_hold if self.old and self.old.gate else None)
        self._end_hold()
        draft.committed = time.time()
        return record

    def finish(self, record: Record) -> None:
        """Retire the old release and run the commands after a release; after an interruption the next call cleans up.

        The guard ends after the last process that could write to the old generation.

        Raises:
            ReleaseError: a command after the release failed; the new release is live nevertheless.
        """
        self.progress.at(Step.RETIRE)
        if self.old:
            self.old.retire()
        self.draft.end_migrator()
        self.housekeeping.schedule(self.spec)
        self.housekeeping.forget(record, max(self.spec.keep_releases, KEPT_BY_RESTORE if self.draft.restored else 1))
        for command in self.spec.post_release:
            self._run_after(command, "release")
        for command in self.spec.post_restore if self.draft.restored else ():
            self._run_after(command, "restore")

    def undo(self) -> None:
        """Let the old release serve again, then clean up. A committed release stays.

        A part that cannot be undone now, for example because the Engine fails, is left to the next call.
        """
        draft = self.draft
        if self.site.current.is_symlink() and self.site.current.readlink().name == str(draft.number):
            self._end_hold()
            return
        if draft.migrator:
            draft.migrator.release()  # before the hold ends; the migrator's end may take longer, without a hold
        self._end_hold()
        draft.end_migrator()
        if self.old:
            self.old.restart()
        names = [self.containers.helper]
        with suppress(EngineError):
            names = [*self.containers.of_release(draft.number), *names]
        for name in names:
            with suppress(EngineError):
                self.containers.remove(name)
        with suppress(OSError):
            self.site.remove(draft.number)
            remove_tree(self.site.data / "databases" / REHEARSAL)
            if self.current is None or draft.generation != self.current.generation:
                remove_tree(self.site.generation(draft.generation))
            self.site.unfinished.unlink(missing_ok=True)

    # The parts of the ways to get ready

    def configure(self) -> None:
        """Write the new release's configuration, which names its generation."""
        configuration = with_numbers(self.spec.configuration, self.draft.number, self.draft.generation)
        text = json.dumps(configuration, indent=1, sort_keys=True) + "\n"
        write_durably(self.site.release_configuration(self.draft.number), text, 0o640, 0, APP_GID)

    def load_project(self) -> Migrator:
        """Load the project in a container without network, and list the pending migrations.

        Raises:
            MigratorError, ReleaseError: the project cannot be deployed.
        """
        self.progress.at(Step.LOAD)
        migrator = self.start_migrator(self.spec.image)
        found = self.draft.found
        if not {"pending", "static_url"} <= found.keys():
            raise self.progress.error(f"the runtime in {self.spec.image} does not list them: rebuild the image")
        url = "/" + (found["static_url"] or self.spec.static_url).lstrip("/")  # a project may have no static files
        if url != self.spec.static_url:
            raise self.progress.error(
                f"the project's STATIC_URL is {url}, but Nginx serves static files at {self.spec.static_url}: "
                "set site_static_url"
            )
        return migrator

    def start_migrator(self, image: str) -> Migrator:
        """Start a migrator from an image, and keep the result of its preflight."""
        self.site.provide_secrets(self.draft.number)
        self.containers.remove(self.containers.helper)
        arguments = self.containers.one_shot(self.spec, self.draft.number, image, "migrator")
        migrator = self.draft.migrator = Migrator(self.engine.talk(*arguments))
        self.draft.found = migrator.look(LOAD_SECONDS)
        return migrator

    def run_before(self) -> None:
        """Run the commands that precede a release, in the new image on the live database.

        Raises:
            ReleaseError: one failed.
        """
        if self.spec.pre_release:
            self.containers.provide_network(self.spec)
        for command in self.spec.pre_release:
            self.progress.at(Step.BEFORE, " ".join(command))
            name = f"{self.containers.helper}-hook"
            self.containers.remove(name)
            hook = self.containers.hook(name, self.spec, self.draft.number, command)
            done = self.engine.run(hook, self.spec.migrate_timeout)
            if done.status != 0:
                raise self.progress.error(done.end, tail(done.said))

    def rehearse_migrations(self, migrator: Migrator, source: int, backwards: tuple[str, ...] = ()) -> None:
        """Migrate a temporary copy of the database, to find failures early and to predict the hold.

        Args:
            migrator: a migrator of the image that has the migrations.
            source: the generation to copy.
            backwards: migrations to reverse, instead of applying the pending ones.

        Raises:
            MigratorError: a migration failed.
            ReleaseError: the disk is too small, or requests would wait too long.
        """
        self.progress.at(Step.REHEARSE)
        self.require_room(self.site.database_bytes(source), "a copy of the database")
        directory = self.site.data / "databases" / REHEARSAL
        make_directory(directory, 0o700, APP_UID, APP_GID)
        scratch, limit = f"{DATABASES}/{REHEARSAL}/scratch", float(self.spec.migrate_timeout)
        found = self.draft.rehearsed = migrator.rehearse(database(source), scratch, list(backwards), limit)
        remove_tree(directory)
        self.require_room(found["peak_bytes"], "the migrated database, as the rehearsal showed,")
        predicted = found["copy_seconds"] + found["migrate_seconds"] + OVERHEAD
        found["hold_seconds"] = round(predicted, 2)
        if predicted > self.spec.hold_seconds - MARGIN and not self.spec.maintenance:
            raise self.progress.error(
                f"requests would wait {predicted:.1f} s (copy {found['copy_seconds']:.1f} s, migrations "
                f"{found['migrate_seconds']:.1f} s), but app_hold_seconds allows {self.spec.hold_seconds:g} s, "
                f"less {MARGIN:g} s for safety. No request waited and nothing was changed. Deploy with "
                "app_maintenance=true, which answers 503 for that time, or raise app_hold_seconds"
            )

    def require_room(self, needed: float, what: str) -> None:
        """Check that the disk has room for a file of ``needed`` bytes.

        Raises:
            ReleaseError: it is too small.
        """
        free = shutil.disk_usage(self.site.data).free
        if free < needed * ROOM:
            raise self.progress.error(
                f"{what} needs {needed * ROOM / 1e6:.0f} MB, but {self.site.data} has {free / 1e6:.0f} MB free: "
                "make room there. Nothing was changed"
            )

    def make_generation(self) -> None:
        """Make the directory of the new release's generation."""
        make_directory(self.site.generation(self.draft.generation), 0o700, APP_UID, APP_GID)

    def migrate(
        self, migrator: Migrator, limit: float, applied: tuple[str, ...], backwards: tuple[str, ...] = ()
    ) -> None:
        """Apply migrations to the new generation, or reverse some; ``limit`` is in seconds."""
        if applied or backwards:
            self.progress.at(Step.MIGRATE)
            migrator.migrate(database(self.draft.generation), list(backwards), limit)
            self.draft.migrations = (*applied, *(f"{name} (reversed)" for name in backwards))

    def start(self) -> None:
        """Create the release's containers and start them; its workers wait until it is the live one."""
        self.progress.at(Step.START)
        number = self.draft.number
        self.containers.remove(*self.containers.of_release(number))  # the Engine made them after a module was killed
        self.containers.create(self.spec, number)
        static_files.publish(self.site, self.engine, self.containers.web(number), number)
        directory = self.site.release(number)
        # The process that serves before the commit removes this file. It is written while the directory is closed: the
        # old release's process sees the directory, too, and could put a link of that name there.
        write_durably(directory / "go", "", 0o600, APP_UID, APP_GID)
        directory.chmod(OPEN)
        workers = [self.containers.worker(number, name) for name in self.spec.workers]
        self.engine("start", self.containers.web(number), *workers)

    def wait_ready(self, patience: float = float("inf")) -> None:
        """Wait until the new release answers as the site, through its socket, but not beyond a hold.

        Args:
            patience: seconds for a healthy page after the release has reported that it can serve.
        """
        self.progress.at(Step.WAIT_READY)
        left = self.old.seconds_left() if self.old and self.old.gate else float("inf")
        until = time.monotonic() + min(left, self.spec.health_timeout)
        self.readiness.wait_ready(self.draft.number, self.spec, until, patience)

    def serve(self) -> None:
        """Start the release on an existing database, and wait until it is ready."""
        self.start()
        self.wait_ready()

    def _check_hold(self) -> None:
        """Check, right before the rename, that the guard has been in force since the copy, and that requests wait."""
        if self.draft.migrator:
            self.draft.migrator.check()
        if self.old:
            self.old.seconds_left()

    def _end_hold(self) -> None:
        if self.old:
            self.old.end_hold()

    def _run_after(self, command: Command, what: str) -> None:
        words = " ".join(command)
        self.progress.at(Step.AFTER, words, what)
        container = self.containers.web(self.draft.number)
        done = self.engine.run(["exec", container, "python3", "manage.py", *command], self.spec.migrate_timeout)
        if done.status != 0:
            again = f"hostwright manage {self.site.name} -- {words}"
            raise self.progress.error(
                f"{done.end}. The release is live; run the command again with '{again}'", tail(done.said)
            )

    def _outcome(self, action: str, migrations: tuple[str, ...]) -> Outcome:
        draft, held = self.draft, self.old.held if self.old else 0.0
        return Outcome(action, draft.number, self.current, migrations, held, draft.rehearsed, draft.warnings)

    def _audit(self, started: float, outcome: str) -> None:
        """Write the release's line of the audit log; failed releases have one, too."""
        draft, image = self.draft, self.spec.image
        line = {
            "time": _utc(started), **self.audit_fields(draft), "release": draft.number,
            "from": self.current.version if self.current else None, "to": image.rpartition(":")[2], "image": image,
            "migrations": list(draft.migrations), "seconds": round(time.time() - started, 2),
            "hold_ms": round(self.old.held * 1000) if self.old else 0, "outcome": outcome,
        }  # fmt: skip
        with suppress(OSError):
            self.site.audit(json.dumps(line))


def _utc(moment: float) -> str:
    return time.strftime(TIME, time.gmtime(moment))

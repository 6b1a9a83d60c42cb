"""One release of a site on its host: plan, then act; whatever fails leaves the old release serving."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from ansible_collections.hostwright.django.plugins.module_utils import probe
from ansible_collections.hostwright.django.plugins.module_utils.containers import Containers
from ansible_collections.hostwright.django.plugins.module_utils.engine import Engine, EngineError
from ansible_collections.hostwright.django.plugins.module_utils.hold import (
    MARGIN,
    Gate,
    Maintenance,
    connections,
    drain,
)
from ansible_collections.hostwright.django.plugins.module_utils.migrator import LOG_LINES, Migrator, MigratorError, tail
from ansible_collections.hostwright.django.plugins.module_utils.site import (
    APP_GID,
    APP_UID,
    Record,
    ReleaseError,
    Site,
    make_directory,
    remove_tree,
    with_numbers,
    write_durably,
)
from ansible_collections.hostwright.django.plugins.module_utils.spec import Spec

HASHED_NAME = re.compile(r"\.[0-9a-f]{12}\.[^./]+$")  # as ManifestStaticFilesStorage names files
SOURCE_LABEL = "org.hostwright.source-digest"
TITLE_LABEL = "org.opencontainers.image.title"
DEVELOPMENT = "-dev"  # ends the tags of images for development, which no release names
DATABASES = "/site/data/databases"  # as containers see them
REHEARSAL = "rehearsal"
MIGRATIONS_TABLE = "django_migrations"
NGINX = "hostwright-nginx"
HOST_COMMAND = "/usr/local/sbin/hostwright"
PAUSE = 0.02
ERROR_SECONDS = 2.0  # that requests wait for a page that does not come right
LOOK_AGAIN = 1.0  # seconds between two looks at a container that does not answer yet
LOOK_SECONDS = 120
REST_ROOM = 10.0  # seconds for a worker to notice, and to start if the Engine starts it just now
ROOM = 1.1  # of what the rehearsal needed at its peak
OVERHEAD = 0.5  # seconds of a hold besides drain, copy and migration: probe, record, rename
COPY_SPEED = 200e6  # bytes a second, of a disk that is not fast
MAINTENANCE_SECONDS = 10.0  # after which Nginx opens again if this process has died


@dataclass(frozen=True)
class Move:
    """How a release comes to another database generation: which one is copied, and what is done to the copy.

    ``applied`` are the migrations that the copy gets, ``reversed`` those that are taken back.
    """

    source: int
    applied: tuple[str, ...] = ()
    reversed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rollback:
    """What a rollback is asked to be.

    ``to`` is the number of a kept release, or None for the one before; ``schema`` says what becomes of migrations that
    the older release lacks: ``refuse``, ``reverse``, ``keep`` or ``generation``.
    """

    to: int | None = None
    schema: str = "refuse"
    hold_seconds: float = 10.0
    maintenance: bool = False


@dataclass(frozen=True)
class Back:
    """The release to go back to, and the user's word on its schema."""

    target: Record
    schema: str


@dataclass
class Attempt:
    """A release on its way: its number, the generation it is to run on, and what was made for it."""

    number: int
    generation: int
    migrator: Migrator | None = None
    gate: Gate | None = None
    rest: Gate | None = None
    found: dict[str, Any] = field(default_factory=dict)
    migrations: tuple[str, ...] = ()
    rehearsed: dict[str, Any] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    held_since: float = 0.0
    held: float = 0.0

    def close(self) -> None:
        """End the migrator, and with it the guard."""
        if self.migrator:
            self.migrator.close()
            self.migrator = None


@dataclass(frozen=True)
class Outcome:
    """What a call did: ``action`` is ``none``, ``started`` (the live release was down) or ``released``.

    ``previous`` is the release that was live before the call; ``held`` the seconds during which requests waited.
    """

    action: str
    release: int
    previous: Record | None
    migrations: tuple[str, ...] = ()
    held: float = 0.0
    rehearsed: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def result(self) -> dict[str, Any]:
        """What a module returns."""
        return {
            "changed": self.action != "none",
            "action": self.action,
            "release": self.release,
            "previous": self.previous.release if self.previous else None,
            "migrations": list(self.migrations),
            "held": round(self.held, 3),
            "rehearsed": dict(self.rehearsed),
        }


class Releaser:
    """Makes releases of one site with one Engine."""

    def __init__(
        self,
        site: Site,
        engine: Engine,
        ask: probe.Ask = probe.ask,
        audit: Mapping[str, Any] | None = None,
        cron: Path = Path("/etc/cron.d"),
    ) -> None:
        """Take what the audit log shall tell besides: who, and how many bytes were pushed."""
        self.site = site
        self.engine = engine
        self.containers = Containers(site, engine)
        self.step = "begin"
        self._ask = ask
        self._told = dict(audit or {})
        self._cron = cron / f"hostwright-{site.name}-jobs"

    def plan(self, spec: Spec, migrations: Sequence[str] | None = None) -> Outcome:
        """What ``run`` would do, as far as a look without changes tells.

        Args:
            spec: what is asked for.
            migrations: all that the image has, in their order; None if they are those of the live release.
        """
        current = self.site.current_record() if self.site.current.is_symlink() else None
        if current is None:
            return Outcome("released", 1, None, tuple(migrations or ()))
        key = self.site.configuration / "secrets" / "secret_key"
        if key.exists() and current.spec_digest == spec.digest(key.read_text()):
            return Outcome("started" if self._down(current, spec) else "none", current.release, current)
        number = self.site.next_number()
        if migrations is None:
            return Outcome("released", number, current)
        asked = self.engine.run(["exec", current.container, "python3", "-m", "hostwright", "preflight", "--pending"])
        if asked.status != 0:
            unknown = f"the live release does not tell which migrations it has applied: {tail(asked.said, 3)}"
            return Outcome("released", number, current, warnings=(unknown,))
        applied = json.loads(asked.stdout.splitlines()[-1])["applied"]
        pending = tuple(name for name in migrations if name not in applied)
        return Outcome("released", number, current, pending, self._estimate(current) if pending else 0.0)

    def _estimate(self, current: Record) -> float:
        """Seconds that requests will wait, before a rehearsal has measured it: by the last ones, or by the size."""
        holds = [line["hold_ms"] / 1000 for line in self.site.audited() if line["hold_ms"] and line["migrations"]]
        if holds:
            return float(max(holds[-5:]))
        size = sum(path.stat().st_size for path in self.site.generation(current.generation).glob("db.sqlite3*"))
        return OVERHEAD + size / COPY_SPEED

    def run(self, spec: Spec) -> Outcome:
        """Bring the site to what the spec asks for.

        Raises:
            ReleaseError: it failed; what served before serves on.
        """
        with self._explained(), self._locked():
            current = self.site.current_record()
            wish = spec.digest(self.site.secret_key())
            self._sweep(current)
            if current and current.spec_digest == wish:
                return self._keep_up(current, spec)
            return self._release(current, spec)

    def rehearse(self, spec: Spec) -> Outcome:
        """Go as far as a release goes before it can be noticed, and remove what that took.

        Raises:
            ReleaseError: the release would fail, and why.
        """
        with self._explained(), self._locked():
            current = self.site.current_record()
            wish = spec.digest(self.site.secret_key())
            self._sweep(current)
            new = Attempt(self.site.next_number(), current.generation if current else 1)
            if current and current.spec_digest == wish:
                return Outcome("none", current.release, current)
            try:
                self._prepare(new, spec)
                migrator = self._look(new, spec, spec.image)
                if current and new.found["pending"]:
                    self._rehearse(new, spec, Move(current.generation, tuple(new.found["pending"])), migrator)
            finally:
                self._undo(current, new)
            pending = tuple(new.found["pending"])
            return Outcome("none", new.number, current, pending, rehearsed=new.rehearsed, warnings=_warnings(new.found))

    def rollback(self, wish: Rollback) -> Outcome:
        """Make a new release of an older one's image and configuration, by the same transaction.

        Raises:
            ReleaseError: it failed, or the schema differs and nothing was said of that; what served serves on.
        """
        with self._explained(), self._locked():
            current = self.site.current_record()
            self._sweep(current)
            current, target = self.target(wish)
            return self._release(current, self._wish_of(target, wish), Back(target, wish.schema))

    def target(self, wish: Rollback) -> tuple[Record, Record]:
        """The live release, and the one to go back to.

        Raises:
            ReleaseError: there is no such release.
        """
        self.step = "choose the release to go back to"
        current = self.site.current_record()
        if current is None:
            raise ReleaseError(self.step, f"{self.site.name} has no live release on this host: deploy it first")
        records = self.site.records()
        number = current.previous if wish.to is None else wish.to
        kept = ", ".join(f"{n} ({record.version})" for n, record in records.items() if n != current.release)
        if number is None or number not in records or number == current.release or not records[number].spec:
            which = "the release before it" if wish.to is None else f"release {wish.to}"
            raise ReleaseError(
                self.step,
                f"the live release is {current.release} ({current.version}), and {which} is none of the other ones "
                f"that were kept: {kept or 'there are none'}. Choose one of them with -e rollback_to=NUMBER",
            )
        return current, records[number]

    def _wish_of(self, target: Record, wish: Rollback) -> Spec:
        image = self.engine.image(target.image)
        if image is None or image.labels.get(SOURCE_LABEL, target.source_digest) != target.source_digest:
            raise ReleaseError(
                self.step,
                f"the image {target.image} of release {target.release} is not on the host any more: "
                "deploy that version",
            )
        kept = self.site.secrets(target.release)
        spec = Spec.of_record(target.spec, {path.name: path.read_text()[:-1] for path in kept.iterdir()})
        return replace(spec, hold_seconds=wish.hold_seconds, maintenance=wish.maintenance)

    def explained(self, error: ReleaseError) -> str:
        """A failure as a message: what failed, why, what serves now, and the end of the log."""
        log = f"\nThe end of the log:\n{error.log}" if error.log else ""
        return f"could not {error.step}: {error}. {self.serving()}{log}"

    def serving(self) -> str:
        """What serves the site now, as a sentence; it never fails."""
        try:
            live = self.site.current_record()
            if live is None:
                return "The site has no live release yet."
            runs = self.containers.running(live.container)
        except (ReleaseError, EngineError):
            return "What serves now cannot be told."
        if runs:
            return f"Release {live.release} ({live.image}) serves on."
        return (
            f"Release {live.release} ({live.image}) is the live one, but its container {live.container} does not run."
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.site.make_directories()
        with self.site.lock():
            try:
                yield
            finally:
                self.site.progress.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except MigratorError as error:
            raise ReleaseError(self.step, str(error), error.log) from error
        except EngineError as error:
            raise ReleaseError(self.step, str(error)) from error
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise ReleaseError(self.step, f"{error.strerror or error}{where}") from error

    def _at(self, step: str) -> None:
        """Begin a step: its name is in every message, and lies beside the lock for whoever wants to know.

        On a full disk nobody gets to know it, but what fills the disk can be tidied up.
        """
        self.step = step
        with suppress(OSError):
            self.site.progress.write_text(f"{step}\n")

    def _down(self, current: Record, spec: Spec) -> list[str]:
        """The containers of the live release that should run and do not, the one that serves first."""
        names = [current.container, *(self.containers.worker(current.release, name) for name in spec.workers)]
        return [name for name in names if not self.containers.running(name)]

    def _sweep(self, current: Record | None) -> None:
        """Remove what a release that never came about has left: containers, directories, generations, a hold.

        A migrator may guard an old generation until nothing can write to it any more: it goes last.

        Raises:
            ReleaseError: there are databases, but no live release; they may be all that is left of the site.
        """
        self._at("tidy up after an unfinished release")
        records = self.site.records()
        generations = self.site.generations()
        if current is None and generations and not self.site.unfinished.exists():
            databases = self.site.data / "databases"
            cure = (
                f"ln -s releases/{max(records)} {self.site.current}" if records else f"mv {databases} {databases}.old"
            )
            raise ReleaseError(
                self.step,
                f"{databases} holds databases of earlier releases, but {self.site.current}, which names the live one, "
                f"is gone; nothing was touched. To go on with {'that release' if records else 'an empty one'}: {cure}",
            )
        live = current.release if current else 0
        helper = self.containers.helper
        left = [name for name, number in self.containers.all().items() if number != str(live) or name == helper]
        self.containers.remove(*sorted(left, key=lambda name: (name == helper, name)))
        for gate in (self.site.hold, self.site.maintenance):
            gate.unlink(missing_ok=True)
        for number in records:
            self.site.forget_rest(number)
        remove_tree(self.site.data / "databases" / REHEARSAL)
        kept = {number: record for number, record in records.items() if number <= live}
        for number in self.site.traces() - set(kept):
            self.site.remove(number)
        for generation in generations - {record.generation for record in kept.values()}:
            self.site.remove_generation(generation)
        self.site.unfinished.unlink(missing_ok=True)

    def _keep_up(self, current: Record, spec: Spec) -> Outcome:
        """Nothing to release; a live release that is down is started again, one cut short after its commit finished."""
        self._at("start the live release again")
        down = self._down(current, spec)
        if down:
            if self.engine.container(current.container) is None:
                self.containers.remove(*self.containers.of_release(current.release))
                self.containers.create(spec, current.release)
            self.engine("start", *down)
            self._wait_ready(current.release, spec, time.monotonic() + spec.health_timeout)
        self._schedule(spec)
        self._forget(current, spec)
        return Outcome("started" if down else "none", current.release, current)

    def _release(self, current: Record | None, spec: Spec, back: Back | None = None) -> Outcome:
        new = Attempt(self.site.next_number(), current.generation if current else 1)
        started = time.time()
        try:
            image_id = self._prepare(new, spec)
            migrator = self._look(new, spec, spec.image)
            if current is None:
                self._begin(new, spec, migrator)
            else:
                move = self._choose(current, new, back)
                self._before(new, spec)
                if move is None:
                    self._replace(current, new, spec)
                else:
                    self._move(current, new, spec, move)
            record = self._commit(current, new, spec, image_id)
        except BaseException as error:
            self._undo(current, new)
            self._audit(current, new, spec, started, failed=f"could not {self.step}: {error}")
            if isinstance(error, ReleaseError | MigratorError | EngineError | OSError):
                raise
            raise ReleaseError(self.step, f"{type(error).__name__}: {error}") from error
        self._audit(current, new, spec, started)
        self._finish(record, current, new, spec)
        self._after(new, spec)
        return Outcome("released", new.number, current, new.migrations, new.held, new.rehearsed, _warnings(new.found))

    def _prepare(self, new: Attempt, spec: Spec) -> str:
        """Make what belongs to the release alone; return the image's id."""
        self._at("prepare the release")
        make_directory(self.site.release(new.number), 0o1770, 0, APP_GID)
        self.site.write_secrets(new.number, spec.secrets)
        self._configure(spec, new)
        image = self.engine.image(spec.image)
        if image is None:
            raise ReleaseError(self.step, f"there is no image {spec.image} on the host: push it first")
        self.containers.check(self.step, spec, new.number)
        return image.id

    def _look(self, new: Attempt, spec: Spec, image: str) -> Migrator:
        """Load the project in a container without network: what is pending, and whether it can be deployed."""
        self._at("look at the project and its migrations")
        migrator = self._call_migrator(new, spec, image)
        if not {"pending", "static_url"} <= new.found.keys():
            raise ReleaseError(self.step, f"the runtime in {spec.image} does not say it: build the image anew")
        url = "/" + (new.found["static_url"] or spec.static_url).lstrip("/")  # none: the project has no static files
        if url != spec.static_url:
            raise ReleaseError(
                self.step,
                f"the project's STATIC_URL is {url}, but Nginx serves static files at {spec.static_url}: "
                "set site_static_url",
            )
        return migrator

    def _call_migrator(self, new: Attempt, spec: Spec, image: str) -> Migrator:
        self.containers.remove(self.containers.helper)
        migrator = Migrator(self.engine.talk(*self.containers.one_shot(spec, new.number, image, "migrator")))
        new.migrator = migrator
        new.found = migrator.look(LOOK_SECONDS)
        return migrator

    def _choose(self, current: Record, new: Attempt, back: Back | None) -> Move | None:
        """What has to happen to the database, if anything.

        Raises:
            ReleaseError: the release to go back to lacks migrations, and nothing was said of that.
        """
        pending = tuple(new.found["pending"])
        unknown = tuple(new.found.get("unknown") or ())
        if back is None or not unknown:
            return Move(current.generation, pending) if pending else None
        if back.schema == "refuse":
            self._refuse(current, new, back, unknown)
        if back.schema == "reverse":
            return Move(current.generation, reversed=unknown)
        if back.schema == "generation":
            return Move(back.target.generation)
        return Move(current.generation, pending) if pending else None

    def _refuse(self, current: Record, new: Attempt, back: Back, unknown: tuple[str, ...]) -> NoReturn:
        self._at("choose what becomes of the schema")
        written = "an unknown number of rows was"
        if new.migrator and self.site.generation(back.target.generation).is_dir():
            now = new.migrator.rows(_database(current.generation))
            then = new.migrator.rows(_database(back.target.generation))
            tables = (now.keys() & then.keys()) - {MIGRATIONS_TABLE}
            more = sum(max(now[table] - then[table], 0) for table in tables)
            written = f"about {more} rows were"
        raise ReleaseError(
            self.step,
            f"release {back.target.release} ({back.target.version}) lacks migrations that the live database has: "
            f"{', '.join(unknown)}; {written} written since. Say what is to become of them: "
            "-e rollback_schema=reverse takes the migrations back, "
            "keep runs the old code on the new schema, "
            "generation takes the database as it was before them and loses what was written since. Nothing was changed",
        )

    def _before(self, new: Attempt, spec: Spec) -> None:
        """Run the commands that precede a release, in the new image on the live database; a failure ends it."""
        for command in spec.pre_release:
            self._at(f"run '{' '.join(command)}' before the release")
            name = f"{self.containers.helper}-hook"
            self.containers.remove(name)
            done = self.engine.run(self.containers.hook(name, spec, new.number, command), spec.migrate_timeout)
            if done.status != 0:
                raise ReleaseError(self.step, f"it ended with exit status {done.status}", tail(done.said))

    def _after(self, new: Attempt, spec: Spec) -> None:
        """Run the commands that follow a release, in its container.

        Raises:
            ReleaseError: one failed; the release is live all the same.
        """
        for command in spec.post_release:
            self._at(f"run '{' '.join(command)}' after the release")
            words = ["exec", self.containers.web(new.number), "python3", "manage.py", *command]
            done = self.engine.run(words, spec.migrate_timeout)
            if done.status != 0:
                raise ReleaseError(
                    self.step,
                    f"it ended with exit status {done.status}. The release is live; run the command again with "
                    f"'hostwright manage {self.site.name} -- {' '.join(command)}'",
                    tail(done.said),
                )

    def _begin(self, new: Attempt, spec: Spec, migrator: Migrator) -> None:
        """The first release: an empty generation, nobody to wait for."""
        write_durably(self.site.unfinished, "", 0o600)
        make_directory(self.site.generation(new.generation), 0o700, APP_UID, APP_GID)
        self._migrate(new, migrator, Move(0, tuple(new.found["pending"])), spec.migrate_timeout)
        self._start(new, spec)
        self._at("wait until the new release is ready")
        self._wait_ready(new.number, spec, time.monotonic() + spec.health_timeout)

    def _replace(self, current: Record, new: Attempt, spec: Spec) -> None:
        """The same generation: the new release beside the old one. No request waits."""
        self._start(new, spec)
        self._at("wait until the new release is ready")
        self._wait_ready(new.number, spec, time.monotonic() + spec.health_timeout)
        self._rest_workers(current, new, spec)

    def _move(self, current: Record, new: Attempt, spec: Spec, move: Move) -> None:
        """Another generation: rehearse, start the new release, then hold requests while it gets its database."""
        migrator = new.migrator
        if move.reversed or migrator is None:
            new.close()
            migrator = self._call_migrator(new, spec, current.image)  # only the newer image knows the way back
        self._rehearse(new, spec, move, migrator)
        new.generation = 1 + max(self.site.generations())
        self._configure(spec, new)
        self._start(new, spec)
        self._at("wait until the new release has loaded")
        self._wait_loaded(new.number, spec, time.monotonic() + spec.health_timeout)
        self._rest_workers(current, new, spec)
        nginx = self._nginx()
        self._at("hold requests")
        new.gate = Maintenance(self.site.maintenance) if spec.maintenance else Gate(self.site.hold)
        new.held_since = time.monotonic()
        new.gate.shut(MAINTENANCE_SECONDS if spec.maintenance else spec.hold_seconds)
        limit = partial(self._time_left, new.gate, spec)
        self._at("drain the old release")
        self._drain(current, nginx, spec)
        self._at("guard the old database")
        migrator.guard(_database(current.generation), min(limit(), spec.hold_seconds / 2))
        self._at("copy the database into a new generation")
        make_directory(self.site.generation(new.generation), 0o700, APP_UID, APP_GID)
        migrator.copy(_database(move.source), _database(new.generation), limit())
        self._migrate(new, migrator, move, limit())
        self._at("wait until the new release is ready")
        until = time.monotonic() + min(limit(), spec.health_timeout)
        self._wait_ready(new.number, spec, until, patience=ERROR_SECONDS)

    def _time_left(self, gate: Gate, spec: Spec) -> float:
        """Seconds that a step may take before the hold ends.

        Raises:
            ReleaseError: there are none.
        """
        left = min(gate.left(), float(spec.migrate_timeout))
        if left <= 0:
            raise ReleaseError(
                self.step,
                f"requests may wait {spec.hold_seconds:g} s (less {MARGIN:g} s for safety), and that was not enough: "
                "deploy again with app_maintenance=true, or raise app_hold_seconds",
            )
        return left

    def _rehearse(self, new: Attempt, spec: Spec, move: Move, migrator: Migrator) -> None:
        """Migrate a throw-away copy: a failure ends here, and the time it took predicts the hold.

        Raises:
            ReleaseError: there is no room, or requests would wait for too long.
        """
        self._at("rehearse the migrations on a copy of the database")
        database = self.site.generation(move.source) / "db.sqlite3"
        size = sum(path.stat().st_size for path in database.parent.glob("db.sqlite3*"))
        self._require_room(size, "a copy of the database")
        scratch = f"{DATABASES}/{REHEARSAL}/scratch"
        make_directory(self.site.data / "databases" / REHEARSAL, 0o700, APP_UID, APP_GID)
        new.rehearsed = migrator.rehearse(
            _database(move.source), scratch, list(move.reversed), float(spec.migrate_timeout)
        )
        remove_tree(self.site.data / "databases" / REHEARSAL)
        self._require_room(new.rehearsed["peak_bytes"], "the migrated database, as the rehearsal showed,")
        predicted = new.rehearsed["copy_seconds"] + new.rehearsed["migrate_seconds"] + OVERHEAD
        new.rehearsed["hold_seconds"] = round(predicted, 2)
        if predicted > spec.hold_seconds - MARGIN and not spec.maintenance:
            raise ReleaseError(
                self.step,
                f"requests would wait {predicted:.1f} s (copy {new.rehearsed['copy_seconds']:.1f} s, migrations "
                f"{new.rehearsed['migrate_seconds']:.1f} s), and app_hold_seconds allows {spec.hold_seconds:g} s, "
                f"less {MARGIN:g} s for safety. Nothing was held or changed. Deploy with app_maintenance=true, which "
                "answers 503 for that time, or raise app_hold_seconds",
            )

    def _require_room(self, needed: float, what: str) -> None:
        free = shutil.disk_usage(self.site.data).free
        if free < needed * ROOM:
            raise ReleaseError(
                self.step,
                f"{what} needs {needed * ROOM / 1e6:.0f} MB, and {self.site.data} has {free / 1e6:.0f} MB free: "
                "make room there. Nothing was changed",
            )

    def _migrate(self, new: Attempt, migrator: Migrator, move: Move, limit: float) -> None:
        if move.applied or move.reversed:
            self._at("migrate the new database generation")
            migrator.migrate(_database(new.generation), list(move.reversed), limit)
            new.migrations = (*move.applied, *(f"{name} (reversed)" for name in move.reversed))

    def _start(self, new: Attempt, spec: Spec) -> None:
        """Start the containers of the release; its workers and jobs wait until it is the live one."""
        self._at("start the new release")
        self.containers.remove(*self.containers.of_release(new.number))  # made late by a module that was killed
        self.containers.create(spec, new.number)
        self._publish_static(self.containers.web(new.number), new.number)
        go = self.site.release(new.number) / "go"  # read once, by the process that serves before the commit
        go.touch()
        os.chown(go, APP_UID, APP_GID)
        workers = [self.containers.worker(new.number, name) for name in spec.workers]
        self.engine("start", self.containers.web(new.number), *workers)

    def _rest_workers(self, current: Record, new: Attempt, spec: Spec) -> None:
        """Let the old release's workers rest, and end its jobs: two of them at a time is one too many.

        A worker's container goes on, so that the worker does too if this process dies.

        Raises:
            ReleaseError: one goes on working.
        """
        self._at("let the workers of the old release rest")
        workers = {self.containers.worker(current.release, name): name for name in current.spec.get("workers", {})}
        patience = current.spec.get("stop_timeout", spec.stop_timeout) + REST_ROOM
        if workers:
            for name in workers.values():
                self.site.rested(current.release, name).unlink(missing_ok=True)
            new.rest = Maintenance(self.site.rest(current.release))  # no deadline but this process's death
            new.rest.shut(patience + spec.hold_seconds + MARGIN)
        others = set(self.containers.of_release(current.release)) - {current.container, *workers}
        new.stopped = [name for name in sorted(others) if self.containers.running(name)]
        self.containers.stop(new.stopped, spec.stop_timeout)
        self._wait_rested(current.release, workers, patience)

    def _wait_rested(self, number: int, workers: Mapping[str, str], patience: float) -> None:
        """Wait until each worker says that it rests, or has no process; workers by their containers' names."""
        until = time.monotonic() + patience
        look = 0.0
        waiting = list(workers)
        while waiting := [name for name in waiting if not self.site.rested(number, workers[name]).exists()]:
            if time.monotonic() >= look:
                waiting = [name for name in waiting if self.containers.at_work(name)]
                look = time.monotonic() + LOOK_AGAIN
            if waiting and time.monotonic() > until:
                raise ReleaseError(
                    self.step,
                    f"{waiting[0]} has not said within {patience:.0f} s that it rests: look at "
                    f"'docker logs {waiting[0]}'. To release without its word: docker stop {waiting[0]}",
                )
            time.sleep(PAUSE)

    def _commit(self, current: Record | None, new: Attempt, spec: Spec, image_id: str) -> Record:
        self._at("commit")
        record = Record(
            site=self.site.name, release=new.number, image=spec.image, image_id=image_id,
            version=spec.image.rpartition(":")[2], source_digest=spec.source_digest, generation=new.generation,
            container=self.containers.web(new.number), configuration=f"/site/config/releases/{new.number}.json",
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), migrations=new.migrations,
            previous=current.release if current else None, spec_digest=spec.digest(self.site.secret_key()),
            spec=spec.recorded(),
        )  # fmt: skip
        self.site.commit(record, partial(self._look_again, new.gate, new.migrator, spec) if new.gate else None)
        self._let_go(new)
        return record

    def _look_again(self, gate: Gate, migrator: Migrator | None, spec: Spec) -> None:
        """Right before the rename: nobody has written to the old generation since the copy, and requests wait still."""
        if migrator:
            migrator.check()
        self._time_left(gate, spec)

    def _let_go(self, new: Attempt) -> None:
        """End the hold and the rest: from now on ``current`` says whose workers run."""
        if new.gate:
            new.gate.open()
            new.gate = None
            new.held = time.monotonic() - new.held_since
        if new.rest:
            new.rest.open()
            new.rest = None

    def _finish(self, live: Record, old: Record | None, new: Attempt, spec: Spec) -> None:
        """What remains after the commit, here or, if it was cut short, at the next call.

        The guard goes when nothing can write to the old generation any more.
        """
        self._at("retire the old release")
        if old:
            names = self.containers.of_release(old.release)
            self._drain(old, self._nginx(), spec)
            self.containers.stop([name for name in names if self.containers.running(name)], spec.stop_timeout)
            self.containers.remove(*names)
            self.site.forget_rest(old.release)
        new.close()
        self._schedule(spec)
        self._forget(live, spec)

    def _schedule(self, spec: Spec) -> None:
        """Have cron start the release's jobs, in whatever release is live then."""
        lines = [f"{job.schedule} root {HOST_COMMAND} job {self.site.name} {name}\n" for name, job in spec.jobs.items()]
        text = "".join(["# Written by Hostwright with every release.\n", *lines])
        if not lines:
            self._cron.unlink(missing_ok=True)
        elif not self._cron.exists() or self._cron.read_text() != text:
            write_durably(self._cron, text, 0o644)

    def _forget(self, live: Record, spec: Spec) -> None:
        """Drop releases beyond the kept ones, and the database generations and images that no kept one names."""
        records = self.site.records()
        kept = {record.release for record in list(records.values())[-max(spec.keep_releases, 1) :]} | {live.release}
        for number in set(records) - kept:
            self.site.remove(number)
        for generation in self.site.generations() - {records[number].generation for number in kept}:
            self.site.remove_generation(generation)
        self._forget_images(live)
        self.site.unfinished.unlink(missing_ok=True)

    def _undo(self, current: Record | None, new: Attempt) -> None:
        """Back to the old release: it serves again before anything is tidied up. A committed release stays.

        What cannot be undone now (the Engine may be the trouble) is left to the next call's tidying up.
        """
        if self.site.current.is_symlink() and self.site.current.readlink().name == str(new.number):
            self._let_go(new)
            return
        if new.migrator:
            new.migrator.release()  # its end may take a while, for which requests need not wait
        self._let_go(new)
        new.close()
        for name in new.stopped:
            with suppress(EngineError):
                self.engine.run(["start", name])
        names = [self.containers.helper]
        with suppress(EngineError):
            names = [*self.containers.of_release(new.number), *names]
        for name in names:
            with suppress(EngineError):
                self.containers.remove(name)
        with suppress(OSError):
            self.site.remove(new.number)
            remove_tree(self.site.data / "databases" / REHEARSAL)
            if current is None or new.generation != current.generation:
                remove_tree(self.site.generation(new.generation))
            self.site.unfinished.unlink(missing_ok=True)

    def _audit(self, current: Record | None, new: Attempt, spec: Spec, started: float, failed: str = "") -> None:
        """One line for every release, and for every one that failed."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)), **self._told,
            "release": new.number, "from": current.version if current else None,
            "to": spec.image.rpartition(":")[2], "image": spec.image, "migrations": list(new.migrations),
            "seconds": round(time.time() - started, 2), "hold_ms": round(new.held * 1000),
            "outcome": failed or "released",
        }  # fmt: skip
        with suppress(OSError):
            self.site.audit(json.dumps(line))

    def _configure(self, spec: Spec, new: Attempt) -> None:
        configuration = with_numbers(spec.configuration, new.number, new.generation)
        text = json.dumps(configuration, indent=1, sort_keys=True) + "\n"
        write_durably(self.site.release_configuration(new.number), text, 0o640, 0, APP_GID)

    def _nginx(self) -> int:
        """Id of Nginx's process, 0 if it does not run."""
        found = self.engine.container(NGINX)
        return int(found["State"]["Pid"]) if found else 0

    def _drain(self, old: Record, nginx: int, spec: Spec) -> None:
        """Let the old release answer what Nginx has brought to it: its end cuts off what it has not accepted yet."""
        drain(partial(connections, nginx, f"/site/run/releases/{old.release}/app.sock"), spec.drain_seconds)

    def _page(self, number: int, spec: Spec, url: str, until: float) -> probe.Reply:
        socket = self.site.release(number) / "app.sock"
        host = probe.host_header(spec.configuration["allowed_hosts"])
        return self._ask(socket, host, spec.configuration["scheme"], url, max(until - time.monotonic(), 0.1))

    def _wait_loaded(self, number: int, spec: Spec, until: float) -> None:
        """Wait until a release answers at all; it has no database yet."""
        self._wait(number, spec, probe.READY_PATH, until, lambda reply: reply.status > 0)

    def _wait_ready(self, number: int, spec: Spec, until: float, patience: float = float("inf")) -> None:
        """Wait until a release answers as the site through its own socket.

        Args:
            number: the release's.
            spec: says host, scheme and page.
            until: a moment of the monotonic clock.
            patience: seconds for the page to come right once the release says that it can serve.
        """
        self._wait(number, spec, probe.READY_PATH, until, lambda reply: reply.ready)
        until = min(until, time.monotonic() + patience)
        self._wait(number, spec, spec.configuration["health_path"], until, lambda reply: reply.healthy)

    def _wait(self, number: int, spec: Spec, url: str, until: float, good: Callable[[probe.Reply], bool]) -> None:
        """Ask for a page until the answer is good.

        Raises:
            ReleaseError: the container ended or the time is over; with the last answer and the end of its log.
        """
        container = self.containers.web(number)
        start = looked = time.monotonic()
        while not good(reply := self._page(number, spec, url, until)):
            now = time.monotonic()
            due = now > min(looked + LOOK_AGAIN, until)
            if due and self.containers.ended(container):
                reason = f"{container} ended while it started"
            elif now > until:
                waited = max(until - start, 0)
                reason = f"{container} was not ready within {waited:.0f} s; GET {url} answered {_short(reply)}"
            else:
                looked = now if due else looked
                time.sleep(PAUSE)
                continue
            log = self.engine.run(["logs", "--tail", str(LOG_LINES), container]).said
            raise ReleaseError(self.step, reason, tail(log))

    def _publish_static(self, container: str, number: int) -> None:
        """Copy the image's static files beside the release and share the hashed ones with the releases around it."""
        target = self.site.static / str(number)
        make_directory(target, 0o755)
        self.engine("cp", f"{container}:/opt/hostwright/static/.", str(target))
        (self.site.release(number) / "static").symlink_to(Path("../../../static") / str(number))
        shared = self.site.static / "shared"
        for path in target.rglob("*"):
            if path.is_file() and HASHED_NAME.search(path.name):
                link = shared / path.relative_to(target)
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    os.link(path, link)

    def _forget_images(self, live: Record) -> None:
        """Drop the site's images that are older than the live one and that no kept release names.

        Only images of ours are looked at.
        """
        kept = self.site.records().values()
        names, ids = {record.image for record in kept}, {record.image_id for record in kept}
        site = live.image.rpartition(":")[0]
        labels = ("hostwright=image", f"{TITLE_LABEL}={site}")
        listed = self.engine.run(
            [
                "image", "ls", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}",
                *(word for label in labels for word in ("--filter", f"label={label}")),
            ]
        )  # fmt: skip
        images = [line.split() for line in listed.stdout.splitlines()]  # the newest one first
        newer = next((n for n, (_, name) in enumerate(images) if name == live.image), len(images))
        for identity, name in images[newer:]:
            untagged = name == "<none>:<none>" and identity not in ids
            old = name.startswith(f"{site}:") and name not in names and not name.endswith(DEVELOPMENT)
            if untagged or old:
                self.engine.run(["image", "rm", identity if untagged else name])  # refused while a container uses it


def _warnings(found: Mapping[str, Any]) -> tuple[str, ...]:
    """What the preflight has noticed that does not keep the release from being made."""
    unknown = found.get("unknown") or []
    newer = (
        [f"the database has migrations that this version lacks, so it is newer than the code: {', '.join(unknown)}"]
        if unknown
        else []
    )
    return (*found.get("warnings", []), *newer)


def _database(generation: int) -> str:
    return f"{DATABASES}/{generation}/db.sqlite3"


def _short(reply: probe.Reply) -> str:
    return f"{reply.status or 'none'}, {json.dumps(reply.text, ensure_ascii=False)}"

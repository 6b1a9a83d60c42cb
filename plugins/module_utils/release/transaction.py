"""One release of a site on its host: plan, then act; whatever fails leaves the old release serving."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..contract import RUN, configuration_of
from ..host import files
from ..host.engine import Engine, EngineError
from ..host.files import make_directory, remove_tree, write_durably
from . import probe
from .containers import Containers
from .errors import ReleaseError
from .generation import DATABASES, REHEARSAL, Move, database
from .hold import MARGIN, Gate, Maintenance, connections, drain
from .housekeeping import Housekeeping
from .migrator import Migrator, MigratorError, tail
from .readiness import Readiness
from .record import Record
from .rollback import Back, Rollback, wish_of
from .secret_files import UNIT
from .secret_key import SecretKey
from .site import APP_GID, APP_UID, CLOSED, OPEN, Site, with_numbers
from .spec import Command, Spec
from .steps import Progress

HASHED_NAME = re.compile(r"\.[0-9a-f]{12}\.[^./]+$")  # as ManifestStaticFilesStorage names files
NGINX = "hostwright-nginx"
ERROR_SECONDS = 2.0  # that requests wait for a page that does not come right
LOOK_SECONDS = 120
REST_ROOM = 10.0  # seconds for a worker to notice, and to start if the Engine starts it just now
ROOM = 1.1  # of what the rehearsal needed at its peak
OVERHEAD = 0.5  # seconds of a hold besides drain, copy and migration: probe, record, rename
COPY_SPEED = 200e6  # bytes a second, of a disk that is not fast
MAINTENANCE_SECONDS = 10.0  # after which Nginx opens again if this process has died


@dataclass
class Attempt:
    """A release on its way: its number, the generation it is to run on, its secret key, and what was made for it."""

    number: int
    generation: int
    key: SecretKey
    migrator: Migrator | None = None
    gate: Gate | None = None
    rest: Gate | None = None
    found: dict[str, Any] = field(default_factory=dict)
    migrations: tuple[str, ...] = ()
    rehearsed: dict[str, Any] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    held_since: float = 0.0
    held: float = 0.0
    restored: str = ""

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
        self.progress = Progress(site.progress)
        self._readiness = Readiness(site, engine, self.containers, self.progress, ask)
        self._housekeeping = Housekeeping(site, engine, self.containers, self.progress, cron)
        self._told = dict(audit or {})

    def plan(self, spec: Spec, migrations: Sequence[str] | None = None) -> Outcome:
        """What ``run`` would do, as far as a look without changes tells.

        Args:
            spec: what is asked for.
            migrations: all that the image has, in their order; None if they are those of the live release.
        """
        current = self.site.current_record() if self.site.current.is_symlink() else None
        if current is None:
            return Outcome("released", 1, None, tuple(migrations or ()))
        if current.spec_digest == spec.digest(self.site.secret_key().value):
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
        return OVERHEAD + self.site.database_bytes(current.generation) / COPY_SPEED

    def run(self, spec: Spec) -> Outcome:
        """Bring the site to what the spec asks for.

        Raises:
            ReleaseError: it failed; what served before serves on.
        """
        with self._explained(), self._locked():
            current = self.site.current_record()
            key = self.site.secret_key()
            self._housekeeping.sweep(current)
            if current and current.spec_digest == spec.digest(key.value):
                return self._keep_up(current, spec)
            return self._release(current, spec, key)

    def rehearse(self, spec: Spec) -> Outcome:
        """Go as far as a release goes before it can be noticed, and remove what that took.

        Raises:
            ReleaseError: the release would fail, and why.
        """
        with self._explained(), self._locked():
            current = self.site.current_record()
            key = self.site.secret_key()
            self._housekeeping.sweep(current)
            new = Attempt(self.site.next_number(), current.generation if current else 1, key)
            if current and current.spec_digest == spec.digest(key.value):
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
            self._housekeeping.sweep(self.site.current_record())
            back = Back(self.site, self.progress, wish)
            return self._release(back.current, back.spec(self.engine), self.site.secret_key(), back)

    def rotate(self, seconds: int) -> Outcome:
        """Make a new release of the live one with a new secret key; what older ones have signed stays good for a time.

        Args:
            seconds: that older keys are accepted.

        Raises:
            ReleaseError: it failed; what serves is the old release, with the old key.
        """
        with self._explained(), self._locked():
            current = self.site.live_record("look at the live release")
            self._housekeeping.sweep(current)
            spec = wish_of(self.site, self.engine, current, self.progress.step)
            return self._release(current, spec, self.site.secret_key().rotated(seconds))

    def target(self, wish: Rollback) -> tuple[Record, Record]:
        """The live release, and the one to go back to.

        Raises:
            ReleaseError: there is no such release.
        """
        back = Back(self.site, self.progress, wish)
        return back.current, back.target

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
                self.progress.over()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except MigratorError as error:
            raise ReleaseError(self.progress.step, str(error), error.log) from error
        except EngineError as error:
            raise ReleaseError(self.progress.step, str(error)) from error
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise ReleaseError(self.progress.step, f"{error.strerror or error}{where}") from error

    def _down(self, current: Record, spec: Spec) -> list[str]:
        """The containers of the live release that should run and do not, the one that serves first."""
        names = [current.container, *(self.containers.worker(current.release, name) for name in spec.workers)]
        return [name for name in names if not self.containers.running(name)]

    def _keep_up(self, current: Record, spec: Spec) -> Outcome:
        """Nothing to release; a live release that is down is started again, one cut short after its commit finished."""
        self.progress.at("start the live release again")
        down = self._down(current, spec)
        if down:
            self.site.provide_secrets(current.release)
            if self.engine.container(current.container) is None:
                self.containers.remove(*self.containers.of_release(current.release))
                self.containers.create(spec, current.release)
            self.engine("start", *down)
            self._readiness.wait_ready(current.release, spec, time.monotonic() + spec.health_timeout)
        self._housekeeping.schedule(spec)
        self._housekeeping.forget(current, spec)
        return Outcome("started" if down else "none", current.release, current)

    def _release(self, current: Record | None, spec: Spec, key: SecretKey, back: Back | None = None) -> Outcome:
        new = Attempt(self.site.next_number(), current.generation if current else 1, key)
        return self._transact(current, new, spec, partial(self._get_ready, current, new, spec, back))

    def _get_ready(self, current: Record | None, new: Attempt, spec: Spec, back: Back | None) -> None:
        """All between preparing and committing: the new release serves, and requests wait if its database is new."""
        migrator = self._look(new, spec, spec.image)
        if current is None:
            self._begin(new, spec, migrator)
            return
        move = self._choose(current, new, migrator, back)
        self._before(new, spec)
        if move is None:
            self._replace(current, new, spec)
        else:
            self._move(current, new, spec, move)

    def _transact(self, current: Record | None, new: Attempt, spec: Spec, get_ready: Callable[[], None]) -> Outcome:
        """Prepare a release, get it ready and commit it; whatever fails before is undone."""
        started = time.time()
        try:
            image_id = self._prepare(new, spec)
            get_ready()
            record = self._commit(current, new, spec, image_id)
        except BaseException as error:
            self._undo(current, new)
            self._audit(current, new, spec, started, failed=f"could not {self.progress.step}: {error}")
            if isinstance(error, ReleaseError | MigratorError | EngineError | OSError):
                raise
            raise ReleaseError(self.progress.step, f"{type(error).__name__}: {error}") from error
        self._audit(current, new, spec, started)
        self._finish(record, current, new, spec)
        self._after(new, spec)
        return Outcome("released", new.number, current, new.migrations, new.held, new.rehearsed, _warnings(new.found))

    def _prepare(self, new: Attempt, spec: Spec) -> str:
        """Make what belongs to the release alone; return the image's id."""
        self.progress.at("prepare the release")
        if not UNIT.exists():
            raise ReleaseError(
                self.progress.step,
                f"there is no {UNIT} on this host, so a reboot would leave the site without its secrets: "
                "provision the host first (deploy.yml without --tags, or the role hostwright.django.host)",
            )
        make_directory(self.site.release(new.number), CLOSED, 0, APP_GID)
        self.site.write_secrets(new.number, spec.secrets, new.key)
        self._configure(spec, new)
        image = self.engine.image(spec.image)
        if image is None:
            raise ReleaseError(self.progress.step, f"there is no image {spec.image} on the host: push it first")
        self.containers.check(self.progress.step, spec, new.number)
        return image.id

    def _look(self, new: Attempt, spec: Spec, image: str) -> Migrator:
        """Load the project in a container without network: what is pending, and whether it can be deployed."""
        self.progress.at("look at the project and its migrations")
        migrator = self._call_migrator(new, spec, image)
        if not {"pending", "static_url"} <= new.found.keys():
            raise ReleaseError(self.progress.step, f"the runtime in {spec.image} does not say it: build the image anew")
        url = "/" + (new.found["static_url"] or spec.static_url).lstrip("/")  # none: the project has no static files
        if url != spec.static_url:
            raise ReleaseError(
                self.progress.step,
                f"the project's STATIC_URL is {url}, but Nginx serves static files at {spec.static_url}: "
                "set site_static_url",
            )
        return migrator

    def _call_migrator(self, new: Attempt, spec: Spec, image: str) -> Migrator:
        self.site.provide_secrets(new.number)
        self.containers.remove(self.containers.helper)
        migrator = Migrator(self.engine.talk(*self.containers.one_shot(spec, new.number, image, "migrator")))
        new.migrator = migrator
        new.found = migrator.look(LOOK_SECONDS)
        return migrator

    def _choose(self, current: Record, new: Attempt, migrator: Migrator, back: Back | None) -> Move | None:
        """What has to happen to the database, if anything."""
        pending, unknown = tuple(new.found["pending"]), tuple(new.found.get("unknown") or ())
        if back:
            return back.move(pending, unknown, migrator)
        return Move(current.generation, pending) if pending else None

    def _before(self, new: Attempt, spec: Spec) -> None:
        """Run the commands that precede a release, in the new image on the live database; a failure ends it."""
        if spec.pre_release:
            self.containers.provide_network(spec)
        for command in spec.pre_release:
            self.progress.at(f"run '{' '.join(command)}' before the release")
            name = f"{self.containers.helper}-hook"
            self.containers.remove(name)
            done = self.engine.run(self.containers.hook(name, spec, new.number, command), spec.migrate_timeout)
            if done.status != 0:
                raise ReleaseError(self.progress.step, done.end, tail(done.said))

    def _after(self, new: Attempt, spec: Spec) -> None:
        """Run the commands that follow a release, in its container.

        Raises:
            ReleaseError: one failed; the release is live all the same.
        """
        self._run_after(new, spec, spec.post_release, "release")

    def _run_after(self, new: Attempt, spec: Spec, commands: Sequence[Command], what: str) -> None:
        for command in commands:
            self.progress.at(f"run '{' '.join(command)}' after the {what}")
            words = ["exec", self.containers.web(new.number), "python3", "manage.py", *command]
            done = self.engine.run(words, spec.migrate_timeout)
            if done.status != 0:
                raise ReleaseError(
                    self.progress.step,
                    f"{done.end}. The release is live; run the command again with "
                    f"'hostwright manage {self.site.name} -- {' '.join(command)}'",
                    tail(done.said),
                )

    def _begin(self, new: Attempt, spec: Spec, migrator: Migrator) -> None:
        """The first release: an empty generation, nobody to wait for."""
        write_durably(self.site.unfinished, "", 0o600)
        make_directory(self.site.generation(new.generation), 0o700, APP_UID, APP_GID)
        self._migrate(new, migrator, Move(0, tuple(new.found["pending"])), spec.migrate_timeout)
        self._start(new, spec)
        self.progress.at("wait until the new release is ready")
        self._readiness.wait_ready(new.number, spec, time.monotonic() + spec.health_timeout)

    def _replace(self, current: Record, new: Attempt, spec: Spec) -> None:
        """The same generation: the new release beside the old one. No request waits."""
        if new.migrator:
            new.migrator.dismiss()
        self._start(new, spec)
        self.progress.at("wait until the new release is ready")
        self._readiness.wait_ready(new.number, spec, time.monotonic() + spec.health_timeout)
        self._readiness.warm_up(new.number, spec)
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
        self.progress.at("wait until the new release has loaded")
        self._readiness.wait_loaded(new.number, spec, time.monotonic() + spec.health_timeout)
        self._rest_workers(current, new, spec)
        limit = self._hold(current, new, spec, migrator)
        self.progress.at("copy the database into a new generation")
        make_directory(self.site.generation(new.generation), 0o700, APP_UID, APP_GID)
        migrator.copy(database(move.source), database(new.generation), limit())
        self._migrate(new, migrator, move, limit())
        self.progress.at("wait until the new release is ready")
        until = time.monotonic() + min(limit(), spec.health_timeout)
        self._readiness.wait_ready(new.number, spec, until, patience=ERROR_SECONDS)

    def _hold(self, current: Record, new: Attempt, spec: Spec, migrator: Migrator) -> Callable[[], float]:
        """Have requests wait and the old release write no more; what is returned tells the seconds that are left."""
        nginx = self._nginx()
        self.progress.at("hold requests")
        new.gate = Maintenance(self.site.maintenance) if spec.maintenance else Gate(self.site.hold)
        new.held_since = time.monotonic()
        new.gate.shut(MAINTENANCE_SECONDS if spec.maintenance else spec.hold_seconds)
        limit = partial(self._time_left, new.gate, spec)
        self.progress.at("drain the old release")
        self._drain(current, nginx, spec)
        self.progress.at("guard the old database")
        migrator.guard(database(current.generation), min(limit(), spec.hold_seconds / 2))
        return limit

    def _time_left(self, gate: Gate, spec: Spec) -> float:
        """Seconds that a step may take before the hold ends.

        Raises:
            ReleaseError: there are none.
        """
        left = min(gate.left(), float(spec.migrate_timeout))
        if left <= 0:
            raise ReleaseError(
                self.progress.step,
                f"requests may wait {spec.hold_seconds:g} s (less {MARGIN:g} s for safety), and that was not enough: "
                "deploy again with app_maintenance=true, or raise app_hold_seconds",
            )
        return left

    def _rehearse(self, new: Attempt, spec: Spec, move: Move, migrator: Migrator) -> None:
        """Migrate a throw-away copy: a failure ends here, and the time it took predicts the hold.

        Raises:
            ReleaseError: there is no room, or requests would wait for too long.
        """
        self.progress.at("rehearse the migrations on a copy of the database")
        self._require_room(self.site.database_bytes(move.source), "a copy of the database")
        scratch = f"{DATABASES}/{REHEARSAL}/scratch"
        make_directory(self.site.data / "databases" / REHEARSAL, 0o700, APP_UID, APP_GID)
        new.rehearsed = migrator.rehearse(
            database(move.source), scratch, list(move.reversed), float(spec.migrate_timeout)
        )
        remove_tree(self.site.data / "databases" / REHEARSAL)
        self._require_room(new.rehearsed["peak_bytes"], "the migrated database, as the rehearsal showed,")
        predicted = new.rehearsed["copy_seconds"] + new.rehearsed["migrate_seconds"] + OVERHEAD
        new.rehearsed["hold_seconds"] = round(predicted, 2)
        if predicted > spec.hold_seconds - MARGIN and not spec.maintenance:
            raise ReleaseError(
                self.progress.step,
                f"requests would wait {predicted:.1f} s (copy {new.rehearsed['copy_seconds']:.1f} s, migrations "
                f"{new.rehearsed['migrate_seconds']:.1f} s), and app_hold_seconds allows {spec.hold_seconds:g} s, "
                f"less {MARGIN:g} s for safety. Nothing was held or changed. Deploy with app_maintenance=true, which "
                "answers 503 for that time, or raise app_hold_seconds",
            )

    def _require_room(self, needed: float, what: str) -> None:
        free = shutil.disk_usage(self.site.data).free
        if free < needed * ROOM:
            raise ReleaseError(
                self.progress.step,
                f"{what} needs {needed * ROOM / 1e6:.0f} MB, and {self.site.data} has {free / 1e6:.0f} MB free: "
                "make room there. Nothing was changed",
            )

    def _migrate(self, new: Attempt, migrator: Migrator, move: Move, limit: float) -> None:
        if move.applied or move.reversed:
            self.progress.at("migrate the new database generation")
            migrator.migrate(database(new.generation), list(move.reversed), limit)
            new.migrations = (*move.applied, *(f"{name} (reversed)" for name in move.reversed))

    def _start(self, new: Attempt, spec: Spec) -> None:
        """Start the containers of the release; its workers and jobs wait until it is the live one."""
        self.progress.at("start the new release")
        self.containers.remove(*self.containers.of_release(new.number))  # made late by a module that was killed
        self.containers.create(spec, new.number)
        self._publish_static(self.containers.web(new.number), new.number)
        directory = self.site.release(new.number)
        # Taken once, by the process that serves before the commit; the process of the old release sees the directory
        # too, and could plant a link of that name if it might write there already.
        write_durably(directory / "go", "", 0o600, APP_UID, APP_GID)
        directory.chmod(OPEN)
        workers = [self.containers.worker(new.number, name) for name in spec.workers]
        self.engine("start", self.containers.web(new.number), *workers)

    def _rest_workers(self, current: Record, new: Attempt, spec: Spec) -> None:
        """Let the old release's workers rest, and end its jobs: two of them at a time is one too many.

        A worker's container goes on, so that the worker does too if this process dies.

        Raises:
            ReleaseError: one goes on working.
        """
        self.progress.at("let the workers of the old release rest")
        workers = {self.containers.worker(current.release, name): name for name in current.spec.get("workers", {})}
        patience = current.spec.get("stop_timeout", spec.stop_timeout) + REST_ROOM
        if workers:
            for name in workers.values():
                remove_tree(self.site.rested(current.release, name))
            new.rest = Maintenance(self.site.rest(current.release))  # no deadline but this process's death
            new.rest.shut(patience + spec.hold_seconds + MARGIN)
        others = set(self.containers.of_release(current.release)) - {current.container, *workers}
        new.stopped = [name for name in sorted(others) if self.containers.running(name)]
        self.containers.stop(new.stopped, spec.stop_timeout)
        self._readiness.wait_rested(current.release, workers, patience)

    def _commit(self, current: Record | None, new: Attempt, spec: Spec, image_id: str) -> Record:
        self.progress.at("commit")
        record = Record(
            site=self.site.name, release=new.number, image=spec.image, image_id=image_id,
            version=spec.image.rpartition(":")[2], source_digest=spec.source_digest, generation=new.generation,
            container=self.containers.web(new.number), configuration=configuration_of(new.number),
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), migrations=new.migrations,
            previous=current.release if current else None, spec_digest=spec.digest(new.key.value),
            spec=spec.recorded(), restored=new.restored,
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
        self.progress.at("retire the old release")
        if old:
            names = self.containers.of_release(old.release)
            self._drain(old, self._nginx(), spec)
            self.containers.stop([name for name in names if self.containers.running(name)], spec.stop_timeout)
            self.containers.remove(*names)
            self.site.forget_rest(old.release)
        new.close()
        self._housekeeping.schedule(spec)
        self._housekeeping.forget(live, spec)

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
        drain(partial(connections, nginx, f"{RUN}/releases/{old.release}/app.sock"), spec.drain_seconds)

    def _publish_static(self, container: str, number: int) -> None:
        """Copy the image's static files beside the release and share the hashed ones with the releases around it."""
        target = self.site.static / str(number)
        make_directory(target, 0o755)
        self.engine("cp", f"{container}:/opt/hostwright/static/.", str(target))
        (self.site.release(number) / "static").symlink_to(Path("../../../static") / str(number))
        shared = self.site.static / "shared"
        for path in target.rglob("*"):
            # The image may hold a link to anything, and a hard link to that would be served.
            if files.is_regular(path) and HASHED_NAME.search(path.name):
                link = shared / path.relative_to(target)
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    os.link(path, link)


def _warnings(found: Mapping[str, Any]) -> tuple[str, ...]:
    """What the preflight has noticed that does not keep the release from being made."""
    unknown = found.get("unknown") or []
    newer = (
        [f"the database has migrations that this version lacks, so it is newer than the code: {', '.join(unknown)}"]
        if unknown
        else []
    )
    return (*found.get("warnings", []), *newer)

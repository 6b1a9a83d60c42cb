"""The releases of one site: each method that changes it locks the site, cleans up, and makes one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..host.engine import Engine, EngineError
from . import probe
from .backups import Protected, check
from .containers import Containers
from .errors import ReleaseError
from .getting_ready import get_ready
from .housekeeping import Housekeeping
from .migrator import MigratorError
from .outcome import Outcome
from .plan import plan
from .readiness import Readiness
from .record import Record
from .restore import TIME_LIMIT, Restore, RestoreRequest, Source
from .rollback import RollbackPlan, RollbackRequest
from .secret_key import SecretKey
from .site import Site
from .spec import Spec
from .steps import Progress, Step
from .transaction import Draft, Transaction


class Releases:
    """Makes releases of one site; the ``warnings`` of a restore are also part of the message of its failure."""

    def __init__(
        self,
        site: Site,
        engine: Engine,
        ask: probe.Ask = probe.ask,
        audit: Mapping[str, Any] | None = None,
        cron: Path = Path("/etc/cron.d"),
    ) -> None:
        """``audit``: further fields of the audit log, such as the caller and the number of pushed bytes."""
        self.site = site
        self.engine = engine
        self.containers = Containers(site, engine)
        self.progress = Progress(site.progress)
        self.warnings: tuple[str, ...] = ()
        self._readiness = Readiness(self.containers, self.progress, ask)
        self._housekeeping = Housekeeping(self.containers, self.progress, cron)
        self._audit = dict(audit or {})

    def plan(self, spec: Spec, migrations: Sequence[str] | None = None) -> Outcome:
        """Predict ``run``."""
        return plan(self.site, self.engine, self.containers, spec, migrations)

    def run(self, spec: Spec) -> Outcome:
        """Make a release of a spec, unless the live release already has it.

        Raises:
            ReleaseError: it failed; the old release still serves.
        """
        with self._locked() as current:
            key = self.site.secret_key()
            if current and current.spec_digest == spec.digest(key.value):
                return self._ensure_live(current, spec)
            return self._transaction(current, spec, key).run(get_ready)

    def rehearse(self, spec: Spec) -> Outcome:
        """Run every step of a release that has no visible effect, then clean up.

        Raises:
            ReleaseError: the release would fail.
        """
        with self._locked() as current:
            key = self.site.secret_key()
            if current and current.spec_digest == spec.digest(key.value):
                return Outcome("none", current.release, current)
            return self._transaction(current, spec, key).rehearse()

    def rollback(self, request: RollbackRequest) -> Outcome:
        """Make a new release of an older one's image and configuration.

        Raises:
            ReleaseError: it failed, or the schema differs and the request has no choice for that; the old release still
                serves.
        """
        with self._locked():
            back = RollbackPlan(self.site, self.progress, request)
            transaction = self._transaction(back.current, back.spec(self.engine), self.site.secret_key())
            return transaction.run(partial(get_ready, choose=back.move))

    def rollback_target(self, request: RollbackRequest) -> tuple[Record, Record]:
        """Return the records of the live release and of the release that ``rollback`` would go back to.

        Raises:
            ReleaseError: one of them does not exist.
        """
        back = RollbackPlan(self.site, self.progress, request)
        return back.current, back.target

    def rotate(self, seconds: int) -> Outcome:
        """Make a new release of the live one with a new secret key; older keys are accepted for ``seconds``.

        Raises:
            ReleaseError: it failed; the old release still serves, with the old key.
        """
        with self._locked():
            current = self.site.live_record(Step.READ_LIVE)
            spec = self.site.spec_of(current, self.engine, self.progress.step)
            return self._transaction(current, spec, self.site.secret_key().rotated(seconds)).run(get_ready)

    def restore(self, source: Source, request: RestoreRequest) -> Outcome:
        """Make a new release of the live one's image and configuration, on a database filled from a source.

        Raises:
            ReleaseError: it failed; the old release still serves.
        """
        restore = Restore(source, request.time_limit)
        with self._locked():
            current = self.site.live_record(Step.READ_LIVE)
            spec = replace(
                self.site.spec_of(current, self.engine, self.progress.step),
                hold_seconds=request.hold_seconds,
                maintenance=request.maintenance,
                post_restore=request.post_restore,
            )
            return self._restored(restore, current, spec, self.site.secret_key())

    def rebuild(self, spec: Spec, source: Source, time_limit: float = TIME_LIMIT) -> Outcome:
        """Make the site's first release on this host, on a database filled from a source, with a backup's secret key.

        Raises:
            ReleaseError: it failed, or the site has a live release already.
        """
        restore = Restore(source, time_limit)
        with self._locked() as current:
            if current:
                raise ReleaseError(
                    Step.READ_LIVE, f"{self.site.name} has a live release on this host: restore it instead"
                )
            protected = self._protected(source, spec)
            key = protected.secret_key if protected else self.site.secret_key()
            return self._restored(restore, None, spec, key)

    def explained(self, error: ReleaseError) -> str:
        """Return the message of a failure: failed step, cause, serving release, and the end of the log."""
        log = f"\nThe end of the log:\n{error.log}" if error.log else ""
        return "\n".join([f"could not {error.step}: {error}. {self.serving()}{log}", *self.warnings])

    def serving(self) -> str:
        """Return a sentence that names the release which serves the site; never fails."""
        try:
            live = self.site.current_record()
            if live is None:
                return "The site has no live release yet."
            if self.containers.running(live.container):
                return f"Release {live.release} ({live.image}) still serves."
        except (ReleaseError, EngineError):
            return "The serving release is unknown."
        return f"Release {live.release} ({live.image}) is the live one, but its container {live.container} is down."

    @contextmanager
    def _locked(self) -> Iterator[Record | None]:
        """Lock the site, clean up, and yield the live release's record. Every failure becomes a ReleaseError."""
        self.warnings = ()
        try:
            self.site.make_directories()
            with self.site.lock():
                try:
                    current = self.site.current_record()
                    self._housekeeping.sweep(current)
                    yield current
                finally:
                    self.progress.over()
        except (MigratorError, EngineError) as error:
            raise self.progress.error(str(error), getattr(error, "log", "")) from error
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise self.progress.error(f"{error.strerror or error}{where}") from error

    def _ensure_live(self, current: Record, spec: Spec) -> Outcome:
        """Start the live release if it is down, and finish what was interrupted after its commit."""
        self.progress.at(Step.START_LIVE)
        down = self.containers.down(current, spec)
        if down:
            self.site.provide_secrets(current.release)
            if self.engine.container(current.container) is None:
                self.containers.remove(*self.containers.of_release(current.release))
                self.containers.create(spec, current.release)
            self.engine("start", *down)
            self._readiness.wait_ready(current.release, spec, time.monotonic() + spec.health_timeout)
        self._housekeeping.schedule(spec)
        self._housekeeping.forget(current, spec.keep_releases)
        return Outcome("started" if down else "none", current.release, current)

    def _transaction(
        self,
        current: Record | None,
        spec: Spec,
        key: SecretKey,
        generation: int = 0,
        restored: str = "",
        audit_fields: Callable[[Draft], Mapping[str, Any]] = lambda _: {},
    ) -> Transaction:
        """Return the transaction of a new release, on the live generation or on the given one."""
        draft = Draft(self.site.next_number(), generation or (current.generation if current else 1), key, restored)
        return Transaction(
            self.site, self.engine, self.containers, self._readiness, self._housekeeping, self.progress, current, spec,
            draft, lambda draft: {**self._audit, **audit_fields(draft)},
        )  # fmt: skip

    def _restored(self, restore: Restore, current: Record | None, spec: Spec, key: SecretKey) -> Outcome:
        """Make a release on a generation with a new number, which also no record has."""
        named = {record.generation for record in self.site.records().values()}
        generation = 1 + max(self.site.generations() | named, default=0)
        transaction = self._transaction(current, spec, key, generation, restore.source.name, restore.audit_fields)
        outcome = transaction.run(restore)
        warnings = (*outcome.warnings, *self.warnings)
        return replace(outcome, warnings=warnings, restored=restore.result(transaction.draft))

    def _protected(self, source: Source, spec: Spec) -> Protected | None:
        """Read a backup's protected part, and warn of secrets that the site had and the spec lacks."""
        if source.backup is None:
            return None
        self.progress.at(Step.CHECK_BACKUP)
        check(source.backup)
        protected = Protected.of(source.backup)
        missing = [name for name in protected.secrets if name not in spec.secrets]
        if missing:
            where = f"{source.backup.id}.config.tar, in config/secrets/{source.backup.manifest['release']}/"
            names = ", ".join(missing)
            self.warnings = (f"site_secrets lacks secrets that the site had: {names}. Their values are in {where}",)
        return protected

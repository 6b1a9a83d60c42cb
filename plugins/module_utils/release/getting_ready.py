"""The ways to get a release ready for its commit: as the first one, on the same database, or on a migrated copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..host.files import write_durably
from .generation import database
from .old_release import OldRelease
from .steps import Step

if TYPE_CHECKING:
    from .migrator import Migrator
    from .transaction import Transaction

ERROR_SECONDS = 2.0  # time in which the page must become healthy while requests wait


def get_ready(
    transaction: Transaction,
    choose: Callable[[tuple[str, ...], tuple[str, ...], Migrator], Move | None] | None = None,
) -> None:
    """Get a release ready in the way that its migrations need.

    Args:
        transaction: the prepared transaction.
        choose: for a rollback: returns the way to its database, given the migrations that the database lacks, those
            that the code lacks, and the migrator; None to keep the live database.
    """
    migrator = transaction.load_project()
    if transaction.old is None:
        first(transaction, migrator)
        return
    pending = transaction.draft.pending
    if choose:
        move = choose(pending, transaction.draft.unknown, migrator)
    else:
        move = Move(transaction.old.record.generation, pending) if pending else None
    transaction.run_before()
    (move or replace)(transaction, transaction.old, migrator)


def first(transaction: Transaction, migrator: Migrator) -> None:
    """Make the first generation and serve it; no request waits."""
    begin(transaction)
    transaction.make_generation()
    transaction.migrate(migrator, transaction.spec.migrate_timeout, transaction.draft.pending)
    transaction.serve()


def begin(transaction: Transaction) -> None:
    """Mark the databases of a site without a live release as worthless, until its first release is committed."""
    write_durably(transaction.site.unfinished, "", 0o600)


def replace(transaction: Transaction, old: OldRelease, migrator: Migrator) -> None:
    """Start the release on the same generation beside the old release; no request waits."""
    migrator.dismiss()
    transaction.serve()
    transaction.readiness.warm_up(transaction.draft.number, transaction.spec)
    old.pause_workers()


@dataclass(frozen=True)
class Move:
    """Serve a migrated copy of a generation; requests wait while it is made.

    ``source`` is the generation that is copied; ``applied`` are the migrations that the copy gets, ``reversed`` those
    that are reversed.
    """

    source: int
    applied: tuple[str, ...] = ()
    reversed: tuple[str, ...] = ()

    def __call__(self, transaction: Transaction, old: OldRelease, migrator: Migrator) -> None:
        """Rehearse, start the new release, then hold requests while it gets its database."""
        draft, spec = transaction.draft, transaction.spec
        if self.reversed:
            draft.end_migrator()
            migrator = transaction.start_migrator(old.record.image)  # only the newer image can reverse the migrations
        transaction.rehearse_migrations(migrator, self.source, self.reversed)
        draft.generation = 1 + max(transaction.site.generations())
        transaction.configure()
        transaction.start()
        transaction.progress.at(Step.WAIT_LOADED)
        transaction.readiness.wait_loaded(draft.number, spec, time.monotonic() + spec.health_timeout)
        old.pause_workers()
        old.hold(migrator)
        transaction.progress.at(Step.COPY)
        transaction.make_generation()
        migrator.copy(database(self.source), database(draft.generation), old.seconds_left())
        transaction.migrate(migrator, old.seconds_left(), self.applied, self.reversed)
        transaction.wait_ready(ERROR_SECONDS)

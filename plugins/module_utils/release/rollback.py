"""Rollback to an older release: choose the release, and handle the migrations that it lacks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn

from ..host.engine import Engine
from .generation import database
from .getting_ready import Move
from .migrator import Migrator
from .record import Record
from .site import Site
from .spec import Spec
from .steps import Progress, Step

MIGRATIONS_TABLE = "django_migrations"


@dataclass(frozen=True)
class RollbackRequest:
    """The options of a rollback.

    ``to`` is the number of a kept release, None for the previous live one; ``schema`` is the choice for migrations that
    the older release lacks: ``refuse``, ``reverse``, ``keep`` or ``generation``.
    """

    to: int | None = None
    schema: str = "refuse"
    hold_seconds: float = 10.0
    maintenance: bool = False


class RollbackPlan:
    """A rollback: ``current`` is the live release's record, ``target`` the older one's."""

    def __init__(self, site: Site, progress: Progress, request: RollbackRequest) -> None:
        """Find the release to go back to.

        Raises:
            ReleaseError: there is none.
        """
        self._site = site
        self._progress = progress
        self._request = request
        progress.at(Step.CHOOSE_RELEASE)
        self.current = site.live_record(progress.step)
        self.target = self._target()

    def _target(self) -> Record:
        current, to = self.current, self._request.to
        kept = {number: record for number, record in self._site.records().items() if number != current.release}
        number = current.previous if to is None else to
        if number is None or number not in kept or not kept[number].spec:
            which = "The release before it" if to is None else f"Release {to}"
            listed = ", ".join(f"{n} ({record.version})" for n, record in kept.items()) or "none"
            raise self._progress.error(
                f"the live release is {current.release} ({current.version}). {which} is not kept, or is the live one. "
                f"Other kept releases: {listed}. Choose one of them with -e rollback_to=NUMBER"
            )
        return kept[number]

    def spec(self, engine: Engine) -> Spec:
        """Return the older release's spec, with the hold of the request.

        Raises:
            ReleaseError: its image is gone.
        """
        spec = self._site.spec_of(self.target, engine, self._progress.step)
        return replace(spec, hold_seconds=self._request.hold_seconds, maintenance=self._request.maintenance)

    def move(self, pending: tuple[str, ...], unknown: tuple[str, ...], migrator: Migrator) -> Move | None:
        """Return the move to the database that the older release needs, None if it needs the live one.

        Args:
            pending: migrations of the older release that the live database lacks.
            unknown: migrations of the live database that the older release lacks.
            migrator: a migrator of the older release's image, to count rows.

        Raises:
            ReleaseError: the databases differ, and the request has no choice for that.
        """
        here, there, schema = self.current.generation, self.target.generation, self._request.schema
        if schema == "generation" and here != there:
            return Move(there)
        if unknown and schema == "refuse":
            self._refuse(unknown, migrator)
        if self.current.restored and schema == "refuse" and here != there:
            self._progress.at(Step.CHOOSE_DATABASE)
            raise self._progress.error(
                f"release {self.current.release} restored {self.current.restored}, and release {self.target.release} "
                "had another database. Choose one: -e rollback_schema=generation takes that one and loses the data "
                "written since the restore; keep stays on the restored one. Nothing was changed"
            )
        if unknown and schema == "reverse":
            return Move(here, reversed=unknown)
        return Move(here, pending) if pending else None

    def _refuse(self, unknown: tuple[str, ...], migrator: Migrator) -> NoReturn:
        self._progress.at(Step.CHOOSE_SCHEMA)
        target = self.target
        written = "an unknown number of rows was"
        if self._site.generation(target.generation).is_dir():
            now = migrator.rows(database(self.current.generation))
            then = migrator.rows(database(target.generation))
            tables = (now.keys() & then.keys()) - {MIGRATIONS_TABLE}
            more = sum(max(now[table] - then[table], 0) for table in tables)
            written = f"about {more} rows were"
        raise self._progress.error(
            f"release {target.release} ({target.version}) lacks migrations that the live database has: "
            f"{', '.join(unknown)}; {written} written since then. Choose what to do with them: "
            "-e rollback_schema=reverse reverses the migrations, keep runs the old code on the new schema, generation "
            "takes the database as it was before them and loses the data written since then. Nothing was changed"
        )

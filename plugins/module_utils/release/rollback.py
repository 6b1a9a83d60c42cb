"""Going back to an older release: which one, and what becomes of migrations that it lacks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn

from ..host.engine import Engine
from .errors import ReleaseError
from .generation import Move, database
from .migrator import Migrator
from .record import Record
from .site import Site
from .spec import Spec
from .steps import Progress

SOURCE_LABEL = "org.hostwright.source-digest"
MIGRATIONS_TABLE = "django_migrations"


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


def wish_of(site: Site, engine: Engine, record: Record, step: str) -> Spec:
    """What a kept release was asked to be, with its secrets.

    Raises:
        ReleaseError: its image has gone.
    """
    image = engine.image(record.image)
    if image is None or image.labels.get(SOURCE_LABEL, record.source_digest) != record.source_digest:
        raise ReleaseError(
            step,
            f"the image {record.image} of release {record.release} is not on the host any more: deploy that version",
        )
    return Spec.of_record(record.spec, site.user_secrets(record.release))


class Back:
    """The way to an older release of a site.

    ``target`` is that release's record.
    """

    def __init__(self, site: Site, progress: Progress, wish: Rollback) -> None:
        """Find the release to go back to.

        Raises:
            ReleaseError: there is none.
        """
        self._site = site
        self._progress = progress
        self._wish = wish
        progress.at("choose the release to go back to")
        self.current = site.live_record(progress.step)
        self.target = self._target()

    def _target(self) -> Record:
        current, wish = self.current, self._wish
        records = self._site.records()
        number = current.previous if wish.to is None else wish.to
        kept = ", ".join(f"{n} ({record.version})" for n, record in records.items() if n != current.release)
        if number is None or number not in records or number == current.release or not records[number].spec:
            which = "the release before it" if wish.to is None else f"release {wish.to}"
            raise ReleaseError(
                self._progress.step,
                f"the live release is {current.release} ({current.version}), and {which} is none of the other ones "
                f"that were kept: {kept or 'there are none'}. Choose one of them with -e rollback_to=NUMBER",
            )
        return records[number]

    def spec(self, engine: Engine) -> Spec:
        """What that release was asked to be.

        Raises:
            ReleaseError: its image has gone.
        """
        spec = wish_of(self._site, engine, self.target, self._progress.step)
        return replace(spec, hold_seconds=self._wish.hold_seconds, maintenance=self._wish.maintenance)

    def move(self, pending: tuple[str, ...], unknown: tuple[str, ...], migrator: Migrator) -> Move | None:
        """What has to happen to the database, if anything.

        Args:
            pending: migrations of that release which the live database lacks.
            unknown: migrations of the live database which that release lacks.
            migrator: of that release's image; it counts rows.

        Raises:
            ReleaseError: there are unknown ones, and nothing was said of them.
        """
        here, there = self.current.generation, self.target.generation
        if self._wish.schema == "generation" and here != there:
            return Move(there)
        if unknown and self._wish.schema == "refuse":
            self._refuse(unknown, migrator)
        if self.current.restored and self._wish.schema == "refuse" and here != there:
            self._progress.at("choose what becomes of the restored database")
            raise ReleaseError(
                self._progress.step,
                f"release {self.current.release} restored {self.current.restored}, and release {self.target.release} "
                "had another database. Say which one it is to be: -e rollback_schema=generation takes that one, and "
                "loses what was written since the restore; keep stays on the restored one. Nothing was changed",
            )
        if unknown and self._wish.schema == "reverse":
            return Move(here, reversed=unknown)
        return Move(here, pending) if pending else None

    def _refuse(self, unknown: tuple[str, ...], migrator: Migrator) -> NoReturn:
        self._progress.at("choose what becomes of the schema")
        target = self.target
        written = "an unknown number of rows was"
        if self._site.generation(target.generation).is_dir():
            now = migrator.rows(database(self.current.generation))
            then = migrator.rows(database(target.generation))
            tables = (now.keys() & then.keys()) - {MIGRATIONS_TABLE}
            more = sum(max(now[table] - then[table], 0) for table in tables)
            written = f"about {more} rows were"
        raise ReleaseError(
            self._progress.step,
            f"release {target.release} ({target.version}) lacks migrations that the live database has: "
            f"{', '.join(unknown)}; {written} written since. Say what is to become of them: "
            "-e rollback_schema=reverse takes the migrations back, "
            "keep runs the old code on the new schema, "
            "generation takes the database as it was before them and loses what was written since. Nothing was changed",
        )

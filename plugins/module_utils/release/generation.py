"""Database generations as containers see them, and the ways from one to the next."""

from __future__ import annotations

from dataclasses import dataclass

from ..contract import DATA

DATABASES = f"{DATA}/databases"
REHEARSAL = "rehearsal"  # beside the generations: a copy that is thrown away


@dataclass(frozen=True)
class Move:
    """How a release comes to another database generation: which one is copied, and what is done to the copy.

    ``applied`` are the migrations that the copy gets, ``reversed`` those that are taken back.
    """

    source: int
    applied: tuple[str, ...] = ()
    reversed: tuple[str, ...] = ()


def database(generation: int) -> str:
    """Path of a generation's database in a container."""
    return f"{DATABASES}/{generation}/db.sqlite3"

"""Paths of database generations in containers."""

from __future__ import annotations

from ..contract import DATA

DATABASES = f"{DATA}/databases"
REHEARSAL = "rehearsal"  # directory of the rehearsal's temporary copy, beside the generations


def database(generation: int) -> str:
    """Return the path of a generation's database in a container."""
    return f"{DATABASES}/{generation}/db.sqlite3"

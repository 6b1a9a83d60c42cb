"""Where containers see database generations."""

from __future__ import annotations

from ..contract import DATA

DATABASES = f"{DATA}/databases"
REHEARSAL = "rehearsal"  # beside the generations: a copy that is thrown away


def database(generation: int) -> str:
    """Return the path of a generation's database in a container."""
    return f"{DATABASES}/{generation}/db.sqlite3"

"""Versions of the ledger (tests/projects/ledger) for releases, and the count of lost ids.

``python -m tests.support.ledger next DIRECTORY`` makes the next version of the project in a directory, with
``--change KIND`` one that migrates; ``python -m tests.support.ledger compare RUN PRESENT`` counts missing and doubled
ids of a run of tests.support.load.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support import load

PROJECT = Path(__file__).resolve().parents[1] / "projects" / "ledger"
# Duration of a slow migration, seconds.
SLOW = 9.0

MIGRATION = """\
import time

from django.db import migrations, models
from django.db.models import F


def touch(apps, schema_editor):
    entries = apps.get_model("entries", "Entry").objects.alias(part=F("pk") % 3)
    entries.filter(part=0).update(size=F("size") + 1)


class Migration(migrations.Migration):
    dependencies = [("entries", "{before}")]
    operations = [
        {operation},
    ]
"""
NOTHING = "migrations.RunPython.noop"


class Ledger:
    """A copy of the project in a directory, of which versions are made."""

    def __init__(self, directory: Path) -> None:
        """Use the directory, or make the copy."""
        self.directory = directory
        if not directory.exists():
            shutil.copytree(PROJECT, directory, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3*"))

    @property
    def version(self) -> str:
        """The version in the directory."""
        return (self.directory / "VERSION").read_text().strip()

    def next(self, change: str | None = None) -> str:
        """Make the next version: a changed line of code and, for a ``change`` (a key of ``CHANGES``), a migration."""
        major, minor = self.version.split(".")
        version = f"{major}.{int(minor) + 1}"
        (self.directory / "VERSION").write_text(f"{version}\n")
        with (self.directory / "entries" / "views.py").open("a") as views:
            views.write(f"\n# {version}\n")
        if change:
            migrations = self.directory / "entries" / "migrations"
            before = max(path.stem for path in migrations.glob("[0-9]*.py"))
            number = f"{int(before[:4]) + 1:04}"
            text = MIGRATION.format(before=before, operation=CHANGES[change](self, number))
            (migrations / f"{number}_{change}.py").write_text(text)
        return version

    def _add_column(self, number: str) -> str:
        name, column = f"note_{number}", "models.CharField(max_length=80, null=True)"
        self._edit("models.py", r"(?=    written = )", f"    {name} = {column}\n")
        return f'migrations.AddField("entry", "{name}", {column})'

    def _rebuild_table(self, number: str) -> str:
        length = 1000 + int(number)
        self._edit("models.py", r"((?:payload|content) = models.CharField\(max_length=)\d+", rf"\g<1>{length}")
        return f'migrations.AlterField("entry", "{self._text}", models.CharField(max_length={length}, blank=True))'

    def _change_rows(self, number: str) -> str:
        del number
        return f"migrations.RunPython(touch, {NOTHING})"

    def _rename_column(self, number: str) -> str:
        del number
        old = self._text
        new = "payload" if old == "content" else "content"
        for path in ("models.py", "views.py", "management/commands/fill.py"):
            self._edit(path, rf"\b{old}\b", new)
        return f'migrations.RenameField("entry", "{old}", "{new}")'

    def _take_long(self, number: str) -> str:
        del number
        return f"migrations.RunPython(lambda apps, schema_editor: time.sleep({SLOW}), {NOTHING})"

    @property
    def _text(self) -> str:
        """The current name of the column of an entry's text."""
        return "content" if "content = " in (self.directory / "entries" / "models.py").read_text() else "payload"

    def _edit(self, path: str, pattern: str, replacement: str) -> None:
        file = self.directory / "entries" / path
        text, found = re.subn(pattern, replacement, file.read_text())
        if not found:
            raise ValueError(f"{file} does not match {pattern}")
        file.write_text(text)


# Kinds of migrations. The code before a `rename` cannot use the database after it.
CHANGES: Mapping[str, Callable[[Ledger, str], str]] = {
    "column": Ledger._add_column,
    "rebuild": Ledger._rebuild_table,
    "data": Ledger._change_rows,
    "rename": Ledger._rename_column,
    "slow": Ledger._take_long,
}


@dataclass(frozen=True)
class Tally:
    """The comparison of acknowledged ids with those in the database."""

    acknowledged: int
    missing: tuple[str, ...]
    doubled: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether each acknowledged id is present exactly once, and no other id is doubled."""
        return not self.missing and not self.doubled

    def __str__(self) -> str:
        wrong = "".join(f"; for example {key}" for key in (self.missing + self.doubled)[:3])
        counts = f"{self.acknowledged} acknowledged, {len(self.missing)} missing, {len(self.doubled)} doubled"
        return counts + wrong


def compare(acknowledged: Iterable[str], present: Iterable[str]) -> Tally:
    """Compare acknowledged ids with those in the database, where an id may occur several times."""
    wanted, found = set(acknowledged), Counter(present)
    return Tally(
        len(wanted), tuple(sorted(wanted - set(found))), tuple(sorted(key for key, n in found.items() if n > 1))
    )


def main() -> int:
    """Make a version or compare ids; return 1 if ids are missing or doubled."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.ledger", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("next", help="make the next version, or the first one")
    verb.add_argument("directory", type=Path)
    verb.add_argument("--change", choices=sorted(CHANGES), help="with a migration")
    verb = verbs.add_parser("compare", help="compare the ids of a run with those in the database")
    verb.add_argument("run", type=Path, help="written by tests.support.load")
    verb.add_argument("present", type=Path, help="file of ids, one per line")
    options = parser.parse_args()
    if options.verb == "next":
        print(Ledger(options.directory).next(options.change))
        return 0
    ids = (request.id for request in load.read(options.run) if request.acknowledged)
    tally = compare(ids, options.present.read_text().split())
    print(tally)
    return 0 if tally.right else 1


if __name__ == "__main__":
    sys.exit(main())

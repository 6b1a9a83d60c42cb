"""Turn figures into docs/benchmarks.md: medians with their range, and which targets are met."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

HEAD = """# Benchmarks

`make bench` measures these figures and rewrites this file. Figures are medians, with minimum and maximum in brackets if
there are several samples. Every section is one run, under the conditions that it lists.
"""
UNITS = {
    "s": (1, "s", 2),
    "ms": (1e-3, "ms", 1),
    "kB": (1e3, "kB", 1),
    "MB": (1e6, "MB", 2),
    "MiB": (2**20, "MiB", 1),
    "/s": (1, "/s", 0),
    "×": (1, "×", 2),
    "": (1, "", 0),
}


@dataclass(frozen=True)
class Figure:
    """Samples of one quantity: seconds, bytes or a count; ``unit`` (a key of ``UNITS``) is the unit in the report."""

    values: tuple[float, ...]
    unit: str

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        divisor, name, digits = UNITS[self.unit]
        median, least, greatest = (
            f"{value / divisor:.{digits}f}" for value in (self.median, min(self.values), max(self.values))
        )
        brackets = f" [{least}–{greatest}]" if len(self.values) > 1 and least != greatest else ""
        return f"{median}{brackets} {name}".strip()


@dataclass(frozen=True)
class Target:
    """An upper limit of a figure's median, in seconds, bytes or as a count; ``because`` explains it.

    With ``at_least`` the limit is a lower one.
    """

    name: str
    figure: Figure
    limit: float
    because: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.figure.median >= self.limit if self.at_least else self.figure.median <= self.limit

    @property
    def cells(self) -> list[str]:
        """The row of the table of targets."""
        limit = str(Figure((self.limit,), self.figure.unit))
        because = f" ({self.because})" if self.because else ""
        sign = "≥" if self.at_least else "≤"
        return [self.name, str(self.figure), f"{sign} {limit}{because}", "met" if self.met else "**not met**"]


@dataclass(frozen=True)
class Table:
    """A table with a sentence above it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    about: str = ""

    def __str__(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        text = "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)
        return f"{self.about}\n\n{text}" if self.about else text


@dataclass(frozen=True)
class Section:
    """The report of one measurement: conditions, tables, targets."""

    name: str
    title: str
    conditions: Mapping[str, str]
    tables: Sequence[Table]
    targets: Sequence[Target] = field(default_factory=tuple)
    notes: str = ""

    @property
    def verdict(self) -> str:
        """A sentence that counts the targets that are met and names the others."""
        missed = [target.name for target in self.targets if not target.met]
        met = f"{len(self.targets) - len(missed)} of {len(self.targets)} targets are met"
        return f"{met}; not met: {', '.join(missed)}." if missed else f"{met}."

    def __str__(self) -> str:
        parts = [f"## {self.title}", "".join(f"- {name}: {value}\n" for name, value in self.conditions.items())]
        parts += [str(table) for table in self.tables]
        if self.targets:
            table = Table(("target", "measured", "limit", ""), [target.cells for target in self.targets])
            parts += [f"**{self.verdict}**", str(table)]
        parts += [self.notes] if self.notes else []
        return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def merged(document: str, sections: Sequence[Section], order: Sequence[str]) -> str:
    """Return the document with these sections replaced and the others unchanged, in this order of names."""
    known = dict(re.findall(r"^<!-- (\w+) -->\n(.*?)(?=^<!-- |\Z)", document, re.MULTILINE | re.DOTALL))
    known |= {section.name: str(section) for section in sections}
    return "\n".join([HEAD, *(f"<!-- {name} -->\n{known[name].strip()}\n" for name in order if name in known)])

"""Problems for a person to read: what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """One reason to stop: what is wrong, where it was found, and what the reader can do about it."""

    what: str
    where: str
    do: str

    def __str__(self) -> str:
        return f"{self.what}\n   where: {self.where}\n   what to do: {self.do}"

    def as_dict(self) -> dict[str, str]:
        """The fields, for a module's result."""
        return asdict(self)


class ProblemError(Exception):
    """A problem that stops the operation."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def report(problems: Sequence[Problem], host: str) -> str:
    """Format all problems of a host as one numbered message."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    numbered = [f"{number}. {problem}" for number, problem in enumerate(problems, start=1)]
    return "\n".join([f"{count} on host {host}; nothing was changed.", *numbered])

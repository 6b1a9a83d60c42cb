"""Problems as a person wants to read them: what, where, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """One reason to stop: what is wrong, where it was seen, and what the reader can do about it."""

    what: str
    where: str
    do: str

    def __str__(self) -> str:
        return f"{self.what}\n   where: {self.where}\n   what to do: {self.do}"

    def as_dict(self) -> dict[str, str]:
        """The same for a module's result."""
        return asdict(self)


class ProblemError(Exception):
    """A problem that ends what was going on."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def report(problems: Sequence[Problem], host: str) -> str:
    """All problems of a host as one numbered message."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    numbered = [f"{number}. {problem}" for number, problem in enumerate(problems, start=1)]
    return "\n".join([f"{count} on host {host}; nothing was changed.", *numbered])

"""Counts of many backups: how many were correct, and what kills left behind."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 5


@dataclass
class Count:
    """The number of tries and of correct ones, with examples of the problems."""

    tried: int = 0
    right: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """The number of wrong ones."""
        return self.tried - self.right

    def add(self, problem: str) -> None:
        """Count a try; ``problem`` is empty if it was correct."""
        self.tried += 1
        if not problem:
            self.right += 1
        elif len(self.examples) < EXAMPLES:
            self.examples.append(problem)


@dataclass
class Kills:
    """The effects of kills of the backup.

    Attributes:
        killed: runs that had not ended when they were killed.
        before: killed runs that left no file: they had written nothing.
        during: killed runs that left an unfinished backup.
        after: killed runs that left a finished backup and nothing else.
        unverified: backups that were listed after a kill and failed verification.
        lost: kills after which the newest verified backup was missing.
        left: unfinished files that the next run did not remove.
        examples: descriptions of the problems.
    """

    killed: int = 0
    before: int = 0
    during: int = 0
    after: int = 0
    unverified: int = 0
    lost: int = 0
    left: int = 0
    examples: list[str] = field(default_factory=list)

    def judge(self, newest: str, names: set[str], report: dict[str, Any]) -> None:
        """Judge the state after a kill.

        Args:
            newest: the newest backup that was verified before the kill.
            names: the names in the directory.
            report: the result of ``verify`` after the kill, oldest backup first.
        """
        verified, wrong = report["verified"], report["wrong"]
        self.unverified += len(wrong)
        self.lost += newest not in verified
        self.examples += [f"{one['id']}: {one['problem']}" for one in wrong]
        if newest not in verified:
            self.examples.append(f"{newest} was the newest verified backup, and is missing")
        if unfinished(names):
            self.during += 1
        elif verified and verified[-1] != newest:
            self.after += 1
        else:
            self.before += 1

    def judge_next(self, names: set[str]) -> None:
        """Judge the names in the directory after the next run."""
        left = unfinished(names)
        self.left += len(left)
        self.examples += [f"{name}: left after the next run" for name in left]


def unfinished(names: set[str]) -> list[str]:
    """Return the names in a directory of backups that do not belong to a finished backup."""
    finished = {name.partition(".")[0] for name in names if name.endswith(".json.sha256")}
    return sorted(name for name in names if name.partition(".")[0] not in finished)


def moments(seed: int, count: int, longest: float) -> list[float]:
    """Return when to kill each run, in seconds after its start; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 (repeatable)
    return [chance.uniform(0, longest) for _ in range(count)]

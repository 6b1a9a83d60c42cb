"""What is counted of many backups: how many were right, and what kills left."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 5


@dataclass
class Count:
    """How many were tried and right, and what was wrong with some of the others."""

    tried: int = 0
    right: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """How many were not right."""
        return self.tried - self.right

    def add(self, problem: str) -> None:
        """Count one, whose problem is empty if it is right."""
        self.tried += 1
        if not problem:
            self.right += 1
        elif len(self.examples) < EXAMPLES:
            self.examples.append(problem)


@dataclass
class Kills:
    """What kills of the backup did.

    Attributes:
        killed: runs that had not ended when they were killed.
        before: of these, those that left nothing: nothing had been begun.
        during: those that left something unfinished.
        after: those that left a finished backup, and nothing else.
        unverified: backups that were listed after a kill and did not verify.
        lost: times that the newest verified backup was lost.
        left: files that outlived the next run.
        examples: what was wrong.
    """

    killed: int = 0
    before: int = 0
    during: int = 0
    after: int = 0
    unverified: int = 0
    lost: int = 0
    left: int = 0
    examples: list[str] = field(default_factory=list)

    def judge(self, newest: str, names: set[str], looked: dict[str, Any]) -> None:
        """Judge what a kill left.

        Args:
            newest: the newest backup that had been verified before.
            names: what is in the directory.
            looked: what ``verify`` says now, the oldest first.
        """
        verified, wrong = looked["verified"], looked["wrong"]
        self.unverified += len(wrong)
        self.lost += newest not in verified
        self.examples += [f"{one['id']}: {one['problem']}" for one in wrong]
        if newest not in verified:
            self.examples.append(f"{newest} was the newest verified one, and is not there any more")
        if unfinished(names):
            self.during += 1
        elif verified and verified[-1] != newest:
            self.after += 1
        else:
            self.before += 1

    def judge_next(self, names: set[str]) -> None:
        """Judge what is there after the next run."""
        left = unfinished(names)
        self.left += len(left)
        self.examples += [f"{name} outlived the next run" for name in left]


def unfinished(names: set[str]) -> list[str]:
    """Which names in a directory of backups are no part of a finished backup."""
    finished = {name.partition(".")[0] for name in names if name.endswith(".json.sha256")}
    return sorted(name for name in names if name.partition(".")[0] not in finished)


def moments(seed: int, count: int, longest: float) -> list[float]:
    """When to kill each run, in seconds after its start: the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 (repeatable)
    return [chance.uniform(0, longest) for _ in range(count)]

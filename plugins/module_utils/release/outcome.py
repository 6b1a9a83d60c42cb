"""The outcome of a call, or its prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .record import Record


@dataclass(frozen=True)
class Outcome:
    """The outcome of a call: ``action`` is ``none``, ``started`` (the live release was down) or ``released``.

    ``previous`` is the release that was live before the call, ``held`` the number of seconds that requests waited, and
    ``restored`` has the further results of a restore.
    """

    action: str
    release: int
    previous: Record | None
    migrations: tuple[str, ...] = ()
    held: float = 0.0
    rehearsed: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    restored: Mapping[str, Any] = field(default_factory=dict)

    def result(self) -> dict[str, Any]:
        """Return the part of a module's result that every release has."""
        return {
            "changed": self.action != "none",
            "action": self.action,
            "release": self.release,
            "previous": self.previous.release if self.previous else None,
            "migrations": list(self.migrations),
            "held": round(self.held, 3),
            "rehearsed": dict(self.rehearsed),
        }

"""How far a release has come: its step is named in every message, and beside the site's lock."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


class Progress:
    """The step that a release is at."""

    def __init__(self, path: Path) -> None:
        """Take the file that tells the step to whoever wants to know."""
        self.step = "begin"
        self._path = path

    def at(self, step: str) -> None:
        """Begin a step. On a full disk nobody else gets to know it, but what fills the disk can be tidied up."""
        self.step = step
        with suppress(OSError):
            self._path.write_text(f"{step}\n")

    def over(self) -> None:
        """Nothing is under way any more; the step stays known here."""
        self._path.unlink(missing_ok=True)

"""The failure of a release."""

from __future__ import annotations


class ReleaseError(Exception):
    """A release that was not made. ``step`` names the step that failed; the message says why and what to do."""

    def __init__(self, step: str, message: str, log: str = "") -> None:
        super().__init__(message)
        self.step = str(step)  # without the type of an enumeration, which a module could not return
        self.log = log

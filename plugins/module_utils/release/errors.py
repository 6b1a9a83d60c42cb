"""The failure of a release."""

from __future__ import annotations


class ReleaseError(Exception):
    """A release that was not made. ``step`` says where it ended, the message why and what to do."""

    def __init__(self, step: str, message: str, log: str = "") -> None:
        super().__init__(message)
        self.step = step
        self.log = log

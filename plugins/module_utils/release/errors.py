"""The failure of a release."""

from __future__ import annotations


class ReleaseError(Exception):
    """A failed release. ``step`` names the failed step; the message gives the cause and the remedy."""

    def __init__(self, step: str, message: str, log: str = "") -> None:
        super().__init__(message)
        self.step = str(step)  # a plain str: a module cannot return a member of an enumeration
        self.log = log

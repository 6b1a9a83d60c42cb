"""Errors and exit statuses of the host command."""

from __future__ import annotations

BUSY = 75  # EX_TEMPFAIL of sysexits.h
TIMED_OUT = 124  # as timeout(1)


class CommandError(Exception):
    """A failure with a message for the operator and the command's exit status."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        """Store the message and the exit status."""
        super().__init__(message)
        self.exit_status = exit_status


class BusyError(CommandError):
    """Another run is in progress; that is not a failure."""

    def __init__(self, message: str) -> None:
        """Store the message."""
        super().__init__(message, BUSY)

"""What the command ends with if something is wrong."""

from __future__ import annotations

BUSY = 75  # EX_TEMPFAIL of sysexits.h
TIMED_OUT = 124  # as timeout(1)


class CommandError(Exception):
    """Something the reader can put right."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        """Keep the message and what the command exits with."""
        super().__init__(message)
        self.exit_status = exit_status


class BusyError(CommandError):
    """The same is under way already; what was asked for is not wrong."""

    def __init__(self, message: str) -> None:
        """Keep the message."""
        super().__init__(message, BUSY)

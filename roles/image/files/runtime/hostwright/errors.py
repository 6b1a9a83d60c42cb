"""The runtime's own exceptions: each message is for the person who reads it (what, where, what to do)."""


class HostwrightError(Exception):
    """Something that the reader can put right; the command line prints the message and nothing else.

    Attributes:
        exit_status: what the process exits with.
    """

    exit_status = 1


class ConfigurationError(HostwrightError):
    """The release's configuration, its record or a secret is missing or wrong."""

    exit_status = 2


class ProjectError(HostwrightError):
    """The project cannot be deployed as it is."""


class DatabaseError(HostwrightError):
    """The site's database is missing, damaged or cannot be read."""


class BackupError(HostwrightError):
    """A backup was not made; the earlier ones are as they were."""


class BusyError(HostwrightError):
    """Somebody else does the same thing at this moment."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h: try again later

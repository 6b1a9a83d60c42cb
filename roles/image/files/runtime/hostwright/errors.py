"""Exceptions of the runtime. Each message says what happened, where, and what to do."""


class HostwrightError(Exception):
    """An error that the user can correct; the command line prints its message without a traceback.

    Attributes:
        exit_status: exit status of the process.
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
    """A backup could not be made, verified or restored. Existing backups are unchanged."""


class BusyError(HostwrightError):
    """Another process is running the same operation."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h: try again later

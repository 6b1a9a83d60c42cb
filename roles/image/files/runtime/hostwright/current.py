"""What ``current`` names: whether a release may run is read there, and never remembered (DESIGN §6.7)."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from hostwright.configuration import Configuration
from hostwright.errors import ConfigurationError
from hostwright.snapshot import flush

_PAUSE = 0.25


def number(environ: Mapping[str, str] = os.environ) -> str:
    """Return this release's number: the name of its configuration file (``/site/config/releases/7.json``).

    Raises:
        ConfigurationError: ``HOSTWRIGHT_CONFIG`` is not set.
    """
    path = environ.get("HOSTWRIGHT_CONFIG")
    if not path:
        raise ConfigurationError("HOSTWRIGHT_CONFIG is not set: it names the release's configuration (a JSON file).")
    return Path(path).stem


def named(release: Configuration) -> str | None:
    """Return the number of the release that ``current`` names, None before the site's first commit.

    Args:
        release: its socket lies in ``releases/<number>`` beside ``current``.
    """
    try:
        return (release.require_socket().parents[2] / "current").readlink().name
    except OSError:
        return None


def reason(release: Configuration) -> str:
    """Say why this release, which ``current`` does not name, waits."""
    live = named(release)
    why = f"current names release {live}" if live else "no release has been committed yet"
    return f"release {number()} waits: {why}"


def wait(release: Configuration, may_start: bool) -> None:
    """Return as soon as this release may run: when ``current`` names it.

    The Engine starts every container after a reboot, also those of releases that were never committed or are
    retired. They wait here, without Django and without the database. SIGTERM ends the process, with exit status 0.

    Args:
        release: this one.
        may_start: the file ``go`` beside the release's socket lets it run once, before its commit; it is removed.
    """
    # The first process of a container has no default handlers. Those of Python end with the exec that follows.
    signal.signal(signal.SIGTERM, _end)
    own = number()
    if named(release) == own or (may_start and _takes(release.require_socket().with_name("go"))):
        return
    print(f"hostwright: {reason(release)}.", flush=True)
    while named(release) != own:
        time.sleep(_PAUSE)


def _takes(go: Path) -> bool:
    try:
        go.unlink()
    except OSError:
        return False
    flush(go.parent)  # Otherwise a power failure could bring it back.
    return True


def _end(_number: int, _frame: object) -> None:
    os._exit(0)

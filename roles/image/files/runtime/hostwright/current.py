"""Read ``current``: it alone decides which release may run (docs/architecture.md, "How a release is made")."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from hostwright import configuration
from hostwright.configuration import Configuration
from hostwright.snapshot import flush

_PAUSE = 0.25


def number(environ: Mapping[str, str] = os.environ) -> str:
    """Return this release's number: the name of its configuration file (``/site/config/releases/7.json``).

    Raises:
        ConfigurationError: ``HOSTWRIGHT_CONFIG`` is not set.
    """
    return configuration.require_path(environ).stem


def live(release: Configuration) -> str | None:
    """Return the number of the release that ``current`` names; None before the site's first commit.

    Args:
        release: configuration whose socket is in ``releases/<number>`` beside ``current``.
    """
    try:
        return (release.require_socket().parents[2] / "current").readlink().name
    except OSError:
        return None


def reason(release: Configuration) -> str:
    """Return why this release, which ``current`` does not name, waits."""
    other = live(release)
    why = f"current names release {other}" if other else "no release has been committed yet"
    return f"release {number()} waits: {why}"


def wait(release: Configuration, may_start: bool) -> None:
    """Wait until ``current`` names this release.

    After a reboot the Engine starts every container, also those of releases that were never committed or are
    retired. They wait here, without Django and without the database. SIGTERM ends the process with exit status 0.

    Args:
        release: configuration of this release.
        may_start: also return if the file ``go`` exists beside the release's socket. It permits one start before the
            commit, and is removed.
    """
    # The first process of a container has no default handlers. The exec that follows removes Python's.
    signal.signal(signal.SIGTERM, _end)
    own = number()
    if live(release) == own or (may_start and _take_go(release.require_socket().with_name("go"))):
        return
    print(f"hostwright: {reason(release)}.", flush=True)
    while live(release) != own:
        time.sleep(_PAUSE)


def _take_go(go: Path) -> bool:
    try:
        go.unlink()
    except OSError:
        return False
    flush(go.parent)  # Otherwise the file could reappear after a power failure.
    return True


def _end(_number: int, _frame: object) -> None:
    os._exit(0)

"""What the modules and the command ``hostwright`` of a host must agree on: paths, users, labels, container options.

Both use this file: the command has it by a symbolic link in its package. So it uses the standard library only, and
runs under the Python of every host. What the image's runtime has to know as well is compared by
``tests/unit/test_contract.py``: an image may be older than the modules.
"""

from __future__ import annotations

ROOT = "/srv/hostwright"
"""Holds what the containers of the sites see."""
MEMORY = "/run/hostwright/secrets"
"""Holds the secrets that the containers see; gone when the host is switched off."""
BACKUPS_ROOT = "/var/backups/hostwright"
"""Holds the backups of each site, unless the role backup is told another place."""
APP_UID = APP_GID = 10001
"""The user of the sites' containers, and its group."""
NGINX_UID = 10002
"""The user of Nginx in its container; its group is that of the sites."""
CERTIFICATE_DAYS = 14
"""Days before its end from which a certificate is reported."""
TIME = "%Y-%m-%dT%H:%M:%SZ"
"""How a moment (UTC) is written, for ``time.strftime``."""

# Where a container of a site sees what.
DATA = "/site/data"
CONFIGURATION = "/site/config"
RUN = "/site/run"
MEDIA = "/site/media"
BACKUPS = "/site/backups"
SECRETS = "/run/secrets"
TMP = "/tmp"  # noqa: S108 (the container's own, in memory)


def configuration_of(release: object) -> str:
    """Path of a release's configuration in its container."""
    return f"{CONFIGURATION}/releases/{release}.json"


def labels(kind: str, site: str, release: object) -> list[str]:
    """Docker's options for the labels of a site's container.

    Args:
        kind: what the container is for: ``release``, ``backup``, …
        site: the site's name.
        release: the release's number.
    """
    found = {"hostwright": kind, "hostwright.site": site, "hostwright.release": release}
    return [word for name, value in found.items() for word in ("--label", f"{name}={value}")]


def hardened(network: str, memory: str, tmp: str, pids: int, shares: int, cpus: float = 0.0) -> list[str]:
    """Docker's options that limit what a site's container may do and use.

    Args:
        network: name of its network, ``none`` for no network.
        memory: memory as Docker writes sizes; it has no swap.
        tmp: size of /tmp, which is memory, as Docker writes sizes.
        pids: processes and threads.
        shares: of a processor that is short.
        cpus: processor cores; 0 sets no limit.
    """
    return [
        "--init",  # a first process has no default handlers: a SIGTERM before Python has set its own would be lost
        "--pull", "never", "--user", f"{APP_UID}:{APP_GID}", "--network", network,
        "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        "--memory", memory, "--memory-swap", memory, "--cpus", str(cpus),
        "--cpu-shares", str(shares), "--ulimit", "core=0", "--pids-limit", str(pids),
        "--tmpfs", f"{TMP}:rw,nosuid,nodev,noexec,size={tmp},mode=1777",
    ]  # fmt: skip

"""Values that the modules and a host's command ``hostwright`` share: paths, users, labels, container options.

Both use this file, which is installed with the command (host/command.py), so it uses the standard library only. The
image's runtime has its own copy of some values, because an image may be older than the modules;
``tests/unit/test_contract.py`` compares them.
"""

from __future__ import annotations

ROOT = "/srv/hostwright"
"""Directory of all sites."""
MEMORY = "/run/hostwright/secrets"
"""Directory of the secrets for the containers; lost when the host is switched off."""
BACKUPS_ROOT = "/var/backups/hostwright"
"""Default directory of the backups, with a directory for each site."""
APP_UID = APP_GID = 10001
"""The user of the sites' containers, and its group."""
NGINX_UID = 10002
"""The user of Nginx in its container; its group is that of the sites."""
SOURCE_LABEL = "org.hostwright.source-digest"
"""Label of a site's image: the digest of the source that it was built from."""
CERTIFICATE_DAYS = 14
"""Days before its expiry from which a certificate is reported."""
TIME = "%Y-%m-%dT%H:%M:%SZ"
"""Format of a time (UTC), for ``time.strftime``."""

# Paths in a site's container.
DATA = "/site/data"
CONFIGURATION = "/site/config"
RUN = "/site/run"
MEDIA = "/site/media"
BACKUPS = "/site/backups"
SECRETS = "/run/secrets"
TMP = "/tmp"  # noqa: S108 (the container's own, in memory)


def configuration_of(release: object) -> str:
    """Return the path of a release's configuration in its container."""
    return f"{CONFIGURATION}/releases/{release}.json"


def labels(kind: str, site: str, release: object) -> list[str]:
    """Return Docker's options for the labels of a site's container.

    Args:
        kind: purpose of the container: ``release``, ``backup``, …
        site: the site's name.
        release: the release's number.
    """
    found = {"hostwright": kind, "hostwright.site": site, "hostwright.release": release}
    return [word for name, value in found.items() for word in ("--label", f"{name}={value}")]


def hardened(network: str, memory: str, tmp: str, pids: int, shares: int, cpus: float = 0.0) -> list[str]:
    """Return Docker's options that restrict a site's container.

    Args:
        network: name of its network, ``none`` for no network.
        memory: memory, as a size in Docker's notation; it has no swap.
        tmp: size of /tmp, which is memory, in Docker's notation.
        pids: number of processes and threads.
        shares: CPU shares, which apply when the processor is busy.
        cpus: processor cores; 0 sets no limit.
    """
    return [
        "--init",  # process 1 has no default signal handlers: a SIGTERM before Python has set its own would be lost
        "--pull", "never", "--user", f"{APP_UID}:{APP_GID}", "--network", network,
        "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        "--memory", memory, "--memory-swap", memory, "--cpus", str(cpus),
        "--cpu-shares", str(shares), "--ulimit", "core=0", "--pids-limit", str(pids),
        "--tmpfs", f"{TMP}:rw,nosuid,nodev,noexec,size={tmp},mode=1777",
    ]  # fmt: skip

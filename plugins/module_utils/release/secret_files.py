"""The secrets of releases in memory: copies, on a tmpfs of the host, of the secret files in a site's configuration.

A release's containers see only its copies. The copies are lost when the host is switched off, so at boot a unit of
systemd makes the host command copy them before the Engine starts. The host command has this module (host/command.py).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

from ..host.files import write_durably

MEMORY = Path("/run/hostwright/secrets")
BLOCK = 1 << 16
UNIT = Path("/etc/systemd/system/hostwright-secrets.service")
"""Copies the secrets at boot; the role host installs it."""


def provide(rest: Path, memory: Path) -> None:
    """Make the copies of a release's secrets equal to the files on disk, whatever exists already.

    The directory gets the site as its owner last, so that the site never reads a part of the secrets.

    Args:
        rest: the release's directory of secrets on disk.
        memory: the release's directory in memory, below the site's.

    Raises:
        OSError: a file cannot be read or written.
    """
    directory = os.open(rest, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _fill(memory, directory)
        status = os.fstat(directory)
        os.chown(memory, status.st_uid, status.st_gid)
    finally:
        os.close(directory)


def _fill(memory: Path, rest: int) -> None:
    found = [name for name in os.listdir(rest) if not name.startswith(".")]
    memory.mkdir(parents=True, exist_ok=True)
    for directory in (memory.parent.parent, memory.parent, memory):
        directory.chmod(0o700)
    for path in memory.iterdir():
        if path.name not in found:
            path.unlink()
    for name in found:
        _copy(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=rest), memory / name)


def _copy(source: int, target: Path) -> None:
    """Copy a file with its owner, atomically, and close its descriptor."""
    try:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", target.name)
        data = b"".join(iter(lambda: os.read(source, BLOCK), b""))
    finally:
        os.close(source)
    write_durably(target, data.decode(), 0o600, status.st_uid, status.st_gid)


def provide_all(root: Path, memory: Path) -> int:
    """Provide the secrets of all releases of all sites; a failure does not prevent the others.

    Args:
        root: the directory of all sites.
        memory: the directory for the copies.

    Returns:
        The exit status.
    """
    status = 0
    for rest in sorted(root.glob("config/*/secrets/*")):
        if rest.name.isdecimal():
            try:
                provide(rest, memory / rest.parent.parent.name / rest.name)
            except (OSError, UnicodeDecodeError) as error:
                print(f"cannot copy the secrets in {rest} to {memory}: {error}", file=sys.stderr)
                status = 1
    return status

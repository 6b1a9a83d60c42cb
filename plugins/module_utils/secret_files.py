"""The secrets of releases in memory: copies, on a tmpfs of the host, of what lies at rest in a site's configuration.

A release's containers see its copies and nothing else. The host forgets them when it is switched off, so this file is
also a program, which makes them again before the Engine starts; it uses the standard library only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

MEMORY = Path("/run/hostwright/secrets")


def provide(rest: Path, memory: Path) -> None:
    """Bring the copies of a release's secrets to what lies at rest, whatever is there.

    The directory is given to the site last, so that it never reads half of them.

    Args:
        rest: the release's directory of secrets.
        memory: its directory in memory, below the site's.

    Raises:
        OSError: something cannot be read or written.
    """
    found = [path for path in rest.iterdir() if not path.name.startswith(".")]
    memory.mkdir(parents=True, exist_ok=True)
    for directory in (memory.parent.parent, memory.parent, memory):
        directory.chmod(0o700)
    for path in memory.iterdir():
        if path.name not in {source.name for source in found}:
            path.unlink()
    for source in found:
        _copy(source, memory / source.name)
    status = rest.stat()
    os.chown(memory, status.st_uid, status.st_gid)


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its owner, whole or not at all."""
    status, data = source.stat(), source.read_bytes()
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        os.fchown(descriptor, status.st_uid, status.st_gid)
        handle.write(data)
    temporary.replace(target)


def main(root: Path, memory: Path) -> int:
    """Provide the secrets of all releases of all sites; one that fails keeps no other from its own.

    Args:
        root: the directory that holds all sites.
        memory: the directory that gets the copies.

    Returns:
        The exit status.
    """
    status = 0
    for rest in sorted(root.glob("config/*/secrets/*")):
        if rest.name.isdecimal():
            try:
                provide(rest, memory / rest.parent.parent.name / rest.name)
            except OSError as error:
                print(f"cannot copy the secrets in {rest} to {memory}: {error}", file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), MEMORY))

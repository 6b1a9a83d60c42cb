"""What a host does when it boots, before its Engine starts: it makes the copies of secrets in memory again."""

from __future__ import annotations

import inspect
from pathlib import Path

from ..host.files import fsync, make_directory, write_durably
from . import secret_files

PROGRAM = Path("/usr/local/lib/hostwright-secrets.py")
UNITS = Path("/etc/systemd/system")
UNIT = "hostwright-secrets.service"
# The Engine starts, and each site with it, even if the secrets of one cannot be read.
TEXT = """\
[Unit]
Description=Secrets of Hostwright's sites, in memory
RequiresMountsFor={root}
Before=docker.service

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -I {program} {root}
TimeoutStartSec=60

[Install]
WantedBy=docker.service
"""


def install(root: Path) -> None:
    """Have the host do it, for the sites below ``root``; whatever is there already and right stays.

    systemd need not be told: it reads its units at the next boot, and until then the copies are there.

    Raises:
        OSError: something cannot be written.
    """
    unit = TEXT.format(root=root, program=PROGRAM)
    for path, text in ((PROGRAM, inspect.getsource(secret_files)), (UNITS / UNIT, unit)):
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_durably(path, text, 0o644)
    wanted = UNITS / "docker.service.wants" / UNIT
    if not wanted.is_symlink():
        make_directory(wanted.parent, 0o755)
        wanted.symlink_to(f"../{UNIT}")
        fsync(wanted.parent)

"""The backups of a site: those that can be used, and why the others cannot."""

from __future__ import annotations

import calendar
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.hostwright.django.plugins.module_utils import manifest
from ansible_collections.hostwright.django.plugins.module_utils.contract import TIME

from hostwright_host.errors import CommandError


@dataclass(frozen=True)
class Backup:
    """What the manifest of a backup that can be used says."""

    id: str
    taken: float
    """Seconds since the epoch."""
    manifest: dict[str, Any]

    @property
    def seconds(self) -> float:
        """How long it took to make."""
        return float((self.manifest.get("seconds") or {}).get("total") or 0)

    @property
    def database_bytes(self) -> int:
        """Size of the database, unpacked."""
        return int((self.manifest.get("database") or {}).get("bytes") or 0)

    @property
    def archive_bytes(self) -> int:
        """Size of the database, packed."""
        return int((self.manifest.get("archive") or {}).get("bytes") or 0)

    @property
    def media_bytes(self) -> int:
        """Size of the media files."""
        return int((self.manifest.get("media") or {}).get("bytes") or 0)

    @property
    def new_media_bytes(self) -> int:
        """Size of those media files that the backup before does not have."""
        return int((self.manifest.get("media") or {}).get("new_bytes") or 0)

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return int(self.manifest.get("rows_total") or 0)


def backups(directory: Path) -> list[Backup]:
    """List the backups of a directory that can be used, oldest first."""
    return look(directory)[0]


def look(directory: Path) -> tuple[list[Backup], dict[str, str]]:
    """List the backups of a directory; the restore of a site judges them in the same way.

    Returns:
        Those that can be used, oldest first, and for each other one its id and what is wrong with it.

    Raises:
        CommandError: the directory or a manifest cannot be read.
    """
    try:
        usable, wrong = manifest.look(directory)
    except FileNotFoundError:
        return [], {}
    except OSError as error:
        raise CommandError(f"{error.filename or directory}: cannot be read: {error.strerror}.") from error
    return [Backup(found["id"], _seconds(found["time"]), found) for found in usable], wrong


def stored_bytes(directory: Path, found: Sequence[Backup]) -> int:
    """Add up what backups take on disk; what several share by hard links counts once.

    Media files are not looked at, there may be millions of links: what is new in each backup, its manifest says.
    """
    sizes = {}
    for path in directory.glob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue  # a backup that is being made, or removed
        if stat.S_ISREG(status.st_mode):
            sizes[status.st_dev, status.st_ino] = status.st_size
    media = found[0].media_bytes + sum(backup.new_media_bytes for backup in found[1:]) if found else 0
    return sum(sizes.values()) + media


def require_directory(directory: Path) -> None:
    """Refuse a destination that is not there, such as a disk that is not mounted."""
    if not directory.is_dir():
        raise CommandError(f"{directory}: the destination is missing: run the role backup, or mount it.")


def written(moment: float) -> str:
    """Write a moment (seconds since the epoch) as the manifests do."""
    return time.strftime(TIME, time.gmtime(moment))


def _seconds(text: str) -> float:
    return float(calendar.timegm(time.strptime(text, TIME)))

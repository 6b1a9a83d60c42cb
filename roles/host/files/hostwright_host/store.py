"""The backups of a site: the usable ones, and why the others are not usable."""

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
    """A usable backup, as its manifest describes it."""

    id: str
    taken: float
    """Seconds since the epoch."""
    manifest: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Seconds that it took to make."""
        return float((self.manifest.get("seconds") or {}).get("total") or 0)

    @property
    def database_bytes(self) -> int:
        """Size of the database in bytes, uncompressed."""
        return int((self.manifest.get("database") or {}).get("bytes") or 0)

    @property
    def archive_bytes(self) -> int:
        """Size of the database in bytes, compressed."""
        return int((self.manifest.get("archive") or {}).get("bytes") or 0)

    @property
    def media_bytes(self) -> int:
        """Size of the media files in bytes."""
        return int((self.manifest.get("media") or {}).get("bytes") or 0)

    @property
    def new_media_bytes(self) -> int:
        """Size in bytes of the media files that the previous backup does not have."""
        return int((self.manifest.get("media") or {}).get("new_bytes") or 0)

    @property
    def rows(self) -> int:
        """Number of rows in all tables."""
        return int(self.manifest.get("rows_total") or 0)


def backups(directory: Path) -> list[Backup]:
    """Return the usable backups of a directory, oldest first."""
    return look(directory)[0]


def look(directory: Path) -> tuple[list[Backup], dict[str, str]]:
    """Return the backups of a directory, by the same rules as a restore.

    Returns:
        The usable backups, oldest first, and the reason for each unusable one, by id.

    Raises:
        CommandError: the directory or a manifest cannot be read.
    """
    try:
        usable, wrong = manifest.look(directory)
    except FileNotFoundError:
        return [], {}
    except OSError as error:
        raise CommandError(f"{error.filename or directory} cannot be read: {error.strerror}.") from error
    return [Backup(found["id"], _seconds(found["time"]), found) for found in usable], wrong


def stored_bytes(directory: Path, found: Sequence[Backup]) -> int:
    """Return the bytes that backups take on disk; a file that several share by hard links counts once.

    Media files are not read, since there may be millions of links: each manifest has the size of the new ones.
    """
    sizes = {}
    for path in directory.glob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue  # another process is making or removing a backup
        if stat.S_ISREG(status.st_mode):
            sizes[status.st_dev, status.st_ino] = status.st_size
    media = found[0].media_bytes + sum(backup.new_media_bytes for backup in found[1:]) if found else 0
    return sum(sizes.values()) + media


def require_directory(directory: Path) -> None:
    """Raise an error if the destination is missing, such as a disk that is not mounted."""
    if not directory.is_dir():
        raise CommandError(f"{directory}: the destination is missing: mount it, or run the role backup.")


def written(moment: float) -> str:
    """Format a time (seconds since the epoch) as manifests do."""
    return time.strftime(TIME, time.gmtime(moment))


def _seconds(text: str) -> float:
    return float(calendar.timegm(time.strptime(text, TIME)))

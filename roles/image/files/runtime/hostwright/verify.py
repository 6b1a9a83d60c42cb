"""Verify backups: read all files from the disk and compare them with the recorded hashes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hostwright import archive, catalogue, disk
from hostwright.catalogue import Backup, file_of
from hostwright.errors import BackupError
from hostwright.media import Reader


def verify(output: Path, names: Sequence[str] = ()) -> dict[str, Any]:
    """Verify the named backups of a directory, or all.

    Returns:
        ``verified``: ids; ``wrong``: id and problem of each other backup.

    Raises:
        BackupError: the directory cannot be read.
    """
    try:
        there = catalogue.sealed(output)
    except OSError as error:
        raise BackupError(disk.explain(error, output)) from error
    reader = Files()
    verified, wrong = [], []
    for backup in [Backup(output, name) for name in names] if names else there:
        try:
            with catalogue.pinned(backup):
                reader.require(backup)
            verified.append(backup.id)
        except BackupError as error:
            if names or backup.seal.exists():  # otherwise it has just been removed as an old one
                wrong.append({"id": backup.id, "problem": str(error)})
    return {"verified": verified, "wrong": wrong}


class Files:
    """Verifies the files of backups; a file that several backups share is read once."""

    def __init__(self) -> None:
        """Start with no file verified."""
        self._media = Reader()
        self._archives: set[tuple[object, ...]] = set()

    def require(self, backup: Backup) -> dict[str, Any]:
        """Verify one backup; return its manifest.

        Raises:
            BackupError: a file is missing or damaged; the message names it.
        """
        manifest = self.require_without_archive(backup)
        try:
            status = backup.archive.lstat()
            plain, packed = file_of(manifest["database"]), file_of(manifest["archive"])
            key = (status.st_dev, status.st_ino, plain, packed)
            if key not in self._archives:
                archive.reread(backup.archive, plain, packed)
                self._archives.add(key)
        except OSError as error:
            raise BackupError(f"{backup.archive}: cannot be read: {error.strerror}.") from error
        return manifest

    def require_without_archive(self, backup: Backup) -> dict[str, Any]:
        """Verify all files except the archive, which is verified when it is unpacked; return the manifest."""
        manifest = catalogue.read(backup)
        try:
            if disk.read_back(backup.config) != file_of(manifest["config"]):
                raise BackupError(f"{backup.config}: is damaged, or belongs to another backup.")
        except OSError as error:
            raise BackupError(f"{backup.config}: cannot be read: {error.strerror}.") from error
        if manifest["media"] is not None:
            self._media.check(backup, manifest)
        return manifest

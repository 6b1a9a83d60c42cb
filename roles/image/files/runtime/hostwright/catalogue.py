"""The backups of a directory: names, manifests and seals; list, publish, remove and clean up.

All files of a backup are directly in the directory, and their names begin with the backup's id. The manifest contains
the hashes of the other files. The seal contains the hash of the manifest; it is written last and removed first, so
files without a seal are not a backup.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hostwright.disk import File, write_whole
from hostwright.errors import BackupError
from hostwright.snapshot import flush

FORMAT = 2
TEMPORARY = ".partial-"

_SEAL = ".json.sha256"
_ID = re.compile(r"(\d{8}T\d{6}Z)-r(\d+)")
_MOMENT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Backup:
    """The paths of one backup's files, whether they exist or not."""

    directory: Path
    id: str

    @property
    def archive(self) -> Path:
        """The database."""
        return self.directory / f"{self.id}.sqlite3.zst"

    @property
    def media(self) -> Path:
        """The tree of media files."""
        return self.directory / f"{self.id}.media"

    @property
    def listing(self) -> Path:
        """The hashes of the media files, as ``sha256sum -c`` reads them."""
        return self.directory / f"{self.id}.media.sha256"

    @property
    def config(self) -> Path:
        """Secrets, configuration and record, for a rebuild."""
        return self.directory / f"{self.id}.config.tar"

    @property
    def manifest(self) -> Path:
        """The description of the backup, with all hashes."""
        return self.directory / f"{self.id}.json"

    @property
    def seal(self) -> Path:
        """The manifest's hash, as ``sha256sum -c`` reads it."""
        return self.directory / f"{self.id}{_SEAL}"

    @property
    def files(self) -> tuple[Path, ...]:
        """All but the seal."""
        return self.archive, self.media, self.listing, self.config, self.manifest

    @property
    def moment(self) -> datetime:
        """Start of the backup, UTC."""
        return datetime.strptime(self.id.partition("-")[0], _MOMENT).replace(tzinfo=UTC)

    @property
    def order(self) -> tuple[datetime, int]:
        """Sort key: the oldest first."""
        return self.moment, int(self.id.partition("-r")[2])

    def sealed_as(self, manifest: bytes) -> bytes:
        """Return the content of the seal for a manifest."""
        return f"{hashlib.sha256(manifest).hexdigest()}  {self.manifest.name}\n".encode()


def identity(moment: datetime, release: int) -> str:
    """Return the id of a backup that starts at a moment (UTC, whole seconds)."""
    return f"{moment.strftime(_MOMENT)}-r{release}"


def is_id(text: str) -> bool:
    """Return whether a text has the form of a backup's id."""
    return bool(_ID.fullmatch(text)) and _is_moment(text)


def _is_moment(text: str) -> bool:
    try:
        datetime.strptime(text.partition("-")[0], _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return False
    return True


def sealed(directory: Path) -> list[Backup]:
    """List the backups of a directory that have a seal, valid or not, oldest first."""
    found = [
        Backup(directory, name.removesuffix(_SEAL))
        for name in os.listdir(directory)  # noqa: PTH208 (names are all that is needed)
        if name.endswith(_SEAL) and is_id(name.removesuffix(_SEAL))
    ]
    return sorted(found, key=lambda backup: backup.order)


def listed(directory: Path) -> list[tuple[Backup, dict[str, Any]]]:
    """List the backups with a valid seal, and their manifests, oldest first."""
    found = []
    for backup in sealed(directory):
        with contextlib.suppress(BackupError):
            found.append((backup, read(backup)))
    return found


def newest(directory: Path) -> tuple[Backup, dict[str, Any]] | None:
    """Return the newest backup with a valid seal, and its manifest; None if there is none."""
    for backup in reversed(sealed(directory)):
        with contextlib.suppress(BackupError):
            return backup, read(backup)
    return None


def read(backup: Backup) -> dict[str, Any]:
    """Read a backup's manifest.

    Raises:
        BackupError: manifest or seal are missing or damaged, or belong to another backup.
    """
    try:
        seal = backup.seal.read_bytes()
        text = backup.manifest.read_bytes()
    except FileNotFoundError as error:
        raise BackupError(f"{error.filename}: is missing.") from error
    except OSError as error:
        raise BackupError(f"{error.filename}: cannot be read: {error.strerror}.") from error
    if seal != backup.sealed_as(text):
        raise BackupError(f"{backup.seal}: does not match the manifest; one of them is damaged or of another backup.")
    try:
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise BackupError(
                f"{backup.manifest}: has format {manifest['format']!r}; this runtime knows format {FORMAT}. "
                "Use the image that the manifest names."
            )
        if manifest["id"] != backup.id:
            raise BackupError(f"{backup.manifest}: is the manifest of another backup, {manifest['id']}.")
    except (ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{backup.manifest}: is not a manifest ({type(error).__name__}: {error}).") from error
    return dict(manifest)


def file_of(entry: dict[str, Any]) -> File:
    """Return size and hash from an entry of a manifest."""
    return File(entry["bytes"], entry["sha256"])


def publish(backup: Backup, manifest: dict[str, Any], made: Path) -> None:
    """Move a finished backup to its final names: content, manifest, seal; each is flushed before the next.

    Args:
        backup: none of its files exists yet.
        manifest: the complete manifest.
        made: directory with the flushed content, under its final names.
    """
    for path in backup.files:
        if (made / path.name).exists():
            (made / path.name).rename(path)
    flush(backup.directory)
    text = json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n"
    write_whole(made / "manifest", backup.manifest, text)
    write_whole(made / "seal", backup.seal, backup.sealed_as(text))


def remove(backup: Backup) -> bool:
    """Remove a backup, seal first, unless another process is reading it.

    Returns:
        Whether it was removed.
    """
    try:
        descriptor = os.open(backup.seal, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        backup.seal.unlink()
        flush(backup.directory)
        for path in backup.files:
            _delete(path)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextlib.contextmanager
def pinned(backup: Backup) -> Iterator[None]:
    """Keep a backup from being removed within the body.

    Raises:
        BackupError: the backup does not exist.
    """
    try:
        descriptor = os.open(backup.seal, os.O_RDONLY)
    except OSError as error:
        raise BackupError(
            f"{backup.directory}: backup {backup.id} does not exist: cannot read {backup.seal.name} ({error.strerror})."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not backup.seal.exists():
            raise BackupError(f"{backup.directory}: backup {backup.id} has just been removed.")
        yield
    finally:
        os.close(descriptor)


def sweep(directory: Path) -> list[str]:
    """Remove what killed runs left: temporary directories, and files of backups without a seal.

    Files with other names are not touched.

    Returns:
        The removed names.
    """
    names = sorted(os.listdir(directory))  # noqa: PTH208 (names are all that is needed)
    safe = {name.removesuffix(_SEAL) for name in names if name.endswith(_SEAL)}
    removed = []
    for name in names:
        backup = Backup(directory, name.partition(".")[0])
        own = is_id(backup.id) and backup.id not in safe and directory / name in backup.files
        if own or name.startswith(TEMPORARY):
            _delete(directory / name)
            removed.append(name)
    return removed


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

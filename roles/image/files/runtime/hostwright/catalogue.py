"""The backups of a directory: their names, manifests and seals; which are listed, and what is swept away.

A backup's files lie flat in the directory, each named by the backup's id. The manifest holds the hashes of all others,
the seal (written last, removed first) that of the manifest: without a seal there is no backup.
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
    """The files of one backup, whether they are there or not."""

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
        """What a rebuild needs beside database and media."""
        return self.directory / f"{self.id}.config.tar"

    @property
    def manifest(self) -> Path:
        """What the backup is."""
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
        """When the backup was begun, UTC."""
        return datetime.strptime(self.id.partition("-")[0], _MOMENT).replace(tzinfo=UTC)

    @property
    def order(self) -> tuple[datetime, int]:
        """Sorts the oldest first."""
        return self.moment, int(self.id.partition("-r")[2])

    def sealed_as(self, manifest: bytes) -> bytes:
        """Return the seal of a manifest."""
        return f"{hashlib.sha256(manifest).hexdigest()}  {self.manifest.name}\n".encode()


def identity(moment: datetime, release: int) -> str:
    """Return the id of a backup that is begun at a moment (UTC, whole seconds)."""
    return f"{moment.strftime(_MOMENT)}-r{release}"


def is_id(text: str) -> bool:
    """Tell whether a text has the form of a backup's id."""
    return bool(_ID.fullmatch(text)) and _is_moment(text)


def _is_moment(text: str) -> bool:
    try:
        datetime.strptime(text.partition("-")[0], _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return False
    return True


def sealed(directory: Path) -> list[Backup]:
    """List the backups of a directory, oldest first: those with a seal, right or not."""
    found = [
        Backup(directory, name.removesuffix(_SEAL))
        for name in os.listdir(directory)  # noqa: PTH208 (names are all that is needed)
        if name.endswith(_SEAL) and is_id(name.removesuffix(_SEAL))
    ]
    return sorted(found, key=lambda backup: backup.order)


def listed(directory: Path) -> list[tuple[Backup, dict[str, Any]]]:
    """List the backups whose seal fits their manifest, with the manifests, oldest first."""
    found = []
    for backup in sealed(directory):
        with contextlib.suppress(BackupError):
            found.append((backup, read(backup)))
    return found


def newest(directory: Path) -> tuple[Backup, dict[str, Any]] | None:
    """Return the newest backup whose seal fits its manifest, or None."""
    for backup in reversed(sealed(directory)):
        with contextlib.suppress(BackupError):
            return backup, read(backup)
    return None


def read(backup: Backup) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        BackupError: it or the seal is missing or damaged, or it is another backup's.
    """
    try:
        seal = backup.seal.read_bytes()
        text = backup.manifest.read_bytes()
    except FileNotFoundError as error:
        raise BackupError(f"{error.filename}: is missing.") from error
    except OSError as error:
        raise BackupError(f"{error.filename}: cannot be read: {error.strerror}.") from error
    if seal != backup.sealed_as(text):
        raise BackupError(f"{backup.seal}: manifest and seal do not fit: one of them is damaged, or another backup's.")
    try:
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise BackupError(
                f"{backup.manifest}: has format {manifest['format']!r}; this runtime knows format {FORMAT}: "
                "use the image that the manifest names."
            )
        if manifest["id"] != backup.id:
            raise BackupError(f"{backup.manifest}: is the manifest of {manifest['id']}.")
    except (ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{backup.manifest}: is no manifest ({type(error).__name__}: {error}).") from error
    return dict(manifest)


def file_of(entry: dict[str, Any]) -> File:
    """Return size and hash that an entry of a manifest holds."""
    return File(entry["bytes"], entry["sha256"])


def publish(backup: Backup, manifest: dict[str, Any], made: Path) -> None:
    """Give a finished backup its names: content, then the manifest, then the seal, each on disk before the next.

    Args:
        backup: none of its files exists.
        manifest: complete.
        made: holds what was made, flushed, under the names that it gets.
    """
    for path in backup.files:
        if (made / path.name).exists():
            (made / path.name).rename(path)
    flush(backup.directory)
    text = json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n"
    write_whole(made / "manifest", backup.manifest, text)
    write_whole(made / "seal", backup.seal, backup.sealed_as(text))


def remove(backup: Backup) -> bool:
    """Remove a backup, seal first, unless somebody reads it now.

    Returns:
        Whether it went.
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
    """Keep a backup from being removed while it is read.

    Raises:
        BackupError: there is no such backup.
    """
    try:
        descriptor = os.open(backup.seal, os.O_RDONLY)
    except OSError as error:
        raise BackupError(
            f"{backup.directory}: there is no backup {backup.id}: {backup.seal.name} cannot be read ({error.strerror})."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not backup.seal.exists():
            raise BackupError(f"{backup.directory}: the backup {backup.id} has just been removed.")
        yield
    finally:
        os.close(descriptor)


def sweep(directory: Path) -> list[str]:
    """Remove what killed runs left: temporary directories, and files of backups without a seal.

    Files with other names are not touched.

    Returns:
        The names that went.
    """
    names = sorted(os.listdir(directory))  # noqa: PTH208 (names are all that is needed)
    safe = {name.removesuffix(_SEAL) for name in names if name.endswith(_SEAL)}
    gone = []
    for name in names:
        backup = Backup(directory, name.partition(".")[0])
        own = is_id(backup.id) and backup.id not in safe and directory / name in backup.files
        if own or name.startswith(TEMPORARY):
            _delete(directory / name)
            gone.append(name)
    return gone


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

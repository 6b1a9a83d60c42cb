"""The media files of a backup: a directory tree in which an unchanged file is a hard link to the previous backup's.

A scratch database keeps the state of each file, so that memory does not grow with the number of files. Paths are bytes:
a file's name need not be valid text.
"""

import contextlib
import os
import shutil
import sqlite3
import stat
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostwright.catalogue import Backup, file_of
from hostwright.disk import BLOCK, File, Output, flush_all, read_back
from hostwright.errors import BackupError

SHARES = 24
"""Each backup rereads one of this many parts of its links, the next part each time: damage to a link affects both."""

_NAMES = 100  # of each kind at most this many are named in the manifest; all are counted
_ATTEMPTS = 3
_SEEN = 50000
_RESTORING = b".hostwright-restore-"  # prefix of the temporary directory in which a file is restored
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass
class FileGroup:
    """Number of the files of one kind, and the names of the first ones."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, path: bytes) -> None:
        """Count a file; keep its name unless there are enough."""
        self.count += 1
        if len(self.first) < _NAMES:
            self.first.append(as_text(path))


class Tree:
    """The media files of a backup that is being made."""

    def __init__(self, source: Path, scratch: Path) -> None:
        """Open the scratch database.

        Args:
            source: the site's media directory.
            scratch: temporary directory.

        Raises:
            BackupError: the media directory does not exist.
        """
        if not source.is_dir():
            raise BackupError(f"{source}: the media directory does not exist: mount it, or back up without --media.")
        self._source = os.fsencode(source)
        self._known = sqlite3.connect(scratch / "media.sqlite3", isolation_level=None)
        self._known.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;"
            "CREATE TABLE file (path BLOB PRIMARY KEY, was_there INTEGER, before TEXT, now TEXT, copied INTEGER)"
            " WITHOUT ROWID; BEGIN"
        )

    def list_files(self) -> None:
        """List the files before the database is copied, so that files that vanish later can be reported."""
        for path, entry in _walk(self._source, restoring=False):
            if _is_file(entry):
                self._known.execute("INSERT INTO file (path, was_there) VALUES (?, 1) ON CONFLICT DO NOTHING", (path,))

    def copy(self, backup: Backup, made: Path, previous: tuple[Backup, dict[str, Any]] | None) -> dict[str, Any]:
        """Write the tree and its listing, flush them and read them back.

        Args:
            backup: the backup that they belong to.
            made: directory to write them into, on the file system of the backups.
            previous: the backup whose files may be linked, with its manifest.

        Returns:
            The entry for the manifest.

        Raises:
            BackupError: a file cannot be read, or its copy is wrong.
        """
        tree = made / backup.media.name
        tree.mkdir(mode=0o700)
        share = 0
        if previous is not None and previous[1]["media"] is not None:
            share = (previous[1]["media"]["share"] + 1) % SHARES
            self._read_previous(*previous)
        skipped, changed, mended = FileGroup(), FileGroup(), FileGroup()
        for path, entry in _walk(self._source, restoring=False):
            if not _is_file(entry):
                skipped.add(path)
                continue
            target = os.path.join(os.fsencode(tree), path)  # noqa: PTH118 (bytes)
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120 (bytes)
            if previous is not None and self._link(path, entry, previous[0], target, share, mended):
                continue
            with contextlib.suppress(FileNotFoundError):
                sha256, stable = _copy(os.path.join(self._source, path), target)  # noqa: PTH118 (bytes)
                self._record(path, sha256, copied=True)
                if not stable:
                    changed.add(path)
        flush_all(tree)
        new_files, new_bytes = self._read_back(tree)
        listing, files, size = self._list(made / backup.listing.name, backup, tree)
        vanished = FileGroup()
        for (path,) in self._known.execute("SELECT path FROM file WHERE was_there AND now IS NULL ORDER BY path"):
            vanished.add(path)
        return {
            "name": backup.media.name,
            "files": files,
            "bytes": size,
            "new_files": new_files,
            "new_bytes": new_bytes,
            "share": share,
            "listing": {"name": backup.listing.name, "bytes": listing.bytes, "sha256": listing.sha256},
            **{
                f"{kind}{suffix}": value
                for kind, found in (
                    ("vanished", vanished), ("skipped", skipped), ("changed", changed), ("mended", mended),
                )
                for suffix, value in (("", found.first), ("_total", found.count))
            },
        }  # fmt: skip

    def close(self) -> None:
        """Close the scratch database."""
        self._known.close()

    def _read_previous(self, backup: Backup, manifest: dict[str, Any]) -> None:
        """Read the hashes of the previous backup's files. If its listing is damaged there are none: all are copied."""
        with contextlib.suppress(BackupError):
            for sha256, path in _listed(backup, manifest):
                self._known.execute(
                    "INSERT INTO file (path, before) VALUES (?, ?) ON CONFLICT DO UPDATE SET before = excluded.before",
                    (path, sha256),
                )

    def _link(
        self, path: bytes, entry: os.DirEntry[bytes], previous: Backup, target: bytes, share: int, mended: FileGroup
    ) -> bool:
        """Link a file to the previous backup's if it is unchanged; return whether it was linked."""
        row = self._known.execute("SELECT before FROM file WHERE path = ?", (path,)).fetchone()
        if row is None or row[0] is None:
            return False
        theirs = os.path.join(os.fsencode(previous.media), path)  # noqa: PTH118 (bytes)
        try:
            now, then = entry.stat(follow_symlinks=False), os.lstat(theirs)
            if (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns) or not stat.S_ISREG(then.st_mode):
                return False
            if zlib.crc32(path) % SHARES == share and read_back(theirs).sha256 != row[0]:
                mended.add(path)
                return False
            os.link(theirs, target, follow_symlinks=False)
        except OSError:
            # Vanished, too many links, or a file system without hard links: the caller copies it.
            return False
        self._record(path, row[0], copied=False)
        return True

    def _record(self, path: bytes, sha256: str, copied: bool) -> None:
        self._known.execute(
            "INSERT INTO file (path, now, copied) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET now = excluded.now, copied = excluded.copied",
            (path, sha256, copied),
        )

    def _read_back(self, tree: Path) -> tuple[int, int]:
        files = size = 0
        for path, sha256 in self._known.execute("SELECT path, now FROM file WHERE copied"):
            found = read_back(os.path.join(os.fsencode(tree), path))  # noqa: PTH118 (bytes)
            if found.sha256 != sha256:
                raise BackupError(f"{as_text(path)}: the copy read back differs from what was written: check the disk.")
            files += 1
            size += found.bytes
        return files, size

    def _list(self, target: Path, backup: Backup, tree: Path) -> tuple[File, int, int]:
        files = size = 0
        with Output(target) as output:
            for path, sha256 in self._known.execute("SELECT path, now FROM file WHERE now IS NOT NULL ORDER BY path"):
                output.write(_line(sha256, os.fsencode(backup.media.name) + b"/" + path))
                files += 1
                size += os.lstat(os.path.join(os.fsencode(tree), path)).st_size  # noqa: PTH118 (bytes)
        return output.file, files, size


class Reader:
    """Checks the media files of backups; a file that several backups share is read once.

    Memory is bounded: beyond 50 000 shared files, some are read again.
    """

    def __init__(self) -> None:
        self._right: set[tuple[int, int, str]] = set()

    def check(self, backup: Backup, manifest: dict[str, Any]) -> None:
        """Read and check all media files of a backup.

        Raises:
            BackupError: a file is missing, damaged or not listed, or the listing itself is damaged.
        """
        files = 0
        root = os.fsencode(backup.media)
        for sha256, path in _listed(backup, manifest):
            full = os.path.join(root, path)  # noqa: PTH118 (bytes)
            try:
                status = os.lstat(full)
                key = (status.st_dev, status.st_ino, sha256)
                if key not in self._right and read_back(full).sha256 != sha256:
                    raise BackupError(f"{backup.media.name}/{as_text(path)}: is damaged.")
            except FileNotFoundError as error:
                raise BackupError(f"{backup.media.name}/{as_text(path)}: is missing.") from error
            except OSError as error:
                raise BackupError(f"{backup.media.name}/{as_text(path)}: cannot be read: {error.strerror}.") from error
            if status.st_nlink > 1 and len(self._right) < _SEEN:
                self._right.add(key)
            files += 1
        found = sum(1 for _ in _walk(root))
        if (files, found) != (manifest["media"]["files"],) * 2:
            raise BackupError(
                f"{backup.media.name}: has {found} files, but {files} are listed, "
                f"and {manifest['media']['files']} were backed up."
            )


def put_back(backup: Backup, manifest: dict[str, Any], destination: Path) -> int:
    """Restore the media files that are missing in a directory; existing files are not changed.

    Args:
        backup: the backup; its files are checked while they are copied.
        manifest: the backup's manifest.
        destination: the site's media directory.

    Returns:
        The number of restored files.

    Raises:
        BackupError: a file is damaged, or cannot be written.
    """
    count = 0
    root = os.fsencode(destination)
    real = os.path.realpath(root)
    for top, names, _ in os.walk(root):
        for name in [name for name in names if name.startswith(_RESTORING)]:  # left by a killed restore
            shutil.rmtree(os.path.join(top, name), ignore_errors=True)  # noqa: PTH118 (bytes)
            names.remove(name)
    for sha256, path in _listed(backup, manifest):
        target = os.path.join(root, path)  # noqa: PTH118 (bytes)
        parent = os.path.dirname(target)  # noqa: PTH120 (bytes)
        if os.path.lexists(target):
            continue
        inside = os.path.realpath(parent)
        if inside != real and not inside.startswith(real + b"/"):
            raise BackupError(
                f"{as_text(target)}: its directory is a link out of {destination}. Nothing was written there."
            )
        os.makedirs(parent, mode=0o755, exist_ok=True)  # noqa: PTH103 (bytes)
        with tempfile.TemporaryDirectory(dir=parent, prefix=_RESTORING) as scratch:
            temporary = os.path.join(scratch, b"file")  # noqa: PTH118 (bytes)
            found, _ = _copy(os.path.join(os.fsencode(backup.media), path), temporary)  # noqa: PTH118 (bytes)
            if found != sha256:
                raise BackupError(f"{backup.media.name}/{as_text(path)}: is damaged.")
            os.chmod(temporary, 0o644)  # noqa: PTH101 (bytes; Nginx serves it)
            with contextlib.suppress(FileExistsError):
                os.link(temporary, target)  # unlike a rename, a link never replaces a file
                count += 1
    flush_all(destination)
    return count


def as_text(path: bytes) -> str:
    """Return a path as text; bytes that are not UTF-8 are escaped."""
    return path.decode("utf-8", "backslashreplace")


def _is_file(entry: os.DirEntry[bytes]) -> bool:
    return entry.is_file(follow_symlinks=False)


def _walk(root: bytes, below: bytes = b"", restoring: bool = True) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """Yield all entries below a directory except directories, with their relative paths; links are not followed.

    Without ``restoring``, temporary directories of a killed restore are skipped.
    """
    try:
        entries = os.scandir(os.path.join(root, below) if below else root)  # noqa: PTH118 (bytes)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackupError(f"{as_text(os.path.join(root, below))}: cannot be read: {error.strerror}.") from error  # noqa: PTH118
    with entries:
        for entry in entries:
            path = below + b"/" + entry.name if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                if restoring or not entry.name.startswith(_RESTORING):
                    yield from _walk(root, path, restoring)
            else:
                yield path, entry


def _copy(source: bytes, target: bytes) -> tuple[str, bool]:
    """Copy a file with its modification time; repeat if it changes meanwhile.

    Returns:
        The copy's hash, and whether the file was unchanged during the last attempt.

    Raises:
        FileNotFoundError: the file has vanished; no copy is left.
        BackupError: the file cannot be read.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            os.unlink(target)  # noqa: PTH108 (bytes)
        try:
            descriptor = os.open(source, _OPEN)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BackupError(f"{as_text(source)}: cannot be read: {error.strerror}.") from error
        with open(descriptor, "rb", buffering=0) as file, Output(target, durable=False) as output:  # noqa: PTH123
            before = os.fstat(descriptor)
            left = before.st_size  # bounded: a file may grow as fast as it is read
            while left > 0 and (block := file.read(min(BLOCK, left))):
                output.write(block)
                left -= len(block)
            after = os.fstat(descriptor)
        os.utime(target, ns=(after.st_mtime_ns, after.st_mtime_ns))
        stable = (before.st_mtime_ns, output.file.bytes) == (after.st_mtime_ns, after.st_size)
        if stable:
            break
    return output.file.sha256, stable


def _line(sha256: str, path: bytes) -> bytes:
    """Return a line of a listing in the format of ``sha256sum``."""
    escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != path else b"") + sha256.encode() + b"  " + escaped + b"\n"


def _listed(backup: Backup, manifest: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield hash and relative path of each line of a listing.

    Raises:
        BackupError: the listing is missing or damaged.
    """
    if _read_listing(backup) != file_of(manifest["media"]["listing"]):
        raise BackupError(f"{backup.listing}: is damaged, or belongs to another backup.")
    prefix = os.fsencode(backup.media.name) + b"/"
    with backup.listing.open("rb") as file:
        for line in file:
            sha256, _, path = line.removeprefix(b"\\").rstrip(b"\n").partition(b"  ")
            if line.startswith(b"\\"):
                path = path.replace(b"\\\\", b"\0").replace(b"\\n", b"\n").replace(b"\\r", b"\r").replace(b"\0", b"\\")
            yield sha256.decode(), path.removeprefix(prefix)


def _read_listing(backup: Backup) -> File:
    try:
        return read_back(backup.listing)
    except OSError as error:
        raise BackupError(f"{backup.listing}: cannot be read: {error.strerror}.") from error

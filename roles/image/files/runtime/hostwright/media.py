"""The media files of a backup: a plain tree, each file a hard link to the previous backup's where it has not changed.

What is known of each file lies in a scratch database, so that memory does not grow with their number. Paths are bytes:
a file's name need not be text.
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
"""Each backup reads so large a part of its links back, another one each time: a link shares damage."""

_NAMES = 100  # so many of a kind are named in the manifest; all are counted
_ATTEMPTS = 3
_SEEN = 50000
_COMING = b".hostwright-restore-"  # begins the name of a directory in which a file is put back
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass
class Named:
    """Files of one kind: how many, and the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, path: bytes) -> None:
        """Count a file, and name it while there is room."""
        self.count += 1
        if len(self.first) < _NAMES:
            self.first.append(shown(path))


class Tree:
    """The media files of one backup in the making."""

    def __init__(self, source: Path, scratch: Path) -> None:
        """Begin.

        Args:
            source: the site's media directory.
            scratch: a directory that goes afterwards.

        Raises:
            BackupError: there is no media directory.
        """
        if not source.is_dir():
            raise BackupError(f"{source}: there is no media directory: mount it, or back up without --media.")
        self._source = os.fsencode(source)
        self._known = sqlite3.connect(scratch / "media.sqlite3", isolation_level=None)
        self._known.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;"
            "CREATE TABLE file (path BLOB PRIMARY KEY, was_there INTEGER, before TEXT, now TEXT, copied INTEGER)"
            " WITHOUT ROWID; BEGIN"
        )

    def look(self) -> None:
        """Remember which files are there: before the database is copied, so that what vanishes can be told."""
        for path, entry in _walk(self._source, coming=False):
            if _is_file(entry):
                self._known.execute("INSERT INTO file (path, was_there) VALUES (?, 1) ON CONFLICT DO NOTHING", (path,))

    def copy(self, backup: Backup, made: Path, previous: tuple[Backup, dict[str, Any]] | None) -> dict[str, Any]:
        """Make the tree and the listing, on disk and read back.

        Args:
            backup: the one that they are for.
            made: the directory that gets them, on the file system of the backups.
            previous: the backup whose files may be linked, and its manifest.

        Returns:
            The manifest's entry.

        Raises:
            BackupError: a file cannot be read, or the copy is not right.
        """
        tree = made / backup.media.name
        tree.mkdir(mode=0o700)
        share = 0
        if previous is not None and previous[1]["media"] is not None:
            share = (previous[1]["media"]["share"] + 1) % SHARES
            self._remember(*previous)
        skipped, changed, mended = Named(), Named(), Named()
        for path, entry in _walk(self._source, coming=False):
            if not _is_file(entry):
                skipped.add(path)
                continue
            target = os.path.join(os.fsencode(tree), path)  # noqa: PTH118 (bytes)
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120 (bytes)
            if previous is not None and self._link(path, entry, previous[0], target, share, mended):
                continue
            with contextlib.suppress(FileNotFoundError):
                sha256, steady = _copy(os.path.join(self._source, path), target)  # noqa: PTH118 (bytes)
                self._note(path, sha256, copied=True)
                if not steady:
                    changed.add(path)
        flush_all(tree)
        new_files, new_bytes = self._read_back(tree)
        listing, files, size = self._list(made / backup.listing.name, backup, tree)
        vanished = Named()
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
        """Forget what was known."""
        self._known.close()

    def _remember(self, backup: Backup, manifest: dict[str, Any]) -> None:
        """Read the hashes of the previous backup's files; of a damaged listing none, and all is copied anew."""
        with contextlib.suppress(BackupError):
            for sha256, path in _listed(backup, manifest):
                self._known.execute(
                    "INSERT INTO file (path, before) VALUES (?, ?) ON CONFLICT DO UPDATE SET before = excluded.before",
                    (path, sha256),
                )

    def _link(
        self, path: bytes, entry: os.DirEntry[bytes], previous: Backup, target: bytes, share: int, mended: Named
    ) -> bool:
        """Link a file to the previous backup's, if it is the same; return whether it is."""
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
            # Gone, too many links, or a file system without any: it is copied, and says itself what is wrong.
            return False
        self._note(path, row[0], copied=False)
        return True

    def _note(self, path: bytes, sha256: str, copied: bool) -> None:
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
                raise BackupError(f"{shown(path)}: what was read back is not what was written: look at the disk.")
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
    """Checks the media of backups; a file that several of them share is read once.

    Memory is bounded: beyond some 50 000 files, shared ones may be read again.
    """

    def __init__(self) -> None:
        self._right: set[tuple[int, int, str]] = set()

    def check(self, backup: Backup, manifest: dict[str, Any]) -> None:
        """Read all media files of a backup.

        Raises:
            BackupError: one is missing, damaged or too many, or the listing is.
        """
        files = 0
        root = os.fsencode(backup.media)
        for sha256, path in _listed(backup, manifest):
            full = os.path.join(root, path)  # noqa: PTH118 (bytes)
            try:
                status = os.lstat(full)
                key = (status.st_dev, status.st_ino, sha256)
                if key not in self._right and read_back(full).sha256 != sha256:
                    raise BackupError(f"{backup.media.name}/{shown(path)}: is damaged.")
            except FileNotFoundError as error:
                raise BackupError(f"{backup.media.name}/{shown(path)}: is missing.") from error
            except OSError as error:
                raise BackupError(f"{backup.media.name}/{shown(path)}: cannot be read: {error.strerror}.") from error
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
    """Copy a backup's media files to where they are missing; what is there stays as it is.

    Args:
        backup: its files are checked while they are copied.
        manifest: its.
        destination: the site's media directory.

    Returns:
        How many were missing.

    Raises:
        BackupError: a file is damaged, or cannot be written.
    """
    count = 0
    root = os.fsencode(destination)
    real = os.path.realpath(root)
    for top, names, _ in os.walk(root):
        for name in [name for name in names if name.startswith(_COMING)]:  # a restore was killed here
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
                f"{shown(target)}: its directory is a link out of {destination}: nothing is written there."
            )
        os.makedirs(parent, mode=0o755, exist_ok=True)  # noqa: PTH103 (bytes)
        with tempfile.TemporaryDirectory(dir=parent, prefix=_COMING) as scratch:
            temporary = os.path.join(scratch, b"file")  # noqa: PTH118 (bytes)
            found, _ = _copy(os.path.join(os.fsencode(backup.media), path), temporary)  # noqa: PTH118 (bytes)
            if found != sha256:
                raise BackupError(f"{backup.media.name}/{shown(path)}: is damaged.")
            os.chmod(temporary, 0o644)  # noqa: PTH101 (bytes; Nginx serves it)
            with contextlib.suppress(FileExistsError):
                os.link(temporary, target)  # unlike a rename it replaces nothing
                count += 1
    flush_all(destination)
    return count


def shown(path: bytes) -> str:
    """Return a path as text, whatever its bytes."""
    return path.decode("utf-8", "backslashreplace")


def _is_file(entry: os.DirEntry[bytes]) -> bool:
    return entry.is_file(follow_symlinks=False)


def _walk(root: bytes, below: bytes = b"", coming: bool = True) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """Yield all below a directory but directories, with the path from there; links are not followed.

    Without ``coming`` what a killed restore has left half put back is no file of the site's.
    """
    try:
        entries = os.scandir(os.path.join(root, below) if below else root)  # noqa: PTH118 (bytes)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackupError(f"{shown(os.path.join(root, below))}: cannot be read: {error.strerror}.") from error  # noqa: PTH118
    with entries:
        for entry in entries:
            path = below + b"/" + entry.name if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                if coming or not entry.name.startswith(_COMING):
                    yield from _walk(root, path, coming)
            else:
                yield path, entry


def _copy(source: bytes, target: bytes) -> tuple[str, bool]:
    """Copy a file with its time of modification; what is written to it meanwhile makes it be copied again.

    Returns:
        The copy's hash, and whether the file rested while it was copied the last time.

    Raises:
        FileNotFoundError: it has vanished; nothing is left of it.
        BackupError: it cannot be read.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            os.unlink(target)  # noqa: PTH108 (bytes)
        try:
            descriptor = os.open(source, _OPEN)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BackupError(f"{shown(source)}: cannot be read: {error.strerror}.") from error
        with open(descriptor, "rb", buffering=0) as file, Output(target, durable=False) as output:  # noqa: PTH123
            before = os.fstat(descriptor)
            left = before.st_size  # of a file that grows as fast as it is read there is no end
            while left > 0 and (block := file.read(min(BLOCK, left))):
                output.write(block)
                left -= len(block)
            after = os.fstat(descriptor)
        os.utime(target, ns=(after.st_mtime_ns, after.st_mtime_ns))
        steady = (before.st_mtime_ns, output.file.bytes) == (after.st_mtime_ns, after.st_size)
        if steady:
            break
    return output.file.sha256, steady


def _line(sha256: str, path: bytes) -> bytes:
    """Write a line of a listing as ``sha256sum`` does."""
    escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != path else b"") + sha256.encode() + b"  " + escaped + b"\n"


def _listed(backup: Backup, manifest: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Read a listing line by line: hash, and path below the tree.

    Raises:
        BackupError: it is missing or damaged.
    """
    if _read_listing(backup) != file_of(manifest["media"]["listing"]):
        raise BackupError(f"{backup.listing}: is damaged, or another backup's.")
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

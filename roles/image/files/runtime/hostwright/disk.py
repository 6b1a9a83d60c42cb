"""Write files that a crash leaves either complete or absent; explain errors of the disk."""

import ctypes
import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hostwright.snapshot import flush

BLOCK = 1 << 20
# Writeback is started after each piece of this many bytes: one flush of everything would delay the site's own flushes
# (measured: with one flush of 460 MB some of the site's writes took 119 ms, with pieces 26 ms at most).
_PIECE = 8 << 20


@dataclass(frozen=True)
class File:
    """A file's size in bytes and its SHA-256."""

    bytes: int
    sha256: str


class Output:
    """A new file with mode 0600 that is hashed while it is written and flushed when it is closed.

    Use it in a ``with`` statement.
    """

    def __init__(self, path: Path | bytes, durable: bool = True) -> None:
        """Create the file.

        Args:
            path: must not exist.
            durable: whether to flush it; False if the caller flushes the whole file system.
        """
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self._durable = durable
        self._digest = hashlib.sha256()
        self._size = 0
        self._sent = 0

    def write(self, data: bytes) -> int:
        """Write all of the data; return its length."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._digest.update(data)
        self._size += len(data)
        if self._size - self._sent >= _PIECE:
            os.posix_fadvise(self._descriptor, self._sent, self._size - self._sent, os.POSIX_FADV_DONTNEED)
            self._sent = self._size
        return len(data)

    @property
    def file(self) -> File:
        """Size and hash of the data written so far."""
        return File(self._size, self._digest.hexdigest())

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._durable:
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)


def read_back(path: Path | bytes) -> File:
    """Return size and hash of a file, read from the disk instead of the page cache."""
    digest = hashlib.sha256()
    size = 0
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        while block := os.read(descriptor, BLOCK):
            digest.update(block)
            size += len(block)
    finally:
        os.close(descriptor)
    return File(size, digest.hexdigest())


def write_whole(temporary: Path, path: Path, data: bytes) -> File:
    """Write a file atomically: flush it under a temporary name, rename it, and flush the directory.

    Args:
        temporary: path on the same file system; must not exist.
        path: final path; an existing file is replaced.
        data: content.
    """
    with Output(temporary) as output:
        output.write(data)
    temporary.rename(path)
    flush(path.parent)
    return output.file


def flush_all(path: Path) -> None:
    """Flush the whole file system of a path: much faster than one flush for each of many files.

    Raises:
        OSError: writing failed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def explain(error: OSError, place: Path) -> str:
    """Return a message that explains an error of a destination, with advice.

    Args:
        error: the system's error.
        place: the destination: the directory of the backups, or another one.
    """
    what = {
        errno.ENOSPC: "the destination is full: free some space, or keep fewer backups (backup_keep)",
        errno.EDQUOT: "the destination's quota is used up: raise it, or keep fewer backups (backup_keep)",
        errno.EROFS: "the destination is read-only: mount it writable",
        errno.ENOENT: "the destination is missing, or a file in it was removed: the role backup creates it",
        errno.EACCES: f"user {os.getuid()} cannot write there: the role backup sets the owner",
        errno.EPERM: f"user {os.getuid()} cannot write there: the role backup sets the owner",
        errno.EIO: "the disk failed to read or write (I/O error): check the kernel's log",
    }.get(error.errno or 0, error.strerror or str(error))
    named = f" ({os.fsdecode(error.filename)})" if error.filename else ""
    return f"{place}: {what}{named}."

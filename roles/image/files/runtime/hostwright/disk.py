"""Files that a crash leaves whole or absent, and what to say when the disk refuses."""

import ctypes
import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hostwright.snapshot import flush

BLOCK = 1 << 20
# What is written goes on its way to the disk in pieces of so many bytes: one flush of all of it would make the site's
# own flushes wait (while 460 MB were flushed, some of the site's writes took 119 ms, measured; so 26 ms at most).
_PIECE = 8 << 20


@dataclass(frozen=True)
class File:
    """A file's size in bytes and its SHA-256."""

    bytes: int
    sha256: str


class Output:
    """A new file that only its owner can read; it is hashed as it is written, and flushed when it is closed.

    Use it in a ``with`` statement.
    """

    def __init__(self, path: Path | bytes, durable: bool = True) -> None:
        """Make the file.

        Args:
            path: must not exist.
            durable: flush it; False where the whole file system is flushed later.
        """
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self._durable = durable
        self._digest = hashlib.sha256()
        self._size = 0
        self._sent = 0

    def write(self, data: bytes) -> int:
        """Write all of the data."""
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
        """What has been written."""
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
    """Read a file from the disk, not from the page cache, and hash it."""
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
    """Give a file its name only when it is on disk, and put the name on disk too.

    Args:
        temporary: on the same file system; must not exist.
        path: is replaced.
        data: its content.
    """
    with Output(temporary) as output:
        output.write(data)
    temporary.rename(path)
    flush(path.parent)
    return output.file


def flush_all(path: Path) -> None:
    """Flush the whole file system of a path: for very many files much faster than one by one.

    Raises:
        OSError: something could not be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def explain(error: OSError, place: Path) -> str:
    """Say what is wrong with a destination, and what to do.

    Args:
        error: of the system.
        place: the directory of the backups, or wherever it was written to.
    """
    what = {
        errno.ENOSPC: "the destination is full: make room there, or keep fewer backups (backup_keep)",
        errno.EDQUOT: "the destination's quota is used up: raise it, or keep fewer backups (backup_keep)",
        errno.EROFS: "the destination is read-only: mount it writable",
        errno.ENOENT: "the destination is missing, or somebody removed files of it: the role backup makes it",
        errno.EACCES: f"user {os.getuid()} cannot write there: the role backup sets the owner",
        errno.EPERM: f"user {os.getuid()} cannot write there: the role backup sets the owner",
        errno.EIO: "the disk fails to read or write (I/O error): look at the kernel's log",
    }.get(error.errno or 0, error.strerror or str(error))
    named = f" ({os.fsdecode(error.filename)})" if error.filename else ""
    return f"{place}: {what}{named}."

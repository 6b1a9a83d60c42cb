"""Files and directories: replaced whole, and safe where somebody else may write.

No link is followed there, and any kind of entry is expected. A part of the host command too, so it uses the standard
library only.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

OTHERS_WRITE = 0o022


def remove_tree(path: Path) -> None:
    """Remove whatever lies at a path: a file, a link but not what it leads to, a directory with all below it.

    Somebody may go on writing below it: a directory is taken from its owner before it is emptied. What lies deeper is
    moved up, so that no depth exhausts the stack or the descriptors.

    Raises:
        OSError: something stays.
    """
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        top = _take(path)
        try:
            while names := os.listdir(top):  # noqa: PTH208 (a descriptor)
                for name in names:
                    _remove(name, top)
        finally:
            os.close(top)
        with suppress(FileNotFoundError):  # its owner has moved it away in time
            path.rmdir()


def _remove(name: str, top: int) -> None:
    """Remove an entry of a directory, after moving the directories in it up into that one."""
    try:
        os.unlink(name, dir_fd=top)
    except IsADirectoryError:
        directory = _take(name, top)
        try:
            for below in os.listdir(directory):  # noqa: PTH208 (a descriptor)
                try:
                    os.unlink(below, dir_fd=directory)
                except IsADirectoryError:
                    os.rename(below, secrets.token_hex(16), src_dir_fd=directory, dst_dir_fd=top)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=top)


def _take(path: Path | str, directory: int | None = None) -> int:
    """Make a directory this process's own, so that nobody else writes in it any more; return its descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        os.fchown(descriptor, os.geteuid(), os.getegid())
        os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def create(path: Path, mode: int) -> int:
    """Make a new file in the place of whatever lies there; return its descriptor, which writes.

    Raises:
        OSError: it cannot be made, or something came into its place at once.
    """
    remove_tree(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)


def replace(source: Path, target: Path) -> None:
    """Rename a file to a path, where anything may lie, also a directory."""
    try:
        source.replace(target)
    except IsADirectoryError:
        remove_tree(target)
        source.replace(target)


def read(path: Path, own: bool = False) -> str:
    """Read a regular file; nothing else is waited for or followed.

    Args:
        path: the file's.
        own: whether nobody but root and this process's user may have written it.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: somebody else may have written it, or it is no text.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    with os.fdopen(descriptor, encoding="utf-8", newline="") as file:
        if own and not is_own(status):
            raise ValueError(
                f"user {status.st_uid} owns it, with mode {stat.S_IMODE(status.st_mode):04o}; "
                "it must be root's, and nobody else may be able to write it"
            )
        return file.read()


def is_own(status: os.stat_result) -> bool:
    """Whether nobody but root and this process's user may write what has that status."""
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & OTHERS_WRITE


def is_regular(path: Path) -> bool:
    """Whether a regular file lies there, not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def size(path: Path) -> int:
    """Size of what lies there in bytes, of a link its own; 0 if nothing does."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def make_directory(path: Path, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Make a directory with mode and owner, or bring an existing one to them.

    A link to one is an operator's where only root may write; elsewhere somebody may have planted it.

    Raises:
        OSError: it cannot be made, or something else lies there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
    follow = is_own(path.parent.stat())
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | (0 if follow else os.O_NOFOLLOW))
    try:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Replace a file whole or not at all: temporary file, fsync, rename, fsync of the directory."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        descriptor = create(temporary, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            handle.write(text)
            handle.flush()
            os.fsync(descriptor)
        replace(temporary, path)
    except BaseException:
        remove_tree(temporary)
        raise
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Make a file's content, or a directory's files, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

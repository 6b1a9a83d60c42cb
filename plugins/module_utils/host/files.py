"""File operations that replace files atomically, and are safe in directories where another user may write.

There, symlinks are not followed, and a path may name an entry of any kind. The host command contains this module, so it
uses the standard library only.
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
    """Remove the entry at a path, of whatever kind: a file, a link (not its target), a directory with its content.

    The owner of a directory may still write to it, so this process takes the ownership before it empties the directory.
    Subdirectories are moved up before they are removed, so that deep trees exhaust neither stack nor file descriptors.

    Raises:
        OSError: an entry cannot be removed.
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
        with suppress(FileNotFoundError):  # its owner has moved it away meanwhile
            path.rmdir()


def _remove(name: str, top: int) -> None:
    """Remove an entry of the directory ``top``, after moving the entry's subdirectories up into ``top``."""
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
    """Take ownership of a directory, so that no other user can write to it; return its descriptor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        os.fchown(descriptor, os.geteuid(), os.getegid())
        os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def create(path: Path, mode: int) -> int:
    """Remove the entry at a path and create a file there; return its descriptor, open for writing.

    Raises:
        OSError: the file cannot be created, or another entry was created there meanwhile.
    """
    remove_tree(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)


def replace(source: Path, target: Path) -> None:
    """Rename a file to a path and replace the entry there, even a directory."""
    try:
        source.replace(target)
    except IsADirectoryError:
        remove_tree(target)
        source.replace(target)


def read(path: Path, own: bool = False) -> str:
    """Read a regular file, without following a symlink or blocking on another kind of entry.

    Args:
        path: the file.
        own: whether to refuse a file that a user other than root and this process's user can write.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
        ValueError: another user can write the file, or it is not UTF-8 text.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    with os.fdopen(descriptor, encoding="utf-8", newline="") as file:
        if own and not is_own(status):
            raise ValueError(
                f"user {status.st_uid} owns it, with mode {stat.S_IMODE(status.st_mode):04o}; "
                "it must belong to root, and no other user may have write permission"
            )
        return file.read()


def is_own(status: os.stat_result) -> bool:
    """Whether only root and this process's user can write to the entry with that status."""
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & OTHERS_WRITE


def is_regular(path: Path) -> bool:
    """Whether the path is a regular file, not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def size(path: Path) -> int:
    """Size of the entry at a path in bytes, without following a link; 0 if it does not exist."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def make_directory(path: Path, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Create a directory with that mode and owner, or change those of an existing one.

    A symlink to a directory is followed only if no other user can write to its parent: there an operator made it,
    elsewhere another user may have planted it.

    Raises:
        OSError: the directory cannot be created, or the path is not one.
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
    """Replace a file atomically and durably: temporary file, fsync, rename, fsync of the directory."""
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
    """Make a file's content, or a directory's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

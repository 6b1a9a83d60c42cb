"""The guard: a process that keeps the write lock on the database generation that a release is about to leave.

Without it a late writer would write into the old generation after it was copied: acknowledged, and lost (DESIGN §6.4).
"""

import socket
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from hostwright.children import Answer, tell
from hostwright.errors import DatabaseError


def hold(source: Path, wait: float, channel: socket.socket) -> Answer:
    """Take the write lock, tell so, and keep it until the line ``release``; readers are not disturbed.

    At the line ``check`` it tells whether it still holds it. The kernel frees the lock if this process dies.

    Args:
        source: an existing database.
        wait: seconds that other writers have to finish.
        channel: to the parent; closed, it means ``release``.

    Returns:
        ``held``: False.

    Raises:
        DatabaseError: a writer kept its lock, or it is no database.
    """
    start = time.monotonic()
    if not source.is_file():
        raise DatabaseError(f"{source}: there is no such database.")
    guard = _connect(source, wait)
    try:
        # What is in the file need not be read from the WAL by the copy; a checkpoint that waits for nobody.
        guard.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        guard.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise DatabaseError(
                f"{source}: a writer keeps the write lock; the guard has waited {wait:g} s for it."
            ) from error
        raise DatabaseError(f"{source}: cannot be locked: {error}.") from error
    # A connection within a transaction sees its own moment for ever: another one sees what others commit.
    watcher = _connect(source, wait)
    locked = _state(source, watcher)
    tell(channel, {"seconds": round(time.monotonic() - start, 3)})
    for word in channel.makefile():
        if word == "release\n":
            break
        tell(channel, {"held": guard.in_transaction and _is(locked, source, watcher)})
    guard.execute("ROLLBACK")
    watcher.close()
    guard.close()
    return {"held": False}


def _connect(source: Path, wait: float) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(source))}?mode=rw", uri=True, timeout=wait, isolation_level=None)


def _state(source: Path, watcher: sqlite3.Connection) -> tuple[int, int, int]:
    """Return what changes when somebody commits to the database, or puts another file in its place."""
    status = source.stat()
    version: int = watcher.execute("PRAGMA data_version").fetchone()[0]
    return status.st_dev, status.st_ino, version


def _is(locked: tuple[int, int, int], source: Path, watcher: sqlite3.Connection) -> bool:
    try:
        return _state(source, watcher) == locked
    except (OSError, sqlite3.Error):
        return False

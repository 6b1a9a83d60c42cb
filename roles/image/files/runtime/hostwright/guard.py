"""The guard: a process that keeps the write lock of the old database generation while a release migrates a copy of it.

Without it a late write would go into the old generation after it was copied: acknowledged, and then lost
(docs/decisions.md, "Hold and guard").
"""

import socket
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from hostwright.children import Answer, send_answer
from hostwright.errors import DatabaseError


def hold(source: Path, wait: float, channel: socket.socket) -> Answer:
    """Take the write lock, answer, and keep the lock until the line ``release``. Readers are not blocked.

    Each line ``check`` is answered with ``held``: whether the lock is still kept and the database unchanged. The kernel
    frees the lock if this process dies.

    Args:
        source: an existing database.
        wait: seconds to wait for other writers.
        channel: connection to the parent; its end means ``release``.

    Returns:
        ``held``: False.

    Raises:
        DatabaseError: another writer kept its lock, or the file is not a database.
    """
    start = time.monotonic()
    if not source.is_file():
        raise DatabaseError(f"{source}: the database does not exist.")
    guard = _connect(source, wait)
    try:
        # Makes the copy faster: it reads less from the WAL. PASSIVE waits for no other connection.
        guard.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        guard.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise DatabaseError(
                f"{source}: another process has kept the write lock for {wait:g} s. End it, or try again later."
            ) from error
        raise DatabaseError(f"{source}: cannot lock the database: {error}.") from error
    # The guard's connection sees only its own snapshot; a second connection sees commits of other processes.
    watcher = _connect(source, wait)
    locked = _state(source, watcher)
    send_answer(channel, {"seconds": round(time.monotonic() - start, 3)})
    for line in channel.makefile():
        if line == "release\n":
            break
        send_answer(channel, {"held": guard.in_transaction and _is(locked, source, watcher)})
    guard.execute("ROLLBACK")
    watcher.close()
    guard.close()
    return {"held": False}


def _connect(source: Path, wait: float) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(source))}?mode=rw", uri=True, timeout=wait, isolation_level=None)


def _state(source: Path, watcher: sqlite3.Connection) -> tuple[int, int, int]:
    """Return values that change when another process commits to the database or replaces its file."""
    status = source.stat()
    version: int = watcher.execute("PRAGMA data_version").fetchone()[0]
    return status.st_dev, status.st_ino, version


def _is(locked: tuple[int, int, int], source: Path, watcher: sqlite3.Connection) -> bool:
    try:
        return _state(source, watcher) == locked
    except (OSError, sqlite3.Error):
        return False

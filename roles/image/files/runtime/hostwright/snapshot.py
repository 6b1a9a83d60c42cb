"""Copy a live database consistently."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hostwright import sqlite
from hostwright.errors import DatabaseError, HostwrightError

_WAIT = 30.0


def snapshot(source: Path, destination: Path) -> dict[str, Any]:
    """Copy a database, whatever writes to it meanwhile.

    Args:
        source: in use or not.
        destination: must not exist, nor a WAL beside it.

    Returns:
        ``bytes`` and ``seconds``.

    Raises:
        HostwrightError: the destination exists or cannot be written; nothing is left of it.
        DatabaseError: the source cannot be read.
    """
    sqlite.require_safe()
    start = time.monotonic()
    for suffix in ("", "-wal", "-shm", "-journal"):
        if os.path.lexists(f"{destination}{suffix}"):
            raise HostwrightError(f"{destination}{suffix} exists: a snapshot never overwrites anything.")
    with reading(source) as connection:
        try:
            copy(connection, destination)
            flush(destination)
            flush(destination.parent)
        except BaseException:
            destination.unlink(missing_ok=True)
            raise
    return {"bytes": destination.stat().st_size, "seconds": round(time.monotonic() - start, 3)}


@contextmanager
def reading(database: Path) -> Iterator[sqlite3.Connection]:
    """Hold one read transaction: all that is read within sees the database of one moment.

    Args:
        database: an existing one; it is not created.

    Raises:
        DatabaseError: it is missing, unreadable or not a database.
    """
    if not database.is_file():
        raise DatabaseError(f"{database}: there is no such database.")
    try:
        # rw and not ro: a reader of a WAL database takes part in its -shm file.
        connection = sqlite3.connect(
            f"file:{quote(str(database))}?mode=rw", uri=True, timeout=_WAIT, isolation_level=None
        )
    except sqlite3.Error as error:
        raise DatabaseError(f"{database}: cannot be opened: {error}.") from error
    try:
        try:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error as error:
            raise DatabaseError(f"{database}: cannot be read: {error}.") from error
        yield connection
    finally:
        connection.close()


def copy(source: sqlite3.Connection, destination: Path, portable: bool = False) -> None:
    """Copy what a connection's read transaction sees; to flush the copy is the caller's.

    It is one step of SQLite's backup API: the usual many small steps start again at every foreign commit.

    Args:
        source: within a read transaction.
        destination: a new file; only its owner can read it.
        portable: take WAL mode off the copy, so that any tool opens it, on a read-only medium too.
    """
    os.close(os.open(destination, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    target = sqlite3.connect(destination, isolation_level=None)
    try:
        # The copy is thrown away if anything fails before it is flushed.
        target.execute("PRAGMA synchronous=OFF")
        target.execute("PRAGMA journal_mode=OFF")
        source.backup(target, pages=-1)
        if portable:
            target.execute("PRAGMA journal_mode=DELETE")
    finally:
        target.close()


def flush(path: Path) -> None:
    """Put a file or a directory on disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

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
    """Copy a database while other processes may write to it.

    Args:
        source: an existing database, in use or not.
        destination: must not exist, nor its ``-wal``, ``-shm`` and ``-journal``.

    Returns:
        ``bytes`` and ``seconds``.

    Raises:
        HostwrightError: the destination exists or cannot be written; a partial copy is removed.
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
    """Open one read transaction: all reads within it see the same state of the database.

    Args:
        database: must exist; it is not created.

    Raises:
        DatabaseError: the file is missing, unreadable or not a database.
    """
    if not database.is_file():
        raise DatabaseError(f"{database}: the database does not exist.")
    try:
        # rw, not ro: a reader of a WAL database also writes to its -shm file.
        connection = sqlite3.connect(
            f"file:{quote(str(database))}?mode=rw", uri=True, timeout=_WAIT, isolation_level=None
        )
    except sqlite3.Error as error:
        raise DatabaseError(f"{database}: cannot open the database: {error}.") from error
    try:
        try:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error as error:
            raise DatabaseError(f"{database}: cannot read the database: {error}.") from error
        yield connection
    finally:
        connection.close()


def copy(source: sqlite3.Connection, destination: Path, portable: bool = False) -> None:
    """Copy the database as a connection's read transaction sees it. The caller flushes the copy.

    The copy is one step of SQLite's backup API: with many small steps, each commit of another process restarts it.

    Args:
        source: a connection within a read transaction.
        destination: new file, created with mode 0600.
        portable: take the copy out of WAL mode, so that any tool can open it, also on a read-only medium.
    """
    os.close(os.open(destination, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    target = sqlite3.connect(destination, isolation_level=None)
    try:
        # A failure before the flush discards the copy, so it needs no journal.
        target.execute("PRAGMA synchronous=OFF")
        target.execute("PRAGMA journal_mode=OFF")
        source.backup(target, pages=-1)
        if portable:
            target.execute("PRAGMA journal_mode=DELETE")
    finally:
        target.close()


def flush(path: Path) -> None:
    """Flush a file or a directory to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

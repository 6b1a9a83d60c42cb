"""Examine a database: row counts, integrity, and one hash over schema and rows."""

import hashlib
import sqlite3
import sys
import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hostwright.errors import BackupError

# Hashed first, so that a changed definition of the hash changes every hash.
_DEFINITION = b"hostwright logical hash 1\n"
_GROUP = 256
_LARGE = 16384
_KINDS = {type(None): b"n", int: b"i", float: b"f", bytearray: b"t", bytes: b"b"}
_OPERANDS = 50  # SQLite limits an expression to a depth of 1000; a table can have 2000 columns


@dataclass(frozen=True)
class Content:
    """The content of an intact database.

    Attributes:
        rows: row count by table.
        logical_sha256: hash of schema and rows.
        foreign_key_violations: number of dangling foreign keys: an error of the application, which a copy repeats.
        migrations_head: Django's last applied migration by application.
    """

    rows: dict[str, int]
    logical_sha256: str
    foreign_key_violations: int
    migrations_head: dict[str, str]


def examine(database: Path) -> Content:
    """Check and read a database that no other process uses.

    SQLite's integrity check, one long step, runs in a thread while the rows are read.

    Raises:
        BackupError: the file is damaged, or not a database.
    """
    checking = _Check(database)
    try:
        checking.start()
        connection = open_database(database)
        try:
            found = Content(
                rows(connection), logical_hash(connection), _violations(connection), migrations_head(connection)
            )
        finally:
            connection.close()
    except sqlite3.Error as error:
        checking.join()
        checking.result()  # its message has more details
        raise BackupError(f"{database}: cannot read the database: {error}.") from error
    finally:
        checking.join()
    checking.result()
    return found


def open_database(database: Path) -> sqlite3.Connection:
    """Open a database read-only, with the functions that Django's indexes and generated columns may call.

    A database that is not in WAL mode can be on a read-only medium.
    """
    connection = sqlite3.connect(
        f"file:{quote(str(database))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        from django.db.backends.sqlite3 import _functions
    except ImportError:
        return connection
    _functions.register(connection)
    return connection


def rows(connection: sqlite3.Connection) -> dict[str, int]:
    """Count the rows of every table.

    Virtual tables are omitted: their content is in ordinary tables, which are counted.

    Args:
        connection: its transaction determines the state that is read.
    """
    return {
        name: connection.execute(f"SELECT count(*) FROM {_quoted(name)}").fetchone()[0]  # noqa: S608 (quoted)
        for name in _tables(connection)
    }


def logical_hash(connection: sqlite3.Connection, each_group: Callable[[], object] = lambda: None) -> str:
    """Hash schema and rows. The result does not depend on the layout of the pages.

    It is SHA-256 over: the definition's name; ``user_version`` and ``application_id``; type, name, table and SQL text
    of each entry of the schema, by type and name; each table that is not virtual, by name, with its stored columns.

    Of a table first the rows whose values have at most 16384 bytes in total are read, in groups of 256, then each
    larger row alone, all in the order of the rowid (or of the primary key in a table without). Each column of a group
    adds a letter for the type of each value, the integers and then the real numbers (8 bytes each, little-endian), the
    lengths of texts and blobs in the same form, and their bytes.

    Args:
        connection: its transaction determines the state that is read.
        each_group: called for each group of rows; an exception from it ends the reading.
    """
    digest = hashlib.sha256(_DEFINITION)
    before = connection.text_factory
    connection.text_factory = bytearray
    try:
        for pragma in ("user_version", "application_id"):
            _add(digest, connection.execute(f"PRAGMA {pragma}").fetchall())
        _add(
            digest,
            connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall(),
        )
        for name in _tables(connection):
            digest.update(b"table" + name.encode() + b"\0")
            for size, query in _queries(connection, name):
                cursor = connection.execute(query)
                while group := cursor.fetchmany(size):
                    each_group()
                    _add(digest, group)
    finally:
        connection.text_factory = before
    return digest.hexdigest()


def _add(digest: Any, group: Sequence[Sequence[Any]]) -> None:
    """Hash a group of rows by column: Python processes whole columns much faster than single values."""
    for column in zip(*group, strict=True):
        kinds = b"".join([_KINDS[kind] for kind in map(type, column)])
        digest.update(kinds)
        present = set(kinds)
        if ord("i") in present:
            digest.update(_numbers("q", [value for value in column if type(value) is int]))
        if ord("f") in present:
            digest.update(_numbers("d", [value for value in column if type(value) is float]))
        if present & set(b"tb"):
            long = column if present <= set(b"tb") else [value for value in column if type(value) in (bytearray, bytes)]
            digest.update(_numbers("q", list(map(len, long))))
            digest.update(long[0] if len(long) == 1 else b"".join(long))  # avoids a copy of a large value


def _numbers(code: str, values: list[Any]) -> bytes:
    numbers = array(code, values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _tables(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute(
        "SELECT CAST(name AS BLOB) FROM sqlite_schema"
        " WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    ).fetchall()
    return [bytes(name).decode() for (name,) in found]


def _queries(connection: sqlite3.Connection, table: str) -> list[tuple[int, str]]:
    """Return a group size and a query, for the small rows and for the large rows."""
    columns = [
        (bytes(name).decode(), key, hidden)
        for name, key, hidden in connection.execute(
            "SELECT CAST(name AS BLOB), pk, hidden FROM pragma_table_xinfo(?)", (table,)
        )
    ]
    stored = [_quoted(name) for name, _, hidden in columns if hidden != 2]  # 2: a generated column that is not stored
    without_rowid = connection.execute(
        "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND CAST(name AS BLOB) = ?", (table.encode(),)
    ).fetchone()[0]
    names = {name.lower() for name, _, _ in columns}
    if without_rowid:
        order = ", ".join(_quoted(name) for name, key, _ in sorted(columns, key=lambda column: column[1]) if key)
    else:
        order = next((alias for alias in ("rowid", "_rowid_", "oid") if alias not in names), "")
    sizes = [f"ifnull(octet_length({column}), 0)" for column in stored]
    groups = [" + ".join(sizes[start : start + _OPERANDS]) for start in range(0, len(sizes), _OPERANDS)]
    size = " + ".join(f"({group})" for group in groups)
    start = f"SELECT {', '.join(stored)} FROM {_quoted(table)} NOT INDEXED WHERE {size}"  # noqa: S608 (quoted)
    end = f" ORDER BY {order}" if order else ""
    return [(_GROUP, f"{start} <= {_LARGE}{end}"), (1, f"{start} > {_LARGE}{end}")]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _violations(connection: sqlite3.Connection) -> int:
    return sum(1 for _ in connection.execute("PRAGMA foreign_key_check"))


def migrations_head(connection: sqlite3.Connection) -> dict[str, str]:
    """Return Django's last applied migration by application; empty if the table does not exist."""
    if "django_migrations" not in _tables(connection):
        return {}
    return dict(connection.execute("SELECT app, name FROM django_migrations ORDER BY id").fetchall())


class _Check(threading.Thread):
    """A thread that runs SQLite's integrity check."""

    def __init__(self, database: Path) -> None:
        super().__init__(daemon=True)
        self._database = database
        self._problems: list[str] = []

    def run(self) -> None:
        try:
            connection = open_database(self._database)
            try:
                found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
            finally:
                connection.close()
            self._problems = [] if found == ["ok"] else found
        except sqlite3.Error as error:
            self._problems = [str(error)]

    def result(self) -> None:
        """Raise BackupError if the check found damage."""
        if self._problems:
            raise BackupError(f"{self._database}: the database is damaged: {'; '.join(self._problems)}")

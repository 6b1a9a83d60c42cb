"""What a database holds: its rows, whether it is whole, and one hash over schema and rows."""

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

# Part of what is hashed: another definition gives other hashes, never the same one for something else.
_DEFINITION = b"hostwright logical hash 1\n"
_GROUP = 256
_LARGE = 16384
_KINDS = {type(None): b"n", int: b"i", float: b"f", bytearray: b"t", bytes: b"b"}
_OPERANDS = 50  # SQLite takes an expression 1000 deep, and a table 2000 wide


@dataclass(frozen=True)
class Content:
    """What was found in a database that is whole.

    Attributes:
        rows: by table.
        logical_sha256: of schema and rows.
        foreign_key_violations: foreign keys that point nowhere: the application's own fault, which a copy repeats.
        migrations_head: Django's last applied migration by application.
    """

    rows: dict[str, int]
    logical_sha256: str
    foreign_key_violations: int
    migrations_head: dict[str, str]


def examine(database: Path) -> Content:
    """Check a database that nobody uses, and read all of it.

    The check of its structure, which is one long step of SQLite, runs beside the reading of the rows.

    Raises:
        BackupError: it is damaged, or no database.
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
        checking.result()  # says more
        raise BackupError(f"{database}: cannot be read: {error}.") from error
    finally:
        checking.join()
    checking.result()
    return found


def open_database(database: Path) -> sqlite3.Connection:
    """Open a database for reading, with the functions that Django's indexes and generated columns may call.

    A database that is not in WAL mode can be read from a read-only medium.
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

    Virtual tables are left out: their content is in ordinary ones, which are counted.

    Args:
        connection: its transaction says of which moment.
    """
    return {
        name: connection.execute(f"SELECT count(*) FROM {_quoted(name)}").fetchone()[0]  # noqa: S608 (quoted)
        for name in _tables(connection)
    }


def logical_hash(connection: sqlite3.Connection, each_group: Callable[[], object] = lambda: None) -> str:
    """Hash schema and rows: the same for the same content, however its pages lie.

    It is SHA-256 over the definition's name; ``user_version`` and ``application_id``; type, name, table and SQL text
    of each entry of the schema, by type and name; and each table that is not virtual, by name, with its stored
    columns: first the rows whose values together have at most 16384 bytes, in groups of 256, then each larger one
    alone, all in the order of the rowid (of the primary key in a table without). Of each group each column counts: a
    letter for the type of each value, the integers and then the real numbers (8 bytes each, little-endian), the
    lengths of texts and blobs likewise, and their bytes.

    Args:
        connection: its transaction says of which moment; texts are read as bytes from now on.
        each_group: called once a group; what it raises ends the reading.
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
    """Hash a group of rows column by column: Python handles whole columns much faster than single values."""
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
            digest.update(long[0] if len(long) == 1 else b"".join(long))  # a large one is not copied


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
    """Return how many rows to read at a time, and the query, for the small rows and for the large ones."""
    columns = [
        (bytes(name).decode(), key, hidden)
        for name, key, hidden in connection.execute(
            "SELECT CAST(name AS BLOB), pk, hidden FROM pragma_table_xinfo(?)", (table,)
        )
    ]
    stored = [_quoted(name) for name, _, hidden in columns if hidden != 2]  # a generated column is kept or computed
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
    """Read Django's last applied migration of each application; empty where there is no table of them."""
    if "django_migrations" not in _tables(connection):
        return {}
    return dict(connection.execute("SELECT app, name FROM django_migrations ORDER BY id").fetchall())


class _Check(threading.Thread):
    """Runs SQLite's integrity check beside other work."""

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
        """Raise what the check found."""
        if self._problems:
            raise BackupError(f"{self._database}: the database is damaged: {'; '.join(self._problems)}")

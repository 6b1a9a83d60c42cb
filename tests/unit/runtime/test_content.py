"""The hash over schema and rows, damaged databases, and indexes that need Django's functions."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hostwright import content
from hostwright.errors import BackupError

from tests.unit.runtime import ledgers

MANY = ", ".join(f"c{number}" for number in range(1500))


def hashed(database: Path) -> str:
    connection = content.open_database(database)
    try:
        return content.logical_hash(connection)
    finally:
        connection.close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "db.sqlite3"
    ledgers.execute(
        path,
        """
        CREATE TABLE plain (id INTEGER PRIMARY KEY, a, b TEXT, c BLOB, d REAL,
            twice AS (a * 2), kept AS (a * 3) STORED);
        INSERT INTO plain (id, a, b, c, d) VALUES
            (1, 1, 'one', x'01', 1.5), (2, NULL, '', x'', NULL), (9223372036854775807, -9e999, 'é', zeroblob(20000), 0);
        CREATE TABLE "odd ""name" (rowid, _rowid_, oid);
        INSERT INTO "odd ""name" VALUES (3, 2, 1), (1, 2, 3);
        CREATE TABLE compact (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
        INSERT INTO compact VALUES ('b', 1), ('a', 2);
        CREATE TABLE wide (COLUMNS);
        INSERT INTO wide (c7, c1499) VALUES ('seven', 1499);
        CREATE VIEW look AS SELECT * FROM plain;
        CREATE VIRTUAL TABLE words USING fts5(body);
        INSERT INTO words VALUES ('some words');
        """.replace("COLUMNS", MANY),
    )
    return path


def test_the_same_content_in_other_pages_has_the_same_hash(database: Path, tmp_path: Path) -> None:
    first = hashed(database)
    assert hashed(database) == first
    ledgers.execute(database, "CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(100000)); DROP TABLE t")
    size = database.stat().st_size
    assert hashed(database) == first
    ledgers.execute(database, "PRAGMA page_size=8192; VACUUM")
    assert database.stat().st_size != size
    assert hashed(database) == first
    # The same rows, written in another order.
    one, other = tmp_path / "one.sqlite3", tmp_path / "other.sqlite3"
    ledgers.execute(one, "CREATE TABLE t (i INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
    ledgers.execute(other, "CREATE TABLE t (i INTEGER PRIMARY KEY); INSERT INTO t VALUES (2); INSERT INTO t VALUES (1)")
    assert hashed(one) == hashed(other)


CHANGES = [
    "UPDATE plain SET a = 2 WHERE id = 1",
    "UPDATE plain SET a = 1.0 WHERE id = 1",
    "UPDATE plain SET a = '1' WHERE id = 1",
    "UPDATE plain SET a = x'31' WHERE id = 1",
    "UPDATE plain SET d = d + 1e-15 WHERE id = 1",
    "UPDATE plain SET b = NULL WHERE id = 2",
    "UPDATE plain SET b = CAST(x'6f6e6500' AS TEXT) WHERE id = 1",
    "UPDATE plain SET b = CAST(x'ff' AS TEXT) WHERE id = 1",
    "UPDATE plain SET c = CAST(c AS TEXT) WHERE id = 1",
    "UPDATE plain SET c = CAST(zeroblob(19999) || x'01' AS BLOB) WHERE id > 2",
    "UPDATE plain SET b = 'on', c = x'6501' WHERE id = 1",
    "UPDATE plain SET id = 3 WHERE id = 2",
    "DELETE FROM plain WHERE id = 2",
    "UPDATE compact SET value = 3 - value",
    "UPDATE wide SET c8 = c7, c7 = NULL",
    "INSERT INTO words VALUES ('more')",
    "CREATE INDEX i ON plain (a)",
    "DROP VIEW look",
    "ALTER TABLE plain RENAME COLUMN a TO z",
    "PRAGMA user_version = 1",
]


@pytest.mark.parametrize("statement", CHANGES)
def test_another_content_has_another_hash(database: Path, statement: str) -> None:
    first = hashed(database)
    ledgers.execute(database, statement)
    assert hashed(database) != first


def test_both_byte_orders_give_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = content._numbers("q", [1, -2])
    assert numbers == (1).to_bytes(8, "little") + (-2).to_bytes(8, "little", signed=True)
    monkeypatch.setattr(sys, "byteorder", "big" if sys.byteorder == "little" else "little")
    assert content._numbers("q", [1, -2]) != numbers


def test_an_exception_from_each_group_ends_the_reading(database: Path) -> None:
    def stop() -> None:
        raise TimeoutError

    connection = content.open_database(database)
    with pytest.raises(TimeoutError):
        content.logical_hash(connection, stop)
    # The connection is unchanged.
    assert connection.execute("SELECT b FROM plain").fetchone() == ("one",)
    connection.close()


def test_memory_stays_small_whatever_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite3"
    ledgers.execute(
        path,
        """
        CREATE TABLE photo (id INTEGER PRIMARY KEY, data BLOB);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120)
            INSERT INTO photo SELECT i, randomblob(2000000) FROM n;
        """,
    )
    code = f"""
import re, sys
sys.path.insert(0, {str(Path(content.__file__).parents[1])!r})
import hostwright.sqlite
from pathlib import Path
from hostwright import content
content.examine(Path({str(path)!r}))
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 64 * 1024, f"{result.stdout} KiB for 240 MB of photos"


def test_the_content_of_an_intact_database(database: Path) -> None:
    ledgers.execute(
        database,
        """
        CREATE TABLE django_migrations (id INTEGER PRIMARY KEY, app TEXT, name TEXT);
        INSERT INTO django_migrations (app, name) VALUES ('polls', '0001_a'), ('auth', '0001_b'), ('polls', '0002_c');
        CREATE TABLE child (parent REFERENCES plain (id));
        INSERT INTO child VALUES (77), (1);
        """,
    )
    found = content.examine(database)
    assert found.rows['odd "name'] == 2
    assert "words" not in found.rows
    assert found.rows["words_content"] == 1
    assert found.foreign_key_violations == 1
    assert found.migrations_head == {"polls": "0002_c", "auth": "0001_b"}
    assert found.logical_sha256 == hashed(database)


def with_letter_flipped(database: Path) -> None:
    """Change one letter in the index: queries of the tables still work and return the same number of rows."""
    ledgers.execute(
        database, "CREATE TABLE word (w TEXT); INSERT INTO word VALUES ('abcdefgh'); CREATE INDEX w ON word (w)"
    )
    size = ledgers.one(database, "PRAGMA page_size")
    start = (ledgers.one(database, "SELECT rootpage FROM sqlite_schema WHERE name = 'w'") - 1) * size
    data = bytearray(database.read_bytes())
    data[data.index(b"abcdefgh", start)] ^= 1
    database.write_bytes(data)


def cut(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:-5000])


def no_database(database: Path) -> None:
    database.write_text("no database, whatever it is called " * 100, encoding="utf-8")


@pytest.mark.parametrize("damage", [with_letter_flipped, cut, no_database])
def test_a_damaged_database_is_found(database: Path, damage: Callable[[Path], None]) -> None:
    damage(database)
    with pytest.raises(BackupError, match=r"the database is damaged: |is not a database"):
        content.examine(database)


def test_django_s_own_functions_in_indexes_and_columns(tmp_path: Path) -> None:
    from django.db.backends.sqlite3 import _functions

    path = tmp_path / "db.sqlite3"
    connection = sqlite3.connect(path)
    _functions.register(connection)
    connection.executescript(
        """
        CREATE TABLE event (id INTEGER PRIMARY KEY, at TEXT, word TEXT CHECK (word REGEXP '^a'),
            year AS (django_date_extract('year', at)) STORED, month AS (django_date_extract('month', at)));
        CREATE INDEX by_day ON event (django_datetime_cast_date(at, 'UTC', 'UTC'));
        INSERT INTO event (at, word) VALUES ('2026-01-02 03:04:05', 'abc');
        """
    )
    connection.close()
    assert content.examine(path).rows == {"event": 1}

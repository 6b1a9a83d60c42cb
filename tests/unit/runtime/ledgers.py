"""A database whose accounts have a constant sum, processes that write to it, and helpers for its backups."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zstandard
from hostwright import backup, media
from hostwright.retention import Keep

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release

SUM = 1_000_000
# Moves money between accounts and records each move: the sum of the accounts is constant.
WRITER = """
import random, sys
sys.path.insert(0, sys.argv[2])
import hostwright.sqlite, sqlite3
c = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=200"):
    c.execute(f"PRAGMA {pragma}")
print("writing", flush=True)
while True:
    c.execute("BEGIN IMMEDIATE")
    a, b, n = random.randrange(1000), random.randrange(1000), random.randrange(100)
    c.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (n, a))
    c.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (n, b))
    c.execute("INSERT INTO move (source, target, amount) VALUES (?, ?, ?)", (a, b, n))
    c.execute("COMMIT")
"""
SCHEMA = """
PRAGMA journal_mode=WAL;
CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE move (id INTEGER PRIMARY KEY AUTOINCREMENT,
    source INTEGER REFERENCES account, target INTEGER REFERENCES account,
    amount INTEGER NOT NULL, note TEXT DEFAULT 'a note of some length');
CREATE TABLE "odd ""name" (x);
CREATE VIRTUAL TABLE text USING fts5(body);
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999) INSERT INTO account SELECT i, 1000 FROM n;
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19999)
    INSERT INTO move (source, target, amount) SELECT i % 1000, (i + 1) % 1000, 0 FROM n;
INSERT INTO "odd ""name" VALUES (1);
INSERT INTO text VALUES ('words');
"""


def create(database: Path) -> None:
    """Create the database."""
    connection = sqlite3.connect(database)
    connection.executescript(SCHEMA)
    connection.close()


@contextlib.contextmanager
def writing(database: Path, writers: int = 2) -> Iterator[None]:
    """Write as fast as possible from other processes within the body."""
    runtime = str(Path(backup.__file__).parents[1])
    command = [sys.executable, "-c", WRITER, str(database), runtime]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(writers)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
        yield
        assert [process.poll() for process in processes] == [None] * writers, "a writer failed"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def change(database: Path) -> None:
    """Change the database, so that it differs from the last backup."""
    connection = sqlite3.connect(database)
    with connection:
        connection.execute("INSERT INTO move (source, target, amount) VALUES (1, 2, 0)")
    connection.close()


def make(release: Release, keep: int = 48, with_media: bool = False) -> dict[str, Any]:
    """Make a backup in this process."""
    options = backup.Options(
        keep=Keep(keep, 0, 0, 0, 0),
        media=release.root / "media" if with_media else None,
        record=release.record,
    )
    return backup.backup(release.backups, options)


def unpack(release: Release, manifest: dict[str, Any]) -> Path:
    """Unpack an archive without the runtime."""
    target = release.root / "unpacked.sqlite3"
    target.unlink(missing_ok=True)
    with (release.backups / manifest["archive"]["name"]).open("rb") as archive, target.open("wb") as file:
        zstandard.ZstdDecompressor().copy_stream(archive, file)
    return target


def one(database: Path, query: str) -> Any:
    """Return one value."""
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query).fetchone()[0]
    finally:
        connection.close()


def execute(database: Path, script: str) -> None:
    """Run statements and commit."""
    connection = sqlite3.connect(database)
    connection.executescript(script)
    connection.close()


def names(release: Release) -> list[str]:
    """List the names in the directory of the backups."""
    return sorted(path.name for path in release.backups.iterdir())


def put(release: Release, name: str, data: bytes, age: float = 100.0) -> Path:
    """Write a media file that is some seconds old."""
    path = release.root / "media" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path


def share_of(name: str) -> int:
    """Return the number of the part in which a media file is reread."""
    import zlib

    return zlib.crc32(name.encode()) % media.SHARES


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file without changing its time."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

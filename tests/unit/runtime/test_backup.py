"""Snapshots and backups of a real database, quiet and busy."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hostwright import backup, snapshot
from hostwright.errors import BackupError, BusyError, ConfigurationError, DatabaseError, HostwrightError

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release

# Moves money between accounts and writes each move down: the accounts always add up to the same.
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


@pytest.fixture
def ledger(release: Release, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with a sum that never changes, configured for this process."""
    release.database.parent.mkdir(parents=True)
    connection = sqlite3.connect(release.database)
    connection.executescript(SCHEMA)
    connection.close()
    monkeypatch.setenv("HOSTWRIGHT_CONFIG", str(release.save()))
    return release.database


@contextlib.contextmanager
def writing(database: Path, writers: int = 2) -> Iterator[None]:
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


def make(release: Release, keep: int = 48) -> dict[str, Any]:
    return backup.backup(release.backups, keep, release.record)


def unpack(release: Release, manifest: dict[str, Any]) -> Path:
    target = release.root / "unpacked.sqlite3"
    target.unlink(missing_ok=True)
    with (release.backups / manifest["archive"]["name"]).open("rb") as archive, target.open("wb") as file:
        zstandard.ZstdDecompressor().copy_stream(archive, file)
    return target


def one(database: Path, query: str) -> Any:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query).fetchone()[0]
    finally:
        connection.close()


def names(release: Release) -> list[str]:
    return sorted(path.name for path in release.backups.iterdir())


@pytest.mark.usefixtures("ledger")
def test_a_backup_and_its_manifest(release: Release) -> None:
    manifest = make(release)
    name = manifest["id"]
    assert names(release) == [f"{name}.json", f"{name}.sqlite3.zst"]
    assert json.loads((release.backups / f"{name}.json").read_text(encoding="utf-8")) == manifest
    assert name.endswith("Z-r1")
    assert (manifest["site"], manifest["release"], manifest["generation"], manifest["version"]) == (
        "notes",
        1,
        1,
        "1.0",
    )
    assert manifest["rows"]["account"] == 1000
    assert manifest["rows"]['odd "name'] == 1
    assert manifest["rows"]["move"] == 20000
    assert manifest["archive"]["bytes"] == (release.backups / f"{name}.sqlite3.zst").stat().st_size
    copy = unpack(release, manifest)
    assert copy.stat().st_size == manifest["database"]["bytes"]
    assert one(copy, "SELECT sum(balance) FROM account") == 1_000_000
    # A plain database: no WAL mode, so that any tool opens it on a read-only medium.
    assert one(copy, "PRAGMA journal_mode") == "delete"
    assert {oct((release.backups / file).stat().st_mode & 0o777) for file in names(release)} == {"0o600"}


def test_backups_of_a_busy_database_are_right(release: Release, ledger: Path) -> None:
    before = one(ledger, "SELECT count(*) FROM move")
    with writing(ledger):
        for _ in range(3):
            manifest = make(release)
            copy = unpack(release, manifest)
            assert one(copy, "SELECT sum(balance) FROM account") == 1_000_000
            assert one(copy, "SELECT count(*) FROM move") == manifest["rows"]["move"]
            assert one(copy, "PRAGMA integrity_check") == "ok"
    assert one(ledger, "SELECT count(*) FROM move") > before + 100


def test_snapshots_of_a_busy_database_are_right(ledger: Path, tmp_path: Path) -> None:
    with writing(ledger):
        for number in range(5):
            copy = tmp_path / f"copy{number}.sqlite3"
            assert snapshot.snapshot(ledger, copy)["bytes"] == copy.stat().st_size
            assert one(copy, "SELECT sum(balance) FROM account") == 1_000_000


def test_a_snapshot_overwrites_nothing_and_leaves_nothing(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "copy-wal").touch()
    with pytest.raises(HostwrightError, match="copy-wal exists"):
        snapshot.snapshot(ledger, tmp_path / "copy")
    with pytest.raises(DatabaseError, match="there is no such database"):
        snapshot.snapshot(tmp_path / "missing", tmp_path / "new")
    (tmp_path / "text").write_text("no database, whatever it is called " * 100, encoding="utf-8")
    with pytest.raises(DatabaseError, match="file is not a database"):
        snapshot.snapshot(tmp_path / "text", tmp_path / "new")
    assert not (tmp_path / "missing").exists()
    assert not (tmp_path / "new").exists()


def test_a_difference_of_rows_is_found(ledger: Path, tmp_path: Path) -> None:
    with snapshot.reading(ledger) as source:
        snapshot.copy(source, tmp_path / "copy", portable=True)
        expected = backup.rows(source)
    assert backup.verify(tmp_path / "copy", expected) == 0
    connection = sqlite3.connect(tmp_path / "copy")
    connection.execute("DELETE FROM account WHERE id = 7")
    connection.commit()
    connection.close()
    with pytest.raises(BackupError, match="'account': 999 rows, 1000 expected"):
        backup.verify(tmp_path / "copy", expected)


def test_a_damaged_database_gives_no_backup(release: Release, ledger: Path) -> None:
    connection = sqlite3.connect(ledger)
    connection.executescript(
        "CREATE TABLE word (w TEXT); INSERT INTO word VALUES ('abcdefgh'); CREATE INDEX w ON word (w)"
    )
    connection.close()
    good = make(release)["id"]
    # One letter in the index: every query of the tables still works, and finds as many rows.
    size = one(ledger, "PRAGMA page_size")
    start = (one(ledger, "SELECT rootpage FROM sqlite_schema WHERE name = 'w'") - 1) * size
    data = bytearray(ledger.read_bytes())
    data[data.index(b"abcdefgh", start)] ^= 1
    ledger.write_bytes(data)
    with pytest.raises(BackupError, match=r"is damaged, and so would be its backup: .* index w"):
        make(release)
    assert backup.backups(release.backups) == [good]
    assert not [name for name in names(release) if name.startswith(".")]


def test_foreign_keys_that_point_nowhere_are_counted(release: Release, ledger: Path) -> None:
    connection = sqlite3.connect(ledger)
    connection.execute("INSERT INTO move (source, target, amount) VALUES (99999, 1, 5)")
    connection.commit()
    connection.close()
    assert make(release)["foreign_key_violations"] == 1


def test_a_flipped_byte_in_the_archive_is_found(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(os.urandom(3_000_000))
    plain = backup.compress(tmp_path / "plain", tmp_path / "archive")
    assert backup.reread(tmp_path / "archive", plain).bytes == (tmp_path / "archive").stat().st_size
    data = bytearray((tmp_path / "archive").read_bytes())
    for position in (0, 1000, len(data) // 2, len(data) - 1):
        broken = bytearray(data)
        broken[position] ^= 1
        (tmp_path / "archive").write_bytes(broken)
        with pytest.raises(BackupError):
            backup.reread(tmp_path / "archive", plain)
    (tmp_path / "archive").write_bytes(data[:-10])
    with pytest.raises(BackupError):
        backup.reread(tmp_path / "archive", plain)


@pytest.mark.usefixtures("ledger")
def test_as_many_stay_as_asked_for(release: Release) -> None:
    made = [make(release, keep=2)["id"] for _ in range(3)]
    assert backup.backups(release.backups) == made[1:]
    assert len(names(release)) == 4


@pytest.mark.usefixtures("ledger")
def test_the_new_backup_stays_when_the_clock_went_back(release: Release) -> None:
    for name in ("29991231T235959Z-r1", "29991230T235959Z-r1"):
        (release.backups / f"{name}.json").write_text("{}", encoding="utf-8")
        (release.backups / f"{name}.sqlite3.zst").touch()
    new = make(release, keep=1)["id"]
    assert backup.backups(release.backups) == [new]


@pytest.mark.usefixtures("ledger")
def test_what_killed_runs_left_goes_and_other_files_stay(release: Release) -> None:
    (release.backups / ".partial-x1").mkdir()
    (release.backups / ".partial-x1" / "db.sqlite3").touch()
    (release.backups / "20200101T000000Z-r1.sqlite3.zst").touch()
    (release.backups / "README").touch()
    name = make(release)["id"]
    assert names(release) == [f"{name}.json", f"{name}.sqlite3.zst", "README"]


@pytest.mark.usefixtures("ledger")
def test_killed_at_any_moment_every_listed_backup_is_whole(release: Release) -> None:
    make(release)
    for step in range(12):
        process = subprocess.Popen(
            [release.python, "-m", "hostwright", "backup", "--output", release.backups, "--record", release.record],
            env=release.environment(),
            cwd=release.project,
            stdout=subprocess.DEVNULL,
        )
        time.sleep(0.05 + step * 0.015)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name in backup.backups(release.backups):
            manifest = json.loads((release.backups / f"{name}.json").read_text(encoding="utf-8"))
            assert one(unpack(release, manifest), "SELECT sum(balance) FROM account") == 1_000_000
    make(release)
    assert not [name for name in names(release) if name.startswith(".")]


@pytest.mark.usefixtures("ledger")
def test_two_at_a_time_do_one(release: Release) -> None:
    descriptor = os.open(release.backups, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    result = release.verb("backup", "--output", release.backups)
    os.close(descriptor)
    assert result.returncode == 75
    assert "another backup" in result.stderr


def test_a_generation_that_is_being_removed_is_left_alone(release: Release, ledger: Path) -> None:
    descriptor = os.open(ledger.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(BusyError, match="being removed"):
        make(release)
    os.close(descriptor)


def test_housekeeping_cannot_lock_a_generation_during_a_backup(
    release: Release, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = snapshot.copy

    def watched(*arguments: Any, **options: Any) -> None:
        descriptor = os.open(ledger.parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        copy(*arguments, **options)

    monkeypatch.setattr(snapshot, "copy", watched)
    make(release)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "the destination is full"),
        (errno.EROFS, "the destination is read-only"),
        (errno.EACCES, "cannot write there"),
    ],
)
@pytest.mark.parametrize("step", ["compress", "reread", "_write_manifest"])
@pytest.mark.usefixtures("ledger")
def test_a_destination_that_fails_midway_leaves_nothing_half_done(
    release: Release, monkeypatch: pytest.MonkeyPatch, code: int, message: str, step: str
) -> None:
    good = make(release)["id"]

    def fail(*_arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(backup, step, fail)
        with pytest.raises(BackupError, match=message):
            make(release)
    assert backup.backups(release.backups) == [good]
    assert not [name for name in names(release) if name.startswith(".")]
    assert make(release)["id"] in backup.backups(release.backups)


@pytest.mark.usefixtures("ledger")
def test_too_little_space_is_told_before_the_copy(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1_500_000

    monkeypatch.setattr("shutil.disk_usage", lambda _path: Usage)
    with pytest.raises(BackupError, match=r"not enough space .* 2 MB free"):
        make(release)
    assert names(release) == []


def test_missing_places(release: Release, ledger: Path) -> None:
    with pytest.raises(BackupError, match="destination is missing"):
        backup.backup(release.root / "nowhere", 1, release.record)
    with pytest.raises(ConfigurationError, match="cannot read the release's record"):
        backup.backup(release.backups, 1, release.root / "nowhere.json")
    ledger.rename(ledger.with_name("gone"))
    result = release.verb("backup", "--output", release.backups)
    assert (result.returncode, "there is no such database" in result.stderr) == (1, True)
    assert names(release) == []


@pytest.mark.usefixtures("ledger")
def test_a_hung_backup_ends_itself(release: Release) -> None:
    pipe = release.root / "pipe"
    os.mkfifo(pipe)
    start = time.monotonic()
    # Whoever opens a pipe that nobody writes to waits for ever.
    code = f"""
import sys
from hostwright import __main__, snapshot
snapshot.copy = lambda *a, **o: open({str(pipe)!r})
sys.exit(__main__.main(["backup", "--output", {str(release.backups)!r}, "--time-limit", "1"]))
"""
    result = release.command("-c", code)
    assert result.returncode == backup.TIMED_OUT
    assert "did not end within 1 s" in result.stderr
    assert time.monotonic() - start < 10

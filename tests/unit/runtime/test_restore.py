"""Restores of backups and imports of databases: verified before the target exists."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostwright import catalogue, restore, verify
from hostwright.errors import BackupError, DatabaseError

from tests.unit.runtime.ledgers import SUM, change, create, damage, execute, make, one, put, writing

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release


@pytest.fixture
def target(release: Release) -> Path:
    path = release.root / "databases" / "2" / "db.sqlite3"
    path.parent.mkdir(parents=True)
    return path


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_restore_returns_the_content_of_the_backup(release: Release, ledger: Path, target: Path) -> None:
    with writing(ledger):
        manifest = make(release)
    shutil.rmtree(ledger.parent)
    found = release.answer("restore", "--output", release.backups, "--backup", "latest", "--target", target)
    assert found["manifest"] == manifest
    assert found["media_restored"] == 0
    assert set(found["seconds"]) == {"verify", "unpack", "check", "media", "total"}
    assert one(target, "SELECT sum(balance) FROM account") == SUM
    assert one(target, "SELECT count(*) FROM move") == manifest["rows"]["move"]
    # As the site uses it: in WAL mode, readable by its owner only.
    assert one(target, "PRAGMA journal_mode") == "wal"
    assert oct(target.stat().st_mode & 0o777) == "0o600"
    assert beside(target) == ["db.sqlite3"]


@pytest.mark.usefixtures("ledger")
def test_a_backup_is_chosen_by_id_by_time_or_as_the_latest(release: Release) -> None:
    made = [make(release)["id"] for _ in range(3)]
    moments = [catalogue.Backup(release.backups, name).moment for name in made]

    def chosen(wanted: str) -> str:
        return restore.choose(release.backups, wanted).id

    assert chosen("latest") == made[2]
    assert [chosen(name) for name in made] == made
    # The newest backup made at or before the time; a time without a zone is UTC.
    assert chosen(moments[1].isoformat()) == made[1]
    assert chosen(moments[1].replace(tzinfo=None).isoformat()) == made[1]
    assert chosen((moments[1] + timedelta(milliseconds=500)).isoformat()) == made[1]
    assert chosen((moments[2] + timedelta(days=400)).strftime("%Y-%m-%d")) == made[2]
    assert chosen(moments[0].strftime("%Y-%m-%dT%H:%M:%S") + "Z") == made[0]
    with pytest.raises(BackupError, match=f"no backup was made at or before .* The oldest is {made[0]}"):
        chosen((moments[0] - timedelta(seconds=1)).isoformat())
    with pytest.raises(BackupError, match="backup 20200101T000000Z-r1 does not exist"):
        chosen("20200101T000000Z-r1")
    with pytest.raises(BackupError, match="'yesterday' is not a backup's id, a time such as"):
        chosen("yesterday")
    (release.root / "empty").mkdir()
    with pytest.raises(BackupError, match="has no backups"):
        restore.choose(release.root / "empty", "latest")
    assert datetime.now(UTC) > moments[2]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
@pytest.mark.usefixtures("ledger")
def test_an_existing_target_is_refused_and_unchanged(release: Release, target: Path, suffix: str) -> None:
    make(release)
    stale = Path(f"{target}{suffix}")
    stale.write_bytes(b"stale")
    with pytest.raises(DatabaseError, match=f"db.sqlite3{suffix} exists: a restore never overwrites"):
        restore.restore(release.backups, "latest", target)
    with pytest.raises(DatabaseError, match="exists"):
        restore.import_database(release.database, target)
    assert (beside(target), stale.read_bytes()) == ([stale.name], b"stale")
    with pytest.raises(DatabaseError, match="is missing"):
        restore.restore(release.backups, "latest", release.root / "nowhere" / "db.sqlite3")


def flips(data: bytes, most: int) -> list[int]:
    """Return all positions, or a sample that includes both ends."""
    if len(data) <= most:
        return list(range(len(data)))
    return sorted({0, len(data) - 1, *random.Random(7).sample(range(len(data)), most)})


def wrong(release: Release) -> list[str]:
    return [found["id"] for found in verify.verify(release.backups)["wrong"]]


def parts(backup: catalogue.Backup) -> dict[str, Path]:
    return {
        "seal": backup.seal,
        "manifest": backup.manifest,
        "archive": backup.archive,
        "config": backup.config,
        "listing": backup.listing,
        "media": backup.media / "deep" / "b.bin",
    }


@pytest.mark.parametrize("part", ["seal", "manifest", "archive", "config", "listing", "media"])
def test_one_flipped_bit_anywhere_is_found_before_the_restore(
    release: Release, target: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte of seal, manifest, listing and media file, and a sample of the other files."""
    database = release.database
    database.parent.mkdir(parents=True)
    execute(database, "CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    monkeypatch.setenv("HOSTWRIGHT_CONFIG", str(release.save()))
    put(release, "a.txt", b"a")
    put(release, "deep/b.bin", b"some bytes")
    backup = catalogue.Backup(release.backups, make(release, with_media=True)["id"])
    path = parts(backup)[part]
    data = path.read_bytes()
    positions = flips(data, 4000 if part == "manifest" else 300)
    for position in positions:
        broken = bytearray(data)
        broken[position] ^= 1 << (position % 8)
        path.write_bytes(broken)
        assert wrong(release) == [backup.id], (part, position)
    for length in {0, 1, len(data) // 2, len(data) - 1}:
        path.write_bytes(data[:length])
        assert wrong(release) == [backup.id], (part, length)
    path.write_bytes(data + b"\0")
    assert wrong(release) == [backup.id]
    for position in positions[:: len(positions) // 5]:
        broken = bytearray(data)
        broken[position] ^= 1
        path.write_bytes(broken)
        with pytest.raises(BackupError):
            restore.restore(release.backups, "latest", target)
        assert beside(target) == []
    path.unlink()
    if part == "seal":
        assert verify.verify(release.backups) == {"verified": [], "wrong": []}
        assert [found["id"] for found in verify.verify(release.backups, [backup.id])["wrong"]] == [backup.id]
    else:
        assert wrong(release) == [backup.id]
    path.write_bytes(data)
    assert wrong(release) == []


def test_swapped_files_are_found(release: Release, ledger: Path, target: Path) -> None:
    put(release, "deep/b.bin", b"first")
    first = catalogue.Backup(release.backups, make(release, with_media=True)["id"])
    change(ledger)
    put(release, "deep/b.bin", b"other")
    (release.root / "config" / "backup.json").touch()
    second = catalogue.Backup(release.backups, make(release, with_media=True)["id"])
    for part in parts(first):
        one_file, other = parts(first)[part], parts(second)[part]
        before = one_file.read_bytes(), other.read_bytes()
        assert before[0] != before[1]
        swap(one_file, other)
        assert wrong(release) == [first.id, second.id], part
        with pytest.raises(BackupError):
            restore.restore(release.backups, "latest", target)
        swap(one_file, other)
    # A complete backup under the name of another one.
    for part in parts(first):
        if part != "media":
            swap(parts(first)[part], parts(second)[part])
    swap(first.media, second.media)
    assert wrong(release) == [first.id, second.id]
    assert beside(target) == []


def swap(one_file: Path, other: Path) -> None:
    aside = one_file.with_name("aside")
    one_file.rename(aside)
    other.rename(one_file)
    aside.rename(other)


@pytest.mark.usefixtures("ledger")
def test_the_verb_names_what_is_wrong(release: Release, target: Path) -> None:
    first, second = make(release)["id"], make(release)["id"]
    damage(catalogue.Backup(release.backups, second).config)
    result = release.verb("verify", "--output", release.backups)
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert (found["verified"], [each["id"] for each in found["wrong"]]) == ([first], [second])
    assert f"{second}.config.tar: is damaged" in found["wrong"][0]["problem"]
    assert release.answer("verify", "--output", release.backups, first) == {"verified": [first], "wrong": []}
    result = release.verb("restore", "--output", release.backups, "--backup", second, "--target", target)
    assert (result.returncode, "is damaged" in result.stderr, beside(target)) == (1, True, [])


def test_content_that_differs_from_the_manifest_is_refused(release: Release, ledger: Path, target: Path) -> None:
    """All hashes of files match: the archive of another database, with a manifest made for it."""
    backup = catalogue.Backup(release.backups, make(release)["id"])
    manifest = catalogue.read(backup)
    assert ledger.exists()

    def lie(**other: Any) -> None:
        text = json.dumps({**manifest, **other}).encode()
        backup.manifest.write_bytes(text)
        backup.seal.write_bytes(backup.sealed_as(text))

    lie(rows={**manifest["rows"], "account": 999})
    with pytest.raises(BackupError, match="'account': 1000 rows, 999 expected"):
        restore.restore(release.backups, "latest", target)
    lie(database={**manifest["database"], "logical_sha256": "0" * 64})
    with pytest.raises(BackupError, match="not the same content"):
        restore.restore(release.backups, "latest", target)
    lie(format=3)
    with pytest.raises(BackupError, match="has format 3; this runtime knows format 2"):
        restore.restore(release.backups, "latest", target)
    assert beside(target) == []


@pytest.mark.usefixtures("ledger")
def test_missing_media_files_are_restored(release: Release, target: Path) -> None:
    put(release, "gone.txt", b"gone")
    put(release, "deep/er/gone.txt", b"deep")
    kept = put(release, "kept.txt", b"as it was")
    make(release, with_media=True)
    shutil.rmtree(release.root / "media" / "deep")
    (release.root / "media" / "gone.txt").unlink()
    kept.write_bytes(b"newer")
    put(release, "new.txt", b"new")
    found = restore.restore(release.backups, "latest", target, release.root / "media")
    assert found["media_restored"] == 2
    there = {str(path.relative_to(release.root / "media")): path for path in (release.root / "media").rglob("*")}
    assert {name: path.read_bytes() for name, path in there.items() if path.is_file()} == {
        "gone.txt": b"gone",
        "deep/er/gone.txt": b"deep",
        "kept.txt": b"newer",
        "new.txt": b"new",
    }
    # Nginx, which is another user, serves them.
    assert oct(there["gone.txt"].stat().st_mode & 0o777) == "0o644"
    assert oct(there["deep/er"].stat().st_mode & 0o777) == "0o755"
    # They have the time of the backup's files, so the next backup can link them.
    target.unlink()
    assert make(release, with_media=True)["media"]["new_files"] == 2


@pytest.mark.usefixtures("ledger")
def test_nothing_is_restored_through_a_link(release: Release, target: Path) -> None:
    put(release, "deep/file.txt", b"x")
    make(release, with_media=True)
    shutil.rmtree(release.root / "media" / "deep")
    (release.root / "outside").mkdir()
    (release.root / "media" / "deep").symlink_to(release.root / "outside")
    with pytest.raises(BackupError, match="its directory is a link out of"):
        restore.restore(release.backups, "latest", target, release.root / "media")
    assert list((release.root / "outside").iterdir()) == []


@pytest.mark.usefixtures("ledger")
def test_too_little_space_for_the_database(release: Release, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(release)

    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda _path: Usage)
    with pytest.raises(BackupError, match="not enough space for the database"):
        restore.restore(release.backups, "latest", target)
    assert beside(target) == []


def test_a_foreign_database_is_imported(release: Release, target: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    create(path)
    found = release.answer("restore", "--file", path, "--target", target)
    assert (found["rows"]["account"], found["foreign_key_violations"]) == (1000, 0)
    assert found["rows_total"] == sum(found["rows"].values())
    assert one(target, "SELECT sum(balance) FROM account") == SUM
    assert one(target, "PRAGMA journal_mode") == "wal"
    assert beside(target) == ["db.sqlite3"]


def test_an_import_includes_the_wal(target: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    create(path)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO account VALUES (1000, 5)")
    connection.commit()
    there = sorted(each.name for each in tmp_path.iterdir() if each.name.startswith("old"))
    assert there == ["old.sqlite3", "old.sqlite3-shm", "old.sqlite3-wal"]
    before = {name: (tmp_path / name).read_bytes() for name in there}
    assert restore.import_database(path, target)["rows"]["account"] == 1001
    # The source is only read.
    assert {name: (tmp_path / name).read_bytes() for name in there} == before
    connection.close()
    assert one(target, "SELECT balance FROM account WHERE id = 1000") == 5


def test_an_import_rolls_back_an_interrupted_transaction(target: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    create(path)
    half = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.executescript("
        "'PRAGMA journal_mode=DELETE; PRAGMA cache_size=1; BEGIN; UPDATE account SET balance = 0;"
        " UPDATE move SET amount = 9'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", half, path], check=True)
    assert (tmp_path / "old.sqlite3-journal").stat().st_size
    restore.import_database(path, target)
    assert one(target, "SELECT sum(balance) FROM account") == SUM


def test_an_archive_of_a_backup_can_be_imported(release: Release, ledger: Path, target: Path) -> None:
    manifest = make(release)
    archive = release.backups / manifest["archive"]["name"]
    assert restore.import_database(archive, target)["rows"] == manifest["rows"]
    target.unlink()
    data = archive.read_bytes()
    for broken in (data[: len(data) // 2], data[:-1]):
        (release.root / "cut.zst").write_bytes(broken)
        with pytest.raises(BackupError, match=r"is truncated|does not unpack"):
            restore.import_database(release.root / "cut.zst", target)
    damage(archive)
    with pytest.raises(BackupError, match=r"does not unpack|is damaged|is not a SQLite database"):
        restore.import_database(archive, target)
    assert beside(target) == []
    assert ledger.exists()


def text(path: Path) -> None:
    path.write_text("no database, whatever it is called\n" * 100, encoding="utf-8")


def empty(path: Path) -> None:
    path.touch()


def directory(path: Path) -> None:
    path.mkdir()


def cut(path: Path) -> None:
    create(path)
    path.write_bytes(path.read_bytes()[:-5000])


def damaged(path: Path) -> None:
    execute(path, "CREATE TABLE word (w TEXT); INSERT INTO word VALUES ('abcdefgh'); CREATE INDEX w ON word (w)")
    data = bytearray(path.read_bytes())
    data[data.index(b"abcdefgh")] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (text, "is not a SQLite database"),
        (empty, "is not a SQLite database"),
        (directory, "is not a file. Name a SQLite database"),
        (cut, "the database is damaged"),
        (damaged, "the database is damaged"),
    ],
)
def test_a_file_that_is_not_a_database_is_refused(
    target: Path, tmp_path: Path, make_it: Callable[[Path], None], message: str
) -> None:
    make_it(tmp_path / "old")
    with pytest.raises(BackupError, match=message):
        restore.import_database(tmp_path / "old", target)
    assert beside(target) == []


def test_dangling_foreign_keys_are_reported(target: Path, tmp_path: Path) -> None:
    create(tmp_path / "old")
    execute(tmp_path / "old", "INSERT INTO move (source, target, amount) VALUES (99999, 1, 5)")
    assert restore.import_database(tmp_path / "old", target)["foreign_key_violations"] == 1

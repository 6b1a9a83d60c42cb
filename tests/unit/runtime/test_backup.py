"""Snapshots and backups of a real database, idle and busy."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.manifest import look
from hostwright import backup, catalogue, content, limit, snapshot, verify
from hostwright.errors import BackupError, BusyError, ConfigurationError, DatabaseError, HostwrightError

from tests.unit.runtime.ledgers import (
    SUM,
    WRITER,
    change,
    damage,
    execute,
    make,
    names,
    one,
    put,
    unpack,
    writing,
)

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release


def ids(release: Release) -> list[str]:
    return [found.id for found, _ in catalogue.listed(release.backups)]


def rename(release: Release, old: str, new: str) -> None:
    """Give a backup another id, and so another time."""
    before, after = catalogue.Backup(release.backups, old), catalogue.Backup(release.backups, new)
    manifest = catalogue.read(before)
    for path, renamed in zip(before.files, after.files, strict=True):
        if path.exists():
            path.rename(renamed)
    before.seal.unlink()
    text = json.dumps({**manifest, "id": new}).encode()
    after.manifest.write_bytes(text)
    after.seal.write_bytes(after.sealed_as(text))


@pytest.mark.usefixtures("ledger")
def test_the_host_can_use_a_manifest(release: Release) -> None:
    manifest = make(release)
    assert look(release.backups) == ([manifest], {})


@pytest.mark.usefixtures("ledger")
def test_a_backup_and_its_manifest(release: Release) -> None:
    manifest = make(release)
    name = manifest["id"]
    assert names(release) == [f"{name}.config.tar", f"{name}.json", f"{name}.json.sha256", f"{name}.sqlite3.zst"]
    assert json.loads((release.backups / f"{name}.json").read_text(encoding="utf-8")) == manifest
    assert name.endswith("Z-r1")
    assert [manifest[key] for key in ("format", "site", "release", "generation", "version")] == [
        2,
        "notes",
        1,
        1,
        "1.0",
    ]
    assert manifest["rows"]["account"] == 1000
    assert manifest["rows"]['odd "name'] == 1
    assert manifest["rows"]["move"] == 20000
    assert manifest["rows_total"] == sum(manifest["rows"].values())
    assert manifest["archive"]["bytes"] == (release.backups / f"{name}.sqlite3.zst").stat().st_size
    assert (manifest["database"]["compared"], manifest["unchanged_since"], manifest["media"]) == ("content", None, None)
    copy = unpack(release, manifest)
    assert copy.stat().st_size == manifest["database"]["bytes"]
    assert one(copy, "SELECT sum(balance) FROM account") == SUM
    # Not in WAL mode, so that any tool can open it on a read-only medium.
    assert one(copy, "PRAGMA journal_mode") == "delete"
    assert {oct((release.backups / file).stat().st_mode & 0o777) for file in names(release)} == {"0o600"}
    # sha256sum can check the seal.
    subprocess.run(["sha256sum", "--check", "--strict", f"{name}.json.sha256"], cwd=release.backups, check=True)


def test_the_verb_s_answer_is_the_manifest(release: Release) -> None:
    release.migrate()
    manifest = release.answer("backup", "--output", release.backups, "--keep", '{"last": 1}')
    assert ids(release) == [manifest["id"]]
    assert manifest["migrations_head"] == {"contenttypes": "0002_remove_content_type_name", "notes": "0001_initial"}
    assert manifest["rows"]["django_migrations"] == 3
    answer = release.answer("verify", "--output", release.backups)
    assert answer == {"verified": [manifest["id"]], "wrong": []}
    for wrong in ("[]", "nonsense", '{"yearly": 1}', '{"last": -1}', '{"last": true}', '{"daily": "1"}'):
        result = release.verb("backup", "--output", release.backups, "--keep", wrong)
        assert (result.returncode, "--keep" in result.stderr) == (2, True), wrong
    assert ids(release) == [manifest["id"]]


def test_an_unchanged_database_is_stored_once(release: Release, ledger: Path) -> None:
    first, second, third = make(release), make(release), make(release)
    archives = [release.backups / manifest["archive"]["name"] for manifest in (first, second, third)]
    assert {path.stat().st_ino for path in archives} == {archives[0].stat().st_ino}
    assert [manifest["unchanged_since"] for manifest in (first, second, third)] == [None, first["id"], first["id"]]
    assert first["database"] == second["database"]
    change(ledger)
    fourth = make(release)
    assert fourth["unchanged_since"] is None
    assert (release.backups / fourth["archive"]["name"]).stat().st_nlink == 1
    assert verify.verify(release.backups)["wrong"] == []


def test_moved_pages_are_not_a_change(release: Release, ledger: Path) -> None:
    first = make(release)
    execute(ledger, "VACUUM")
    assert make(release)["unchanged_since"] == first["id"]


@pytest.mark.usefixtures("ledger")
def test_a_damaged_archive_is_not_linked(release: Release, capsys: pytest.CaptureFixture[str]) -> None:
    first = make(release)
    damage(release.backups / first["archive"]["name"])
    second = make(release)
    assert second["unchanged_since"] is None
    assert "is damaged" in capsys.readouterr().err
    found = verify.verify(release.backups)
    assert found["verified"] == [second["id"]]
    assert [wrong["id"] for wrong in found["wrong"]] == [first["id"]]


@pytest.mark.usefixtures("ledger")
def test_without_hard_links_all_files_are_copied(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError

    put(release, "a.txt", b"a")
    make(release, with_media=True)
    monkeypatch.setattr(os, "link", refuse)
    manifest = make(release, with_media=True)
    assert (manifest["unchanged_since"], manifest["media"]["new_files"]) == (None, 1)
    assert verify.verify(release.backups)["wrong"] == []


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM account WHERE id = 7", "'account': 999 rows, 1000 expected"),
        ("UPDATE account SET balance = 1 WHERE id = 7", "the row counts are equal, the content is not"),
    ],
)
@pytest.mark.usefixtures("ledger")
def test_the_copy_is_compared_with_the_source(
    release: Release, monkeypatch: pytest.MonkeyPatch, statement: str, message: str
) -> None:
    copy = snapshot.copy

    def altered(source: sqlite3.Connection, destination: Path, portable: bool = False) -> None:
        copy(source, destination, portable)
        execute(destination, statement)

    monkeypatch.setattr(snapshot, "copy", altered)
    with pytest.raises(BackupError, match=message):
        make(release)
    assert names(release) == []


def test_a_source_that_others_write_to_is_read_for_a_limited_time(
    release: Release, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_READ_SECONDS", 0.0)
    assert make(release)["database"]["compared"] == "content"
    with writing(ledger, writers=1):
        manifest = make(release)
    assert manifest["database"]["compared"] == "rows"
    assert one(unpack(release, manifest), "SELECT sum(balance) FROM account") == SUM


def test_a_damaged_database_gives_no_backup(release: Release, ledger: Path) -> None:
    execute(ledger, "CREATE TABLE word (w TEXT); INSERT INTO word VALUES ('abcdefgh'); CREATE INDEX w ON word (w)")
    good = make(release)["id"]
    # Change one letter in the index: queries of the tables still return the same number of rows.
    size = one(ledger, "PRAGMA page_size")
    start = (one(ledger, "SELECT rootpage FROM sqlite_schema WHERE name = 'w'") - 1) * size
    data = bytearray(ledger.read_bytes())
    data[data.index(b"abcdefgh", start)] ^= 1
    ledger.write_bytes(data)
    with pytest.raises(BackupError, match=r"is damaged, so no backup was made: .* index w"):
        make(release)
    assert ids(release) == [good]
    assert not [name for name in names(release) if name.startswith(".")]


@pytest.mark.usefixtures("ledger")
def test_a_backup_has_what_a_rebuild_needs(release: Release) -> None:
    config = release.root / "config"
    (config / "secrets" / "7").mkdir(parents=True)
    (config / "secrets" / "secret_key").write_text("key", encoding="utf-8")
    (config / "secrets" / "secret_key").chmod(0o600)
    (config / "secrets" / "7" / "TOKEN").write_text("token", encoding="utf-8")
    (config / "releases" / "7.json").write_text("{}", encoding="utf-8")
    for name in ("backup.json", "lock", "progress", "deployments.jsonl", ".backup.json.new"):
        (config / name).touch()
    (release.root / "tls" / "notes").mkdir(parents=True)
    (release.root / "tls" / "notes" / "key.pem").touch()
    manifest = make(release)
    with tarfile.open(release.backups / manifest["config"]["name"]) as tar:
        assert tar.getnames() == [
            "config/backup.json",
            "config/releases/1.json",
            "config/releases/7.json",
            "config/secrets/7/TOKEN",
            "config/secrets/secret_key",
            "run/releases/1/release.json",
            "tls/notes/key.pem",
        ]
        member = tar.getmember("config/secrets/secret_key")
        assert (member.mode, member.uid) == (0o600, os.getuid())
        extracted = tar.extractfile(member)
        assert extracted is not None
        assert extracted.read() == b"key"
    assert stat.S_IMODE((release.backups / manifest["config"]["name"]).stat().st_mode) == 0o600


def test_backups_of_a_busy_database_are_right(release: Release, ledger: Path) -> None:
    before = one(ledger, "SELECT count(*) FROM move")
    with writing(ledger):
        for _ in range(3):
            manifest = make(release)
            copy = unpack(release, manifest)
            assert one(copy, "SELECT sum(balance) FROM account") == SUM
            assert one(copy, "SELECT count(*) FROM move") == manifest["rows"]["move"]
            assert one(copy, "PRAGMA integrity_check") == "ok"
    assert one(ledger, "SELECT count(*) FROM move") > before + 100


def test_snapshots_of_a_busy_database_are_right(ledger: Path, tmp_path: Path) -> None:
    with writing(ledger):
        for number in range(5):
            copy = tmp_path / f"copy{number}.sqlite3"
            assert snapshot.snapshot(ledger, copy)["bytes"] == copy.stat().st_size
            assert one(copy, "SELECT sum(balance) FROM account") == SUM


def test_a_snapshot_overwrites_nothing_and_leaves_nothing(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "copy-wal").touch()
    with pytest.raises(HostwrightError, match="copy-wal exists"):
        snapshot.snapshot(ledger, tmp_path / "copy")
    with pytest.raises(DatabaseError, match="the database does not exist"):
        snapshot.snapshot(tmp_path / "missing", tmp_path / "new")
    (tmp_path / "text").write_text("no database, whatever it is called " * 100, encoding="utf-8")
    with pytest.raises(DatabaseError, match="file is not a database"):
        snapshot.snapshot(tmp_path / "text", tmp_path / "new")
    assert not (tmp_path / "missing").exists()
    assert not (tmp_path / "new").exists()


def test_dangling_foreign_keys_are_counted(release: Release, ledger: Path) -> None:
    connection = sqlite3.connect(ledger)
    connection.execute("INSERT INTO move (source, target, amount) VALUES (99999, 1, 5)")
    connection.commit()
    connection.close()
    assert make(release)["foreign_key_violations"] == 1


@pytest.mark.usefixtures("ledger")
def test_a_second_backup_at_the_same_time_is_refused(release: Release) -> None:
    descriptor = os.open(release.backups, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    result = release.verb("backup", "--output", release.backups)
    os.close(descriptor)
    assert result.returncode == 75
    assert "another backup" in result.stderr


def test_a_generation_that_is_being_removed_is_refused(release: Release, ledger: Path) -> None:
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


@pytest.mark.usefixtures("ledger")
def test_too_little_space_is_reported_before_the_copy(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1_500_000

    monkeypatch.setattr("shutil.disk_usage", lambda _path: Usage)
    with pytest.raises(BackupError, match=r"not enough space .* 2 MB free"):
        make(release)
    assert names(release) == []


@pytest.mark.usefixtures("ledger")
def test_the_requested_number_of_backups_is_kept(release: Release) -> None:
    made = [make(release, keep=2)["id"] for _ in range(3)]
    assert ids(release) == made[1:]
    assert {name.partition(".")[0] for name in names(release)} == set(made[1:])


@pytest.mark.usefixtures("ledger")
def test_the_new_backup_is_kept_after_the_clock_went_back(release: Release) -> None:
    for name in ("29991231T235959Z-r1", "29991230T235959Z-r1"):
        rename(release, make(release)["id"], name)
    new = make(release, keep=1)["id"]
    # The newest of those dated later than now is kept too: perhaps the clock is wrong now, and was right then.
    assert ids(release) == [new, "29991231T235959Z-r1"]


@pytest.mark.usefixtures("ledger")
def test_a_backup_that_is_being_read_is_removed_by_a_later_run(release: Release) -> None:
    first = make(release)["id"]
    with catalogue.pinned(catalogue.Backup(release.backups, first)):
        second = make(release, keep=1)["id"]
        assert ids(release) == [first, second]
        assert verify.verify(release.backups)["wrong"] == []
    third = make(release, keep=1)["id"]
    assert ids(release) == [third]


@pytest.mark.usefixtures("ledger")
def test_a_damaged_backup_is_neither_counted_nor_removed(release: Release) -> None:
    good, bad = make(release)["id"], make(release)["id"]
    damage(release.backups / f"{bad}.json")
    new = make(release, keep=2)["id"]
    assert ids(release) == [good, new]
    assert [wrong["id"] for wrong in verify.verify(release.backups)["wrong"]] == [bad]


@pytest.mark.usefixtures("ledger")
def test_remains_of_killed_runs_are_removed_and_other_files_kept(release: Release) -> None:
    (release.backups / ".partial-x1" / "a.media").mkdir(parents=True)
    (release.backups / ".partial-x1" / "db.sqlite3").touch()
    (release.backups / "20200101T000000Z-r1.sqlite3.zst").touch()
    (release.backups / "20200101T000000Z-r1.json").write_text("{}", encoding="utf-8")
    (release.backups / "20200101T000000Z-r1.media" / "deep").mkdir(parents=True)
    (release.backups / "20200101T000000Z-r1.media" / "deep" / "a").touch()
    (release.backups / "20200101T000000Z-r1.media.sha256").touch()
    (release.backups / "20200102T000000Z-r1.config.tar").touch()
    others = ["README", "status.json", "log", "20200101T000000Z-r1.notes", "20209999T000000Z-r1.json"]
    for name in others:
        (release.backups / name).touch()
    new = make(release)["id"]
    assert {name for name in names(release) if not name.startswith(new)} == set(others)


def test_a_backup_of_a_stopped_application(release: Release, ledger: Path) -> None:
    assert not Path(f"{ledger}-wal").exists()
    before = sorted(path.name for path in ledger.parent.iterdir())
    assert make(release)["rows"]["account"] == 1000
    assert sorted(path.name for path in ledger.parent.iterdir()) == before


def test_a_backup_after_the_application_was_killed(release: Release, ledger: Path) -> None:
    """Acknowledged writes are in the remaining -wal, and in the backup."""
    runtime = str(Path(backup.__file__).parents[1])
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(ledger), runtime], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    time.sleep(0.3)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert Path(f"{ledger}-wal").stat().st_size > 0
    left = {path.name: path.read_bytes() for path in ledger.parent.iterdir()}
    manifest = make(release)
    assert one(unpack(release, manifest), "SELECT sum(balance) FROM account") == SUM
    again = release.root / "again"
    again.mkdir()
    for name, data in left.items():
        (again / name).write_bytes(data)
    assert manifest["rows"]["move"] == one(again / "db.sqlite3", "SELECT count(*) FROM move") > 20000


def test_a_backup_during_a_migration(release: Release, ledger: Path) -> None:
    """While the guard keeps the write lock, the backup has all writes that were acknowledged before."""
    guard = sqlite3.connect(ledger, isolation_level=None)
    guard.execute("BEGIN IMMEDIATE")
    guard.execute("DELETE FROM account")
    assert make(release)["rows"]["account"] == 1000
    guard.execute("ROLLBACK")
    guard.close()


@pytest.mark.usefixtures("ledger")
def test_a_destination_that_is_removed_during_a_backup_is_reported(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    examine = content.examine

    def gone(database: Path) -> Any:
        found = examine(database)
        shutil.rmtree(release.backups)
        return found

    monkeypatch.setattr(content, "examine", gone)
    with pytest.raises(BackupError, match="the destination is missing"):
        make(release)
    assert not release.backups.exists()


def test_missing_directories_and_files_are_reported(release: Release, ledger: Path) -> None:
    with pytest.raises(BackupError, match="destination is missing"):
        backup.backup(release.root / "nowhere", backup.Options(record=release.record))
    with pytest.raises(ConfigurationError, match="cannot read the release's record"):
        backup.backup(release.backups, backup.Options(record=release.root / "nowhere.json"))
    with pytest.raises(BackupError, match="the media directory does not exist"):
        backup.backup(release.backups, backup.Options(record=release.record, media=release.root / "nowhere"))
    ledger.rename(ledger.with_name("gone"))
    result = release.verb("backup", "--output", release.backups)
    assert (result.returncode, "the database does not exist" in result.stderr) == (1, True)
    assert names(release) == []


@pytest.mark.usefixtures("ledger")
def test_a_hung_backup_ends_itself(release: Release) -> None:
    pipe = release.root / "pipe"
    os.mkfifo(pipe)
    start = time.monotonic()
    # Opening a pipe without a writer blocks for ever.
    code = f"""
import sys
from hostwright import __main__, snapshot
snapshot.copy = lambda *a, **o: open({str(pipe)!r})
sys.exit(__main__.main(["backup", "--output", {str(release.backups)!r}, "--time-limit", "1"]))
"""
    result = release.command("-c", code)
    assert result.returncode == limit.TIMED_OUT
    assert "did not end within 1 s" in result.stderr
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(("module", "words", "niceness"), [("backup", [], 10), ("restore", ["--backup", "latest"], 0)])
def test_backups_run_at_low_priority_and_restores_do_not(
    release: Release, module: str, words: list[str], niceness: int
) -> None:
    code = f"""
import os, sys
from hostwright import __main__, {module}
{module}.{module} = lambda *a: {{"niceness": os.getpriority(os.PRIO_PROCESS, 0)}}
sys.exit(__main__.main(["{module}", "--output", "x", *{words!r}, *{["--target", "x"] if words else []!r}]))
"""
    niced = json.loads(release.command("-c", code).stdout)["niceness"]
    assert niced - os.getpriority(os.PRIO_PROCESS, 0) == niceness

"""A restore, step by step on a pretended Engine: whatever fails or dies, the live release is intact and serves."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host import files
from ansible_collections.hostwright.django.plugins.module_utils.host.process import Answer
from ansible_collections.hostwright.django.plugins.module_utils.release.backups import BackupDirectory, Protected, check
from ansible_collections.hostwright.django.plugins.module_utils.release.errors import ReleaseError
from ansible_collections.hostwright.django.plugins.module_utils.release.outcome import Outcome
from ansible_collections.hostwright.django.plugins.module_utils.release.restore import RestoreRequest, Source
from ansible_collections.hostwright.django.plugins.module_utils.release.rollback import RollbackRequest
from ansible_collections.hostwright.django.plugins.module_utils.release.secret_key import Fallback, SecretKey
from ansible_collections.hostwright.django.plugins.module_utils.release.site import Site
from ansible_collections.hostwright.django.plugins.module_utils.release.transaction import Transaction
from ansible_collections.hostwright.django.plugins.modules import restore as module

from tests.unit.plugins.release.pretended_engine import App, Killed, PretendedEngine
from tests.unit.plugins.release.test_transaction import MAILER, Picture, World, no_fsync

__all__ = ["no_fsync"]
pytestmark = pytest.mark.usefixtures("owners", "no_fsync")

MIGRATIONS = ("polls.0001_initial", "polls.0002_more")
NOON = "20261123T120000Z-r1"
FALLBACKS = '[{"key": "an older key", "until": 4000000000}, {"key": "a forgotten one", "until": 1}]'
MEMBERS = {
    "secrets/1/TOKEN": "hunter-2\n",
    "secrets/1/secret_key": "the old key",
    "secrets/1/secret_key_fallbacks": FALLBACKS,
}
OLD_KEY = SecretKey("the old key", (Fallback("an older key", 4000000000),))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_backup(
    directory: Path,
    name: str = NOON,
    rows: tuple[str, ...] = ("old vote",),
    migrations: tuple[str, ...] = MIGRATIONS[:1],
    version: str = "1.0",
    members: dict[str, str] | None = None,
    **changes: Any,
) -> str:
    """Write a backup as the runtime does; return its id."""
    directory.mkdir(parents=True, exist_ok=True)
    database = json.dumps({"migrations": list(migrations), "rows": list(rows)}).encode()
    (directory / f"{name}.sqlite3.zst").write_bytes(database)
    with tarfile.open(directory / f"{name}.config.tar", "w") as archive:
        for member, text in (members or MEMBERS).items():
            entry = tarfile.TarInfo(f"config/{member}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    config = (directory / f"{name}.config.tar").read_bytes()
    moment = time.strptime(name.partition("-")[0], "%Y%m%dT%H%M%SZ")
    manifest = {
        "format": 2, "id": name, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", moment), "site": "polls",
        "release": int(name.rpartition("r")[2]), "version": version, "image": f"polls:{version}",
        "archive": {"name": f"{name}.sqlite3.zst", "sha256": sha256(database)},
        "database": {"bytes": len(database)}, "rows": {"vote": len(rows)}, "rows_total": len(rows),
        "config": {"name": f"{name}.config.tar", "sha256": sha256(config)}, **changes,
    }  # fmt: skip
    text = json.dumps(manifest)
    (directory / f"{name}.json").write_text(text)
    (directory / f"{name}.json.sha256").write_text(f"{sha256(text.encode())}  {name}.json\n")
    return name


@dataclasses.dataclass
class Host(World):
    """A host with one site and its backups."""

    @property
    def backups(self) -> Path:
        """Directory of the backups, which ``picture`` does not include."""
        return self.site.root.parent / f"{self.site.root.name}-backups"

    def source(self, word: str = "latest") -> Source:
        """The backup to restore."""
        backups = BackupDirectory.of(self.backups)
        return Source(backups.directory, backups.choose(word))

    def restore(self, word: str = "latest", **request: Any) -> Outcome:
        """Restore a backup."""
        return self.releases().restore(self.source(word), RestoreRequest(**request))

    def restore_fails(self, word: str = "latest", **request: Any) -> ReleaseError:
        """Restore a backup and return the failure."""
        with pytest.raises(ReleaseError) as caught:
            self.restore(word, **request)
        return caught.value

    def assert_restored(self, rows: list[str], version: str = "1.0") -> None:
        """Check that the live release serves the restored database, alone."""
        live = self.site.current_record()
        assert live
        running = {name: container.running for name, container in self.engine.containers.items()}
        assert running == {live.container: True}
        assert live.image == f"polls:{version}"
        assert self.content()["rows"] == rows
        assert self.site.traces() == set(self.site.records())
        assert not self.site.hold.exists()
        assert not self.site.maintenance.exists()
        assert not self.site.unfinished.exists()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    site = Site("polls", tmp_path / "srv")
    made = Host(site, PretendedEngine(site))
    made.offer("1.0")
    made.offer("2.0", migrations=MIGRATIONS)
    return made


# A restore


def test_a_restore_is_a_release_on_a_new_generation(host: Host) -> None:
    host.release("1.0")
    host.write_row("new vote")
    write_backup(host.backups)
    outcome = host.releases().restore(host.source(), RestoreRequest())
    assert (outcome.action, outcome.release, outcome.migrations) == ("released", 2, ())
    assert outcome.previous
    host.assert_restored(["old vote"])
    record = host.site.current_record()
    assert record
    assert (record.generation, record.previous, record.restored) == (2, 1, NOON)
    found = outcome.restored
    assert (found["backup"], found["rows_total"], found["live_database_missing"]) == (NOON, 1, False)
    backup = host.source().backup
    assert backup
    assert found["rpo_seconds"] == pytest.approx(time.time() - backup.moment, abs=5)
    assert 0 <= found["rto_seconds"] < 10
    assert json.loads((host.site.generation(1) / "db.sqlite3").read_text())["rows"] == ["new vote"]


def test_no_request_is_held_until_the_restored_release_serves(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.release("1.0", **MAILER)
    write_backup(host.backups)
    seen: list[tuple[str, bool, bool]] = []
    run = PretendedEngine.run

    def observed(engine: PretendedEngine, arguments: Any, timeout: float = 300) -> Answer:
        word = arguments[1] if arguments[0] == "migrator" else arguments[0]
        seen.append((word, host.site.hold.exists(), engine.guarded is not None))
        return run(engine, arguments, timeout)

    monkeypatch.setattr(PretendedEngine, "run", observed)
    host.restore()
    assert {word for word, held, _ in seen if held} == {"guard", "check"}
    assert ("check", True, True) in seen
    order = [word for word, _, _ in seen if word in ("run", "start", "guard", "check", "stop", "release")]
    assert order == ["run", "run", "start", "guard", "check", "stop", "release"]


def test_a_restore_can_be_rolled_back(host: Host) -> None:
    host.release("1.0", keep_releases=1)
    host.write_row("new vote")
    write_backup(host.backups)
    host.restore()
    assert host.releases().rollback(RollbackRequest(schema="generation")).release == 3
    host.assert_restored(["new vote"])


def test_the_backups_are_mounted_read_only(host: Host) -> None:
    host.release("1.0")
    write_backup(host.backups)
    host.restore()
    call = next(call for call in host.engine.calls if "restore" in call)
    mounts = {word.split("dst=")[1]: word for word in call if word.startswith("type=")}
    assert {place for place in mounts if not place.endswith(",readonly")} == {"/site/data", "/site/run", "/site/media"}
    assert mounts["/site/backups,readonly"].startswith(f"type=bind,src={host.backups},")
    assert set(mounts) >= {"/site/config,readonly"}
    assert call[call.index("--network") + 1] == "none"
    assert "--read-only" in call


def test_pending_migrations_are_applied_before_a_request_is_held(host: Host) -> None:
    host.release("2.0")
    write_backup(host.backups, migrations=MIGRATIONS[:1])
    assert host.restore().migrations == (MIGRATIONS[1],)
    host.assert_restored(["old vote"], "2.0")
    assert host.content()["migrations"] == list(MIGRATIONS)


def test_a_failed_migration_leaves_the_live_release_unchanged(host: Host) -> None:
    host.offer("2.1", migrations=(*MIGRATIONS, "polls.0003_fine"))
    host.release("2.1")
    write_backup(host.backups)
    host.engine.images["polls:2.1"].migrations = (*MIGRATIONS, "polls.0003_sudden", "polls.0003_fine")
    before = host.picture()
    error = host.restore_fails()
    assert error.step == "migrate the new database generation"
    assert "near the migration" in error.log
    assert ["migrator", "guard"] not in [call[:2] for call in host.engine.calls]
    assert host.picture() == before


@pytest.mark.parametrize(
    ("present", "deployed", "cure"),
    [
        (False, False, "which is not on this host: deploy version 2.0"),
        (True, False, "deploy.yml -e site_version=2.0"),
        (True, True, "playbooks/rollback.yml -e rollback_to=2"),
    ],
)
def test_a_backup_that_is_newer_than_the_code_is_refused(host: Host, present: bool, deployed: bool, cure: str) -> None:
    if deployed:
        host.release("1.0")
        host.release("2.0")
        host.releases().rollback(RollbackRequest(schema="reverse"))
    else:
        host.release("1.0")
    if not present:
        del host.engine.images["polls:2.0"]
    write_backup(host.backups, migrations=MIGRATIONS, version="2.0")
    before = host.picture()
    error = host.restore_fails()
    assert "polls.0002_more" in str(error)
    assert cure in str(error)
    assert "Nothing was changed" in str(error)
    assert host.picture() == before


def test_a_backup_of_the_live_code_is_restored_whatever_its_database_has_applied(host: Host) -> None:
    # Django keeps the rows of removed applications and of squashed migrations, and the site runs.
    host.release("1.0")
    write_backup(host.backups, rows=("kept",), migrations=(*MIGRATIONS[:1], "gone.0001_initial"))
    assert [text for text in host.restore().warnings if "gone.0001_initial" in text]
    host.assert_restored(["kept"])


def test_a_damaged_archive_is_found_before_any_change(host: Host) -> None:
    host.release("1.0")
    name = write_backup(host.backups)
    with (host.backups / f"{name}.sqlite3.zst").open("r+b") as file:
        file.seek(3)
        file.write(b"X")
    before = host.picture()
    error = host.restore_fails()
    assert error.step == f"verify and unpack {name}"
    assert "not what was written" in str(error)
    assert host.picture() == before


def test_a_restore_without_enough_memory_is_reported(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.release("1.0")
    write_backup(host.backups)
    before = host.picture()
    run = PretendedEngine._do_run
    monkeypatch.setattr(
        PretendedEngine, "_do_run", lambda engine, words: Answer(137) if "restore" in words else run(engine, words)
    )
    error = host.restore_fails()
    assert "it was killed (exit status 137), probably because it ran out of memory. N" in str(error)
    assert host.picture() == before


def test_a_full_disk_is_reported_with_sizes(host: Host) -> None:
    host.release("1.0")
    write_backup(host.backups, database={"bytes": 10**18})
    before = host.picture()
    assert f"the database of {NOON} needs 1100000000000 MB" in str(host.restore_fails())
    assert host.picture() == before


def test_missing_uploads_are_put_back_and_others_stay(host: Host) -> None:
    host.release("1.0")
    (host.site.media / "mine.txt").write_text("newer")
    (host.site.media / "other.txt").write_text("other")
    name = write_backup(host.backups)
    (host.backups / f"{name}.media").mkdir()
    for file, text in (("mine.txt", "older"), ("gone.txt", "gone")):
        (host.backups / f"{name}.media" / file).write_text(text)
    backup = host.source().backup
    assert backup
    assert backup.missing_media_bytes(host.site.media) == 4
    outcome = host.releases().restore(host.source(), RestoreRequest())
    assert outcome.restored["media_restored"] == 1
    found = {path.name: path.read_text() for path in host.site.media.iterdir()}
    assert found == {"mine.txt": "newer", "other.txt": "other", "gone.txt": "gone"}


def test_a_restore_that_fails_after_uploads_are_back_reports_them(host: Host) -> None:
    host.release("1.0")
    name = write_backup(host.backups, migrations=MIGRATIONS, version="2.0")
    (host.backups / f"{name}.media").mkdir()
    (host.backups / f"{name}.media" / "gone.txt").write_text("gone")
    assert "The database was not changed; missing uploads are back: 1" in str(host.restore_fails())
    assert (host.site.media / "gone.txt").exists()
    (host.site.media / "gone.txt").unlink()
    with (host.backups / f"{name}.sqlite3.zst").open("r+b") as file:
        file.write(b"X")
    assert "The database was not changed; some missing uploads may be back" in str(host.restore_fails())


def test_an_import_is_a_restore_of_a_file(host: Host) -> None:
    host.release("2.0")
    host.backups.mkdir()
    (host.backups / "mine.sqlite3").write_text(json.dumps({"migrations": [MIGRATIONS[0]], "rows": ["a", "b"]}))
    outcome = host.releases().restore(Source(host.backups, file="mine.sqlite3"), RestoreRequest())
    assert outcome.migrations == (MIGRATIONS[1],)
    host.assert_restored(["a", "b"], "2.0")
    found = outcome.restored
    assert (found["backup"], found["rows_total"], found["rpo_seconds"]) == ("mine.sqlite3", 2, None)
    assert host.site.audited()[-1]["what"] == "import"
    (host.backups / "mine.sqlite3").write_text(json.dumps({"migrations": ["polls.0009_other"], "rows": []}))
    with pytest.raises(ReleaseError, match=r"polls\.0009_other\. Deploy the version that has them"):
        host.releases().restore(Source(host.backups, file="mine.sqlite3"), RestoreRequest())


def test_an_import_of_a_database_without_django_s_migrations_is_refused(host: Host) -> None:
    host.release("1.0")
    host.backups.mkdir()
    (host.backups / "mine.sqlite3").write_text(json.dumps({"migrations": [], "rows": ["a cookie"]}))
    before = host.picture()
    with pytest.raises(ReleaseError, match=r"mine\.sqlite3 has none of Django's migrations.*Nothing was changed"):
        host.releases().restore(Source(host.backups, file="mine.sqlite3"), RestoreRequest())
    assert host.picture() == before


def test_data_removed_while_the_site_serves_is_restored(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.release("1.0", **MAILER)
    write_backup(host.backups)
    shutil.rmtree(host.site.data)
    closed: list[bool] = []
    create = PretendedEngine._do_create

    def observed(engine: PretendedEngine, words: list[str]) -> Answer:
        # The live release's mount would hide the new generation.
        closed.append(host.site.maintenance.exists() and not engine.containers["polls-1"].running)
        return create(engine, words)

    monkeypatch.setattr(PretendedEngine, "_do_create", observed)
    outcome = host.releases().restore(host.source(), RestoreRequest())
    assert closed == [True, True]
    assert outcome.restored["live_database_missing"]
    assert ["migrator", "guard"] not in [call[:2] for call in host.engine.calls]
    assert not host.site.maintenance.exists()
    record = host.site.current_record()
    assert record
    assert record.generation == 2  # the number of the lost generation is not used again
    assert host.content()["rows"] == ["old vote"]


def test_a_site_with_a_damaged_live_database_can_be_restored(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.release("1.0", **MAILER)
    write_backup(host.backups)
    monkeypatch.setattr(PretendedEngine, "_word_guard", lambda *_: {"error": "guard: file is not a database"})
    seen: list[tuple[bool, bool, bool]] = []
    commit = Site.commit

    def observed(site: Site, record: Any, look: Any) -> None:
        running = any(host.engine.containers[name].running for name in ("polls-1", "polls-1-mailer"))
        seen.append((running, site.hold.exists(), site.maintenance.exists()))
        commit(site, record, look)

    monkeypatch.setattr(Site, "commit", observed)
    outcome = host.releases().restore(host.source(), RestoreRequest())
    assert seen == [(False, False, True)]
    assert outcome.restored["live_database_problem"] == "guard: file is not a database"
    assert host.content()["rows"] == ["old vote"]
    assert not host.site.maintenance.exists()


def test_a_failed_restore_over_a_damaged_database_restarts_the_old_containers(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.release("1.0", **MAILER)
    write_backup(host.backups)
    before = host.picture()

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(PretendedEngine, "_word_guard", lambda *_: {"error": "guard: file is not a database"})
        patched.setattr(Site, "commit", broken)
        assert "No space left" in str(host.restore_fails())
    assert host.picture() == before


def test_a_rollback_of_a_restore_needs_a_choice(host: Host) -> None:
    host.release("1.0")
    write_backup(host.backups)
    host.restore()
    before = host.picture()
    with pytest.raises(ReleaseError, match=f"release 2 restored {NOON}, and release 1 had another database"):
        host.releases().rollback(RollbackRequest())
    assert host.picture() == before
    host.releases().rollback(RollbackRequest(schema="keep"))
    host.assert_restored(["old vote"])
    host.releases().rollback(RollbackRequest())  # release 3 is no restore


def test_a_failed_restore_of_lost_data_restarts_the_old_containers(host: Host) -> None:
    host.release("1.0")
    write_backup(host.backups)
    shutil.rmtree(host.site.data)
    host.engine.images["polls:1.0"].healthy = False
    assert "was not ready" in str(host.restore_fails())
    assert host.engine.containers["polls-1"].running
    assert not host.site.maintenance.exists()
    assert host.site.generations() == set()


def test_commands_after_a_restore(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.release("1.0", post_release=(("warm", "up"),))
    write_backup(host.backups)
    host.restore(post_restore=(("rebuild_index",),))
    done = [call[2:] for call in host.engine.calls if call[0] == "exec"]
    assert done == [["python3", "manage.py", *words] for words in (["warm", "up"], ["warm", "up"], ["rebuild_index"])]
    monkeypatch.setattr(
        PretendedEngine, "_do_exec", lambda _, words: Answer(3 if words[-1] == "rebuild_index" else 0, stderr="no")
    )
    error = host.restore_fails(post_restore=(("rebuild_index",),))
    assert error.step == "run 'rebuild_index' after the restore"
    assert "The release is live" in str(error)
    host.assert_restored(["old vote"])


def test_each_restore_and_each_failed_one_has_a_line_in_the_audit_log(host: Host) -> None:
    host.release("1.0")
    write_backup(host.backups)
    host.engine.images["polls:1.0"].healthy = False
    host.restore_fails()
    host.engine.images["polls:1.0"].healthy = True
    host.restore()
    failed, done = host.site.audited()[1:]
    for line in (failed, done):
        assert (line["what"], line["backup"], line["by"]) == ("restore", NOON, "somebody")
        backup = host.source().backup
        assert backup
        assert line["rpo_seconds"] == pytest.approx(time.time() - backup.moment, abs=5)
    assert "was not ready" in failed["outcome"]
    assert done["outcome"] == "released"
    assert "what" not in host.site.audited()[0]


def test_a_restore_beside_another_release_is_refused(host: Host) -> None:
    host.release("1.0")
    write_backup(host.backups)
    calls = len(host.engine.calls)
    with host.site.lock():
        assert "another release of polls is running" in str(host.restore_fails())
    assert len(host.engine.calls) == calls


def test_a_site_without_a_live_release_is_not_restored(host: Host) -> None:
    write_backup(host.backups)
    assert "has no live release on this host: deploy it first" in str(host.restore_fails())


def test_a_runtime_that_cannot_restore_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.release("1.0")
    write_backup(host.backups)
    monkeypatch.setattr(PretendedEngine, "_restore", lambda *_: Answer(0, ""))
    assert "rebuild the image" in str(host.restore_fails())


# A bare host


def test_a_site_is_rebuilt_on_a_bare_host(host: Host) -> None:
    write_backup(host.backups)
    outcome = host.releases().rebuild(host.spec("2.0"), host.source())
    assert (outcome.release, outcome.previous, outcome.migrations) == (1, None, (MIGRATIONS[1],))
    host.assert_restored(["old vote"], "2.0")
    assert host.site.secret_key() == OLD_KEY
    assert host.release("2.0").action == "none"
    with pytest.raises(ReleaseError, match="has a live release on this host"):
        host.releases().rebuild(host.spec("2.0"), host.source())


@pytest.mark.parametrize("part", ["sqlite3.zst", "config.tar"])
def test_a_damaged_backup_rebuilds_nothing(host: Host, part: str) -> None:
    name = write_backup(host.backups)
    path = host.backups / f"{name}.{part}"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ReleaseError, match="is not what was written"):
        host.releases().rebuild(host.spec("1.0"), host.source())
    assert host.picture() == {}
    assert not host.engine.calls or host.engine.calls[-1][0] != "run"


# The choice of a backup


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("latest", "20261123T120000Z-r2"),
        ("20261122T120000Z-r1", "20261122T120000Z-r1"),
        ("2026-11-23T12:00:00Z", "20261123T120000Z-r2"),
        ("2026-11-23T11:59:59Z", "20261122T120000Z-r1"),
        ("2026-11-23 12:30", "20261123T120000Z-r2"),
        ("2026-11-23T12:30:00+01:00", "20261122T120000Z-r1"),
        ("2026-11-22", None),
        ("2026-11-24", None),
        ("yesterday", None),
        ("20261121T000000Z-r1", None),
        ("../x", None),
    ],
)
def test_a_backup_is_chosen_by_id_or_time(tmp_path: Path, word: str, found: str | None) -> None:
    for name in ("20261123T120000Z-r2", "20261122T120000Z-r1"):
        write_backup(tmp_path, name)
    backups = BackupDirectory.of(tmp_path)
    if found:
        assert backups.choose(word).id == found
    else:
        with pytest.raises(ReleaseError, match=r"no backup in .* as old as|is neither a backup in|as old as"):
            backups.choose(word)


def test_a_backup_without_its_seal_does_not_exist(tmp_path: Path) -> None:
    name = write_backup(tmp_path)
    (tmp_path / f"{name}.json.sha256").unlink()
    with pytest.raises(ReleaseError, match="has no backup"):
        BackupDirectory.of(tmp_path).choose("latest")


def test_a_backup_of_another_site_is_refused(host: Host) -> None:
    given = {"file": None, "backup": "latest", "directory": str(host.backups)}
    write_backup(host.backups)
    found = module.source_of(host.site, given)
    assert found
    assert found.name == NOON
    other = write_backup(host.backups, "20261123T130000Z-r1", site="notes")
    with pytest.raises(ReleaseError, match=f"{other} is a backup of the site notes, not of polls"):
        module.source_of(host.site, given)


def test_an_unreadable_backup_is_not_reported_as_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_backup(tmp_path)
    refuse = PermissionError(13, "Permission denied", str(tmp_path / f"{name}.json"))
    monkeypatch.setattr(files, "read", Mock(side_effect=refuse))
    with pytest.raises(ReleaseError, match=rf"{name}\.json: the user \d+ may not read it"):
        BackupDirectory.of(tmp_path)


def test_a_damaged_manifest_is_reported_and_does_not_hide_the_others(tmp_path: Path) -> None:
    older, newer = write_backup(tmp_path, "20261122T120000Z-r1"), write_backup(tmp_path)
    path = tmp_path / f"{newer}.json"
    path.write_text(path.read_text().replace('"rows_total": 1', '"rows_total": 2'))
    backups = BackupDirectory.of(tmp_path)
    assert backups.choose(older).id == older
    for word in ("latest", newer):
        with pytest.raises(ReleaseError, match=f"{newer}.json is not what was written.*readable backup: {older}"):
            backups.choose(word)
    assert backups.table()[-1] == f"{newer} damaged"


@pytest.mark.parametrize("change", [{"format": 1}, {"id": "20261122T120000Z-r1"}, {"time": "soon"}, {"archive": None}])
def test_a_manifest_with_an_invalid_field_is_reported(tmp_path: Path, change: dict[str, Any]) -> None:
    write_backup(tmp_path, **change)
    with pytest.raises(ReleaseError, match="is not what was written"):
        BackupDirectory.of(tmp_path).choose("latest")


@pytest.mark.parametrize("part", ["json", "sqlite3.zst", "config.tar"])
def test_each_flipped_byte_is_found(tmp_path: Path, part: str) -> None:
    backup = BackupDirectory.of(tmp_path).choose(write_backup(tmp_path)) if write_backup(tmp_path) else None
    assert backup
    check(backup)
    path = tmp_path / f"{backup.id}.{part}"
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 50)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ReleaseError, match="the backup is damaged"):
            check(backup)
    path.unlink()
    with pytest.raises(ReleaseError, match="No such file"):
        check(backup)


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    write_backup(
        tmp_path, "20261123T120000Z-r1234", version="2026.11.1", rows_total=123456789, database={"bytes": 9999 * 10**8}
    )
    write_backup(tmp_path, "20261122T120000Z-r1")
    lines = BackupDirectory.of(tmp_path).table()
    assert max(map(len, lines)) <= 80 - len("    - ") - 1
    assert lines[1].split() == [
        "20261123T120000Z-r1234",
        "2026-11-23",
        "12:00",
        "1234",
        "2026.11.1",
        "123456789",
        "999.9",
        "GB",
    ]
    assert lines[2].split() == ["20261122T120000Z-r1", "2026-11-22", "12:00", "1", "1.0", "1", "60", "B"]


def test_the_protected_part(tmp_path: Path) -> None:
    backup = BackupDirectory.of(tmp_path).choose(write_backup(tmp_path)) if write_backup(tmp_path) else None
    assert backup
    assert Protected.of(backup) == Protected(OLD_KEY, ("TOKEN",))


def test_the_protected_part_of_a_backup_in_which_all_releases_share_the_key(tmp_path: Path) -> None:
    members = {"secrets/1/TOKEN": "hunter-2\n", "secrets/secret_key": "the old key", "secrets/2/secret_key": "another"}
    name = write_backup(tmp_path, members=members)
    backup = BackupDirectory.of(tmp_path).choose(name)
    assert Protected.of(backup) == Protected(SecretKey("the old key"), ("TOKEN",))


@pytest.mark.parametrize(
    "members",
    [{"secrets/1/TOKEN": "t\n"}, {"secrets/1/secret_key": " "}, {**MEMBERS, "secrets/1/secret_key_fallbacks": "{}{"}],
)
def test_a_backup_without_a_secret_key_cannot_rebuild_a_site(tmp_path: Path, members: dict[str, str]) -> None:
    name = write_backup(tmp_path, members=members)
    backup = BackupDirectory.of(tmp_path).choose(name)
    with pytest.raises(ReleaseError, match="cannot read the site's secret key from"):
        Protected.of(backup)


def test_the_directory_of_the_backups(host: Host) -> None:
    host.release("1.0")
    assert module.directory_of(host.site, "/elsewhere") == Path("/elsewhere")
    assert module.directory_of(host.site, None) == Path("/var/backups/hostwright/polls")
    (host.site.configuration / "backup.json").write_text('{"directory": "/opt/backups/polls"}')
    assert module.directory_of(host.site, None) == Path("/opt/backups/polls")


# Faults


@pytest.fixture
def make(host: Host, tmp_path: Path, impatient: None) -> Callable[[], Host]:  # noqa: ARG001
    """Return a function that makes hosts with a site and a backup that needs a migration."""
    made = iter(range(10_000))

    def another() -> Host:
        site = Site("polls", tmp_path / f"srv{next(made)}")
        world = Host(site, PretendedEngine(site))
        world.engine.images = {name: dataclasses.replace(app) for name, app in host.engine.images.items()}
        world.release("2.0", **MAILER)
        world.write_row("new vote")
        write_backup(world.backups)
        world.engine.calls.clear()
        return world

    return another


def number_of_calls(make: Callable[[], Host]) -> int:
    world = make()
    world.restore()
    return len(world.engine.calls)


def without_containers(picture: Picture) -> Picture:
    return {name: text for name, text in picture.items() if not name.startswith("container")}


@pytest.mark.parametrize("fault", ["status", "time", "gone"])
def test_whichever_call_fails_the_old_release_is_intact_and_the_next_restore_succeeds(
    make: Callable[[], Host], fault: str
) -> None:
    failures = 0
    for number in range(number_of_calls(make)):
        world = make()
        before = world.picture()
        world.engine.fail_at, world.engine.fault = number, fault
        try:
            world.restore()
        except ReleaseError as error:
            failures += 1
            live = world.site.current_record()
            assert live
            if live.release == 1:
                same = without_containers if fault == "gone" else dict
                assert same(world.picture()) == same(before), world.engine.calls[number]
                assert not world.site.hold.exists()
            else:
                assert error.step == "retire the old release"
        world.engine.fail_at = -1
        world.restore()
        assert world.content() == {"migrations": list(MIGRATIONS), "rows": ["old vote"]}
        assert all(container.running for container in world.engine.containers.values())
    assert failures >= 12


def test_wherever_the_caller_dies_current_is_intact_and_the_next_run_succeeds(
    make: Callable[[], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    undo = Transaction.undo
    for number in range(number_of_calls(make)):
        world = make()
        live = world.site.current_record()
        rows = world.live_database.read_text()
        world.engine.fail_at, world.engine.fault = number, "kill"
        monkeypatch.setattr(Transaction, "undo", lambda *_: None)  # a killed process undoes nothing
        with pytest.raises((Killed, ReleaseError)):
            world.restore()
        monkeypatch.setattr(Transaction, "undo", undo)
        now = world.site.current_record()
        assert now
        world.engine.fail_at = -1
        world.engine.guarded = None
        # The next deployment removes what the dead one has left.
        assert world.release("2.0", **MAILER).action in ("none", "started")
        assert world.site.current_record() == now
        assert world.site.generations() == {record.generation for record in world.site.records().values()}
        assert world.live_database.read_text() == rows if now == live else world.content()["rows"] == ["old vote"]
        assert {name for name, container in world.engine.containers.items() if container.running} == {
            now.container,
            f"{now.container}-mailer",
        }


@pytest.mark.parametrize("fault", ["status", "kill"])
def test_wherever_a_rebuild_fails_the_host_stays_bare_and_the_next_one_succeeds(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_backup(tmp_path / "backups")
    backups = BackupDirectory.of(tmp_path / "backups")
    source = Source(backups.directory, backups.choose("latest"))
    number = failures = 0
    while True:
        site = Site("polls", tmp_path / f"bare{number}")
        world = Host(site, PretendedEngine(site))
        world.engine.images = {"polls:1.0": App()}
        world.engine.fail_at, world.engine.fault = number, fault
        try:
            with monkeypatch.context() as dead:
                if fault == "kill":
                    dead.setattr(Transaction, "undo", lambda *_: None)  # a killed process undoes nothing
                world.releases().rebuild(world.spec("1.0"), source)
        except (ReleaseError, Killed):
            failures += 1
            if fault == "status" and not site.current.is_symlink():
                assert site.generations() == set()
                assert not site.unfinished.exists()
                assert world.engine.containers == {}
        else:
            if len(world.engine.calls) <= number:
                break
        world.engine.fail_at = -1
        if site.current.is_symlink():
            world.release("1.0")
        else:
            world.releases().rebuild(world.spec("1.0"), source)
        world.assert_restored(["old vote"])
        number += 1
    assert failures >= 8

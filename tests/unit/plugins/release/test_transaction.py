"""A transaction, step by step on a pretended Engine: whatever fails or dies, the old release is intact and serves."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host.process import Answer
from ansible_collections.hostwright.django.plugins.module_utils.release import getting_ready, old_release, readiness
from ansible_collections.hostwright.django.plugins.module_utils.release.errors import ReleaseError
from ansible_collections.hostwright.django.plugins.module_utils.release.hold import Gate, RenewedGate
from ansible_collections.hostwright.django.plugins.module_utils.release.migrator import Migrator
from ansible_collections.hostwright.django.plugins.module_utils.release.outcome import Outcome
from ansible_collections.hostwright.django.plugins.module_utils.release.record import Record
from ansible_collections.hostwright.django.plugins.module_utils.release.releases import Releases
from ansible_collections.hostwright.django.plugins.module_utils.release.rollback import RollbackRequest
from ansible_collections.hostwright.django.plugins.module_utils.release.site import Site
from ansible_collections.hostwright.django.plugins.module_utils.release.spec import Job, Limits, Spec
from ansible_collections.hostwright.django.plugins.module_utils.release.steps import Step
from ansible_collections.hostwright.django.plugins.module_utils.release.transaction import Transaction
from ansible_collections.hostwright.django.plugins.modules import release as module
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults import test_kills
from tests.support import role_app
from tests.unit.plugins.release.pretended_engine import App, Container, Killed, PretendedEngine, PretendedMigrator

pytestmark = pytest.mark.usefixtures("owners", "no_fsync")

CONFIGURATION = {
    "scheme": "http",
    "health_path": "/",
    "allowed_hosts": ["polls.example.org"],
    "server": {"processes": 2, "threads": 2},
}
SPEC = Spec(
    "polls:1.0",
    "digest-1.0",
    "image-1.0",
    CONFIGURATION,
    Limits(),
    "/static/",
    {"TOKEN": "the-token"},
    health_timeout=0,
)
PHOTO = "site.0123456789ab.css"

Picture = dict[str, str]


@dataclass
class World:
    """A host with one site."""

    site: Site
    engine: PretendedEngine
    known: dict[str, Spec] = field(default_factory=dict)

    def spec(self, version: str, **changes: Any) -> Spec:
        """Return the spec of a version."""
        return dataclasses.replace(SPEC, image=f"polls:{version}", source_digest=f"digest-{version}", **changes)

    def offer(self, version: str, **changes: Any) -> None:
        """Put the image of a version on the host."""
        self.engine.images[f"polls:{version}"] = App(**changes)

    def release(self, version: str, **changes: Any) -> Outcome:
        """Deploy a version."""
        return self.releases().run(self.spec(version, **changes))

    def releases(self) -> Releases:
        """Return the object under test."""
        return Releases(self.site, self.engine, self.engine.ask, {"by": "somebody", "bytes": 7}, self.site.root.parent)

    def fails(self, version: str, **changes: Any) -> ReleaseError:
        """Deploy a version and return the failure."""
        with pytest.raises(ReleaseError) as caught:
            self.release(version, **changes)
        return caught.value

    def write_row(self, row: str) -> None:
        """Let a visitor write into the live database."""
        database = self.live_database
        content = json.loads(database.read_text())
        content["rows"].append(row)
        database.write_text(json.dumps(content))

    @property
    def live_database(self) -> Path:
        """The live release's database."""
        live = self.site.current_record()
        assert live
        return self.site.generation(live.generation) / "db.sqlite3"

    def content(self) -> Any:
        """Return the content of the live database."""
        return json.loads(self.live_database.read_text())

    def picture(self) -> Picture:
        """Return the lasting state: files and their content, links, releases, generations, containers."""
        found: Picture = {}
        for path in sorted(self.site.root.rglob("*")):
            name = path.relative_to(self.site.root).as_posix()
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif path.is_file() and path.name not in ("lock", "deployments.jsonl"):
                found[name] = path.read_text()
            elif path.is_dir() and path.name.isdigit():
                found[name] = "directory"
        for name, container in self.engine.containers.items():
            found[f"container {name}"] = f"{container.image} {container.running} {container.restart}"
        return found

    def assert_consistent(self, spec: Spec) -> None:
        """Check that the live release has the spec, that it alone runs, and that there are no leftovers."""
        live = self.site.current_record()
        assert live
        assert (live.image, live.source_digest) == (spec.image, spec.source_digest)
        assert live.spec_digest == spec.digest(self.site.secret_key().value)
        running = {name: (c.image, c.running, c.restart) for name, c in self.engine.containers.items()}
        assert running == {live.container: (spec.image, True, "always")}
        records = self.site.records()
        assert self.site.traces() == set(records)
        fallbacks = {"secret_key_fallbacks"} if self.site.secret_key().fallbacks else set()
        shown = {path.name for path in (self.site.memory / str(live.release)).iterdir()}
        assert shown == {"TOKEN", "secret_key", *fallbacks}
        assert live.release == max(records)
        assert len(records) <= spec.keep_releases
        assert self.site.generations() == {record.generation for record in records.values()}
        assert not self.site.unfinished.exists()
        for number, record in records.items():
            configured = json.loads(self.site.release_configuration(number).read_text())
            assert configured["database"] == f"/site/data/databases/{record.generation}/db.sqlite3"
            assert (self.site.release(number) / "static").resolve() == (self.site.static / str(number)).resolve()
            assert {path.name for path in self.site.secrets(number).iterdir()} >= {"TOKEN", "secret_key"}
        assert set(self.engine.images[spec.image].migrations) <= set(self.content()["migrations"])


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync for speed; test_site checks durability."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def world(tmp_path: Path) -> World:
    site = Site("polls", tmp_path / "srv")
    made = World(site, PretendedEngine(site))
    made.offer("1.0")
    made.offer("1.1", static={"site.css": "b {}", PHOTO: "b {}"})
    made.offer("2.0", migrations=("polls.0001_initial", "polls.0002_more"))
    made.offer("2.1", migrations=("polls.0001_initial", "polls.0002_more", "polls.0003_broken"))
    return made


# A release


def test_the_first_release(world: World) -> None:
    outcome = world.release("1.0")
    assert (outcome.action, outcome.release, outcome.previous) == ("released", 1, None)
    assert outcome.migrations == ("polls.0001_initial",)
    assert outcome.held == 0
    world.assert_consistent(world.spec("1.0"))
    record = world.site.current_record()
    assert record
    assert (record.generation, record.previous, record.version, record.container) == (1, None, "1.0", "polls-1")
    assert record.image_id == "sha256:polls:1.0"
    assert len((world.site.secrets(1) / "secret_key").read_text()) > 50


def test_a_release_of_the_same_spec_changes_nothing(world: World) -> None:
    world.release("1.0")
    before, calls = world.picture(), len(world.engine.calls)
    outcome = world.release("1.0")
    assert (outcome.action, outcome.release) == ("none", 1)
    assert world.picture() == before
    assert len(world.engine.calls) - calls <= 4


def test_a_live_release_that_is_down_is_started(world: World) -> None:
    world.release("1.0")
    world.engine.containers["polls-1"].running = False
    assert world.release("1.0").action == "started"
    world.assert_consistent(world.spec("1.0"))


def test_a_live_release_without_its_container_gets_a_new_one(world: World) -> None:
    world.release("1.0")
    options = world.engine.containers.pop("polls-1").options
    assert world.release("1.0").action == "started"
    world.assert_consistent(world.spec("1.0"))
    assert world.engine.containers["polls-1"].options == options


def test_no_release_is_made_whose_secrets_a_reboot_would_lose(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{Transaction.__module__}.UNIT", world.site.root / "nowhere.service")
    assert "nowhere.service on this host, so a reboot would" in str(world.fails("1.0"))
    assert world.site.current_record() is None


def test_a_live_release_that_is_started_has_its_secrets(world: World) -> None:
    world.release("1.0")
    world.engine.containers["polls-1"].running = False
    shutil.rmtree(world.site.memory)
    assert world.release("1.0").action == "started"
    assert (world.site.memory / "1" / "TOKEN").read_text() == "the-token\n"


def test_a_live_release_that_does_not_come_up_again_is_reported(world: World) -> None:
    world.release("1.0")
    world.engine.containers["polls-1"].running = False
    world.engine.images["polls:1.0"].dies = True
    error = world.fails("1.0")
    assert "polls-1 ended while it started" in str(error)
    assert "the reason in the log" in error.log


def test_code_only_never_stops_the_old_release_before_the_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.release("1.0")
    world.write_row("a vote")
    running_at_commit: list[str] = []
    commit = Site.commit

    def observed(site: Site, record: Any, check: Any) -> None:
        running_at_commit.extend(name for name, container in world.engine.containers.items() if container.running)
        commit(site, record, check)

    monkeypatch.setattr(Site, "commit", observed)
    outcome = world.release("1.1")
    assert running_at_commit == ["polls-1", "polls-2"]
    assert (outcome.action, outcome.release, outcome.migrations, outcome.held) == ("released", 2, (), 0)
    assert outcome.previous
    assert outcome.previous.release == 1
    world.assert_consistent(world.spec("1.1"))
    record = world.site.current_record()
    assert record
    assert (record.generation, record.previous) == (1, 1)
    assert world.content()["rows"] == ["a vote"]


def test_pending_migrations_make_a_new_generation(world: World) -> None:
    world.release("1.0")
    world.write_row("a vote")
    old = world.live_database.read_text()
    world.engine.calls.clear()
    outcome = world.release("2.0")
    assert outcome.migrations == ("polls.0002_more",)
    assert outcome.held > 0
    assert outcome.rehearsed["hold_seconds"] == 0.7
    world.assert_consistent(world.spec("2.0"))
    assert world.content() == {"migrations": ["polls.0001_initial", "polls.0002_more"], "rows": ["a vote"]}
    assert (world.site.generation(1) / "db.sqlite3").read_text() == old
    done = [" ".join(call[:2]) if call[0] == "migrator" else call[0] for call in world.engine.calls]
    order = ["migrator rehearse", "create", "start", "migrator guard", "migrator copy", "migrator migrate"]
    order += ["migrator check", "stop", "migrator release"]
    assert [word for word in done if word in order] == order


def test_kills_are_tried_in_each_step_of_a_release_that_migrates(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.release("1.0")
    steps: list[str] = []
    write = Path.write_text

    def observed(path: Path, text: str) -> int:
        if path == world.site.progress:
            steps.append(text.strip())
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", observed)
    world.release("2.0")
    assert steps == [step for step in test_kills.STEPS if step != test_kills.RENAMED]
    assert all(f"could not {step}" == f"could not {step.value}" for step in Step)


def test_requests_wait_from_the_guard_to_the_commit_and_no_longer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.release("1.0")
    seen: dict[str, float] = {}
    run = PretendedEngine.run

    def observed(engine: PretendedEngine, arguments: Sequence[str], timeout: float = 300) -> Answer:
        name = arguments[1] if arguments[0] == "migrator" else arguments[0]
        hold = world.site.hold
        if hold.exists():
            seen[name] = hold.stat().st_mtime - time.time()
        return run(engine, arguments, timeout)

    monkeypatch.setattr(PretendedEngine, "run", observed)
    world.release("2.0", hold_seconds=20)
    assert set(seen) == {"guard", "copy", "migrate", "check"}
    assert 15 < seen["migrate"] <= 20
    assert not world.site.hold.exists()


def test_a_maintenance_window_lasts_until_the_process_dies(world: World) -> None:
    world.release("1.0")
    world.engine.migration_seconds = 100
    error = world.fails("2.0")
    assert "requests would wait 100.6 s (copy 0.1 s, migrations 100.0 s), but app_hold_seconds allows 10 s" in str(
        error
    )
    assert not world.site.hold.exists()
    outcome = world.release("2.0", maintenance=True)
    assert outcome.held > 0
    world.assert_consistent(world.spec("2.0"))
    assert not world.site.maintenance.exists()


def test_a_full_disk_is_reported_before_a_request_is_held(world: World) -> None:
    world.release("1.0")
    before = world.picture()
    world.engine.peak = 10**18
    error = world.fails("2.0")
    assert "as the rehearsal showed, needs 1100000000000 MB" in str(error)
    assert ["migrator", "guard"] not in [call[:2] for call in world.engine.calls]
    assert world.picture() == before


def test_a_migration_that_fails_in_the_rehearsal_holds_no_request(world: World) -> None:
    world.release("1.0")
    before = world.picture()
    error = world.fails("2.1")
    assert error.step == "rehearse the migrations on a copy of the database"
    assert "near the migration" in error.log
    assert ["migrator", "guard"] not in [call[:2] for call in world.engine.calls]
    assert world.picture() == before


def test_a_migration_that_fails_after_the_rehearsal_leaves_the_old_release_unchanged(world: World) -> None:
    world.offer("2.4", migrations=("polls.0001_initial", "polls.0002_sudden"))
    world.release("1.0")
    before = world.picture()
    error = world.fails("2.4")
    assert error.step == "migrate the new database generation"
    assert "near the migration" in error.log
    assert not [call for call in world.engine.calls if call[0] == "stop"]
    assert world.engine.guarded is None
    assert world.picture() == before


def test_a_commit_after_the_deadline_does_not_happen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.release("1.0")
    before = world.picture()
    write = Record.write

    def slow(record: Record, path: Path) -> None:
        write(record, path)
        monkeypatch.setattr(Gate, "left", lambda _: -0.1)

    monkeypatch.setattr(Record, "write", slow)
    error = world.fails("2.0")
    assert error.step == "commit"
    assert "requests may wait 10 s (less 1 s for safety), and that was not enough" in str(error)
    monkeypatch.undo()
    assert world.picture() == before


def test_a_release_whose_guard_was_lost_is_not_committed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.release("1.0")
    before = world.picture()
    monkeypatch.setattr(PretendedEngine, "_word_check", lambda *_: {"error": "the guard was lost"})
    assert "the guard was lost" in str(world.fails("2.0"))
    assert world.picture() == before


def test_a_release_whose_guard_is_lost_while_the_record_is_written_is_not_committed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.release("1.0")
    before = world.picture()
    write = Record.write

    def late(record: Record, path: Path) -> None:
        write(record, path)
        monkeypatch.setattr(PretendedEngine, "_word_check", lambda *_: {"error": "somebody has written"})

    monkeypatch.setattr(Record, "write", late)
    error = world.fails("2.0")
    assert (error.step, str(error)) == ("commit", "somebody has written")
    monkeypatch.undo()
    assert world.picture() == before


def test_after_a_failure_requests_wait_no_longer_than_the_guard_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.offer("2.4", migrations=("polls.0001_initial", "polls.0002_sudden"))
    world.release("1.0")
    found: list[tuple[bool, bool]] = []
    close = Migrator.close

    def observed(migrator: Migrator) -> None:
        found.append((world.engine.guarded is not None, world.site.hold.exists()))
        close(migrator)

    monkeypatch.setattr(Migrator, "close", observed)
    world.fails("2.4")
    assert found == [(False, False)]


def test_requests_do_not_wait_long_for_a_page_that_stays_broken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.offer("2.4", migrations=("polls.0001_initial", "polls.0002_more"), healthy=False)
    world.release("1.0")
    before = world.picture()
    monkeypatch.setattr(getting_ready, "ERROR_SECONDS", 0.3)
    start = time.monotonic()
    error = world.fails("2.4", health_timeout=60)
    assert error.step == "wait until the new release is ready"
    assert "GET / answered 503" in str(error)
    assert 0.3 < time.monotonic() - start < 3
    monkeypatch.undo()
    assert world.picture() == before


def test_the_old_release_is_stopped_after_it_has_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.release("1.0")
    answers = iter([2, 1, 0, 0])
    left: list[int] = []

    def count(*_: Any) -> int:
        left.append(next(answers))
        return left[-1]

    monkeypatch.setattr(old_release, "connections", count)
    stop = PretendedEngine._do_stop

    def observed(engine: PretendedEngine, words: list[str]) -> Answer:
        assert left == [2, 1, 0, 0]
        return stop(engine, words)

    monkeypatch.setattr(PretendedEngine, "_do_stop", observed)
    world.release("1.1")
    assert left == [2, 1, 0, 0]


def test_a_container_that_is_being_removed_already_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.release("1.0")
    world.engine.containers["polls-release"] = dataclasses.replace(world.engine.containers["polls-1"])
    inspect, looks = PretendedEngine._do_container_inspect, iter(range(3))

    def going(engine: PretendedEngine, words: list[str]) -> Answer:
        if words[2] == "polls-release" and next(looks) == 2:
            engine.containers.pop("polls-release")
        return inspect(engine, words)

    monkeypatch.setattr(PretendedEngine, "_do_container_inspect", going)
    monkeypatch.setattr(PretendedEngine, "_do_rm", lambda *_: Answer(1, stderr="removal is already in progress"))
    assert world.release("1.0").action == "none"
    world.assert_consistent(world.spec("1.0"))


@pytest.mark.usefixtures("impatient")
def test_a_container_that_cannot_be_removed_is_reported(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.release("1.0")
    world.engine.containers["polls-9"] = dataclasses.replace(world.engine.containers["polls-1"])
    world.engine.containers["polls-9"].options = [
        word.replace("hostwright.release=1", "hostwright.release=9")
        for word in world.engine.containers["polls-1"].options
    ]
    monkeypatch.setattr(PretendedEngine, "_do_rm", lambda *_: Answer(1, stderr="device or resource busy"))
    assert "polls-9 cannot be removed: device or resource busy" in str(world.fails("1.0"))


def test_leftovers_on_a_full_disk_are_removed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.release("1.0")
    leftover = world.site.generation(2)
    leftover.mkdir()
    write = Path.write_text

    def full(path: Path, text: str) -> int:
        if path == world.site.progress and leftover.exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", full)
    world.release("1.1")
    monkeypatch.undo()
    world.assert_consistent(world.spec("1.1"))


def test_workers_and_jobs_belong_to_the_release(world: World) -> None:
    workers = {"mailer": ("send", "--loop")}
    jobs = {"tidy": Job("5 4 * * *", ("clearsessions",))}
    world.release("1.0", workers=workers, jobs=jobs)
    containers = world.engine.containers
    assert {name: container.running for name, container in containers.items()} == {
        "polls-1": True,
        "polls-1-mailer": True,
        "polls-1-job-tidy": False,
    }
    assert containers["polls-1-mailer"].options[-3:] == ["work", "send", "--loop"]
    cron = world.site.root.parent / "hostwright-polls-jobs"
    assert "5 4 * * * root /usr/local/sbin/hostwright job polls tidy\n" in cron.read_text()
    before = world.picture()
    world.fails("2.1", workers=workers, jobs=jobs)
    assert world.picture() == before
    world.engine.images["polls:1.1"].healthy = False
    world.fails("1.1", workers=workers)
    assert world.picture() == before
    containers["polls-1-mailer"].running = False
    assert world.release("1.0", workers=workers, jobs=jobs).action == "started"
    assert world.picture() == before
    world.release("2.0")
    world.assert_consistent(world.spec("2.0"))
    assert not cron.exists()


MAILER: dict[str, Any] = {"workers": {"mailer": ("send",)}}
Plant = Callable[[Path], object]


def link_to_victim(path: Path) -> None:
    path.symlink_to(path.parents[5] / "victim")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """The target of a planted link: a file of the host."""
    path = tmp_path / "victim"
    path.write_text("untouched")
    os.utime(path, (1, 1))
    return path


@pytest.mark.parametrize("plant", [link_to_victim, Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_the_old_release_cannot_plant_files_for_the_new_one(
    world: World, victim: Path, monkeypatch: pytest.MonkeyPatch, plant: Plant, version: str
) -> None:
    """The old process sees the new release's directory, and plants files there as soon as it may write."""
    run = PretendedEngine.run
    directory = world.site.release(2)

    def observed(engine: PretendedEngine, arguments: Sequence[str], timeout: float = 300) -> Answer:
        if directory.is_dir() and directory.stat().st_mode & stat.S_IWGRP:
            for name in ("go", ".go.new", "static", "release.json", ".release.json.new"):
                if not os.path.lexists(directory / name):
                    plant(directory / name)
        return run(engine, arguments, timeout)

    world.release("1.0")
    monkeypatch.setattr(PretendedEngine, "run", observed)
    world.release(version)
    world.assert_consistent(world.spec(version))
    go = (directory / "go").lstat()
    assert (stat.S_ISREG(go.st_mode), stat.S_IMODE(go.st_mode)) == (True, 0o600)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o1770
    assert (victim.read_text(), victim.stat().st_mtime) == ("untouched", 1)


@pytest.mark.parametrize("plant", [link_to_victim, Path.mkdir, os.mkfifo, Path.touch])
@pytest.mark.parametrize("name", ["rest", ".rest.new", "rested-gone", "release.json.new"])
def test_files_that_a_site_puts_beside_its_socket_stop_no_release(
    world: World, victim: Path, plant: Plant, name: str
) -> None:
    world.release("1.0", **MAILER)
    for version in ("1.1", "2.0"):
        live = world.site.current_record()
        assert live
        plant(world.site.release(live.release) / name)
        world.release(version, **MAILER)
    live = world.site.current_record()
    assert live
    assert (live.release, live.image) == (3, "polls:2.0")
    assert (victim.read_text(), victim.stat().st_mtime) == ("untouched", 1)


@pytest.mark.parametrize("plant", [link_to_victim, Path.mkdir, os.mkfifo, Path.touch])
def test_a_file_in_place_of_the_record_of_a_failed_release_stops_no_release(
    world: World, victim: Path, plant: Plant
) -> None:
    world.release("1.0")
    world.site.release(2).mkdir()
    plant(world.site.release(2) / "release.json")
    world.release("1.1")
    world.assert_consistent(world.spec("1.1"))
    assert victim.read_text() == "untouched"


def test_a_database_file_that_leads_nowhere_stops_no_release(world: World) -> None:
    world.release("1.0")
    world.live_database.with_name("db.sqlite3-journal").symlink_to("nowhere")
    world.release("2.0")
    world.assert_consistent(world.spec("2.0"))


def test_a_link_among_static_files_is_not_shared(world: World, victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = PretendedEngine._do_cp

    def copied(engine: PretendedEngine, words: list[str]) -> Answer:
        (Path(words[2]) / PHOTO).symlink_to(victim)
        return copy(engine, words)

    monkeypatch.setattr(PretendedEngine, "_do_cp", copied)
    world.release("1.0")
    assert not os.path.lexists(world.site.static / "shared" / PHOTO)


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("jobs", {"tidy": {"schedule": "* * * * * root evil\n#", "command": ["check"]}}, "one line"),
        ("jobs", {"tidy": {"schedule": "17 25 * * *", "command": ["check"]}}, "hour"),
        ("jobs", {"a b": {"schedule": "17 * * * *", "command": ["check"]}}, "'a b' cannot be a name"),
        ("jobs", {"tidy": {"schedule": "17 * * * *", "command": "check"}}, "'check' is not a command"),
        ("workers", {"x\nroot": ["check"]}, "cannot be a name"),
        ("workers", {"x": []}, "is not a command"),
        ("pre_release", [["check", 1]], "is not a command"),
        ("image", "--privileged", "has the image '--privileged'"),
        ("limits", "1g", "has '1g' as 'limits'"),
    ],
)
def test_a_spec_that_no_release_has_recorded_is_not_followed(
    world: World, part: str, value: object, named: str
) -> None:
    world.release("1.0")
    world.release("1.1")
    path = world.site.release(1) / "release.json"
    record = json.loads(path.read_text())
    record["spec"][part] = value
    path.write_text(json.dumps(record))
    with pytest.raises(ReleaseError, match=f"{path} cannot be read: .*{named}.*Put back"):
        world.releases().rollback(RollbackRequest())
    assert not (world.site.root.parent / "hostwright-polls-jobs").exists()


@pytest.fixture
def resting(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The paused workers at each call of the Engine and each request to the migrator."""
    seen: dict[str, list[str]] = {}
    run, commit = PretendedEngine.run, Site.commit

    def observed(engine: PretendedEngine, arguments: Sequence[str], timeout: float = 300) -> Answer:
        answer = run(engine, arguments, timeout)
        seen[arguments[1] if arguments[0] == "migrator" else arguments[0]] = engine.rested
        return answer

    def observed_commit(site: Site, record: Record, check: Any) -> None:
        world.engine.run(["ps"])
        seen["commit"] = world.engine.rested
        commit(site, record, check)

    monkeypatch.setattr(PretendedEngine, "run", observed)
    monkeypatch.setattr(Site, "commit", observed_commit)
    return seen


@pytest.mark.parametrize("version", ["1.1", "2.0"])
@pytest.mark.parametrize("maintenance", [True, False])
def test_workers_pause_and_are_not_stopped_until_the_commit(
    world: World, resting: dict[str, list[str]], version: str, maintenance: bool
) -> None:
    world.release("1.0", **MAILER)
    resting.clear()
    world.engine.calls.clear()
    world.release(version, maintenance=maintenance, **MAILER)
    assert resting["commit"] == ["polls-1-mailer"]
    assert resting["stop"] == []  # by then current names the new release
    if version == "2.0":
        assert resting["rehearse"] == []
        for word in ("guard", "copy", "migrate", "check"):
            assert resting[word] == ["polls-1-mailer"]
    assert [call for call in world.engine.calls if call[0] == "stop"] == [
        ["stop", "-t", "30", "polls-1", "polls-1-mailer"]
    ]
    assert not world.site.rest(1).exists()
    assert {name: container.running for name, container in world.engine.containers.items()} == {
        "polls-2": True,
        "polls-2-mailer": True,
    }


def test_workers_continue_after_a_failure(world: World, resting: dict[str, list[str]]) -> None:
    world.offer("2.4", migrations=("polls.0001_initial", "polls.0002_sudden"))
    jobs = {"tidy": Job("5 4 * * *", ("clearsessions",))}
    world.release("1.0", jobs=jobs, **MAILER)
    world.engine.containers["polls-1-job-tidy"].running = True
    before = world.picture()
    resting.clear()
    world.fails("2.4", jobs=jobs, **MAILER)
    assert resting["migrate"] == ["polls-1-mailer"]
    assert [call for call in world.engine.calls if call[0] == "stop"] == [["stop", "-t", "30", "polls-1-job-tidy"]]
    world.engine.run(["ps"])
    assert world.picture() == before


def test_a_pause_lasts_longer_than_every_step_that_needs_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.release("1.0", stop_timeout=70, **MAILER)
    lengths: list[float] = []
    shut = Gate.shut

    def observed(gate: Gate, seconds: float) -> None:
        lengths.append(seconds)
        shut(gate, seconds)

    monkeypatch.setattr(Gate, "shut", observed)
    world.release("1.1", hold_seconds=20, **MAILER)
    assert lengths == [70 + 10 + 20 + 1]  # the old release's stop_timeout applies to its worker


def test_a_release_is_not_committed_while_an_old_worker_works(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.hostwright.django.plugins.module_utils.release.old_release.REST_ROOM", 0.1)
    world.release("1.0", stop_timeout=0, **MAILER)
    world.engine.restless = {"polls-1-mailer"}
    before = world.picture()
    # A report that a killed worker has left does not count.
    world.site.rested(1, "mailer").touch()
    error = world.fails("2.0", **MAILER)
    assert error.step == "pause the workers of the old release"
    assert "polls-1-mailer has not paused within 0 s" in str(error)
    assert "docker stop polls-1-mailer" in str(error)
    assert ["migrator", "guard"] not in [call[:2] for call in world.engine.calls]
    assert world.picture() == before


@pytest.mark.parametrize("state", ["running", "restarting"])
def test_a_worker_without_a_process_counts_as_paused(world: World, state: str) -> None:
    world.release("1.0", **MAILER)
    world.engine.restless = {"polls-1-mailer"}
    setattr(world.engine.containers["polls-1-mailer"], state, state == "restarting")
    world.release("2.0")
    world.assert_consistent(world.spec("2.0"))


@pytest.mark.parametrize("moment", ["guard", "migrate"])
def test_workers_continue_after_the_caller_dies(world: World, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    world.release("1.0", **MAILER)

    def die(*_: Any) -> dict[str, Any]:
        raise Killed

    with monkeypatch.context() as dead:
        dead.setattr(PretendedEngine, f"_word_{moment}", die)
        dead.setattr(Transaction, "undo", lambda *_: None)  # a killed process undoes nothing
        dead.setattr(RenewedGate, "_renew", lambda *_: None)  # and renews no gate
        with pytest.raises(ReleaseError):
            world.release("2.0", **MAILER)
    assert world.engine.rested == ["polls-1-mailer"]
    worker = world.engine.containers["polls-1-mailer"]
    assert (worker.running, worker.restart) == (True, "always")
    # Its pause ends at the deadline, or when the next call cleans up.
    os.utime(world.site.rest(1), (0, 0))
    world.engine.run(["ps"])
    assert world.engine.rested == []
    world.fails("9.9", **MAILER)
    assert not world.site.rest(1).exists()
    assert worker.running


def test_commands_before_and_after_a_release(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: dict[str, Any] = {"pre_release": (("check",),), "post_release": (("warm", "up"),)}
    world.release("1.0", **commands)
    assert [call[-1] for call in world.engine.calls if call[-2:] == ["manage.py", "check"]] == []
    world.release("1.1", **commands)
    assert [call for call in world.engine.calls if call[-2:] == ["manage.py", "check"]]
    assert world.engine.calls[-1] == ["exec", "polls-2", "python3", "manage.py", "warm", "up"]
    monkeypatch.setattr(PretendedEngine, "_do_exec", lambda *_: Answer(3, stderr="no"))
    error = world.fails("2.0", **commands)
    assert "exit status 3. The release is live" in str(error)
    world.assert_consistent(world.spec("2.0"))
    run = PretendedEngine._do_run
    failing = Answer(4, stderr="no")
    monkeypatch.setattr(
        PretendedEngine, "_do_run", lambda engine, words: failing if words[-1] == "check" else run(engine, words)
    )
    assert world.fails("1.1", **commands).step == "run 'check' before the release"
    world.assert_consistent(world.spec("2.0"))


def test_each_release_and_each_failed_one_has_a_line_in_the_audit_log(world: World) -> None:
    world.release("1.0")
    world.fails("9.9")
    world.release("2.0")
    lines = [json.loads(line) for line in world.site.deployments.read_text().splitlines()]
    assert [(line["release"], line["from"], line["to"], line["by"]) for line in lines] == [
        (1, None, "1.0", "somebody"),
        (2, "1.0", "9.9", "somebody"),
        (2, "1.0", "2.0", "somebody"),
    ]
    assert [line["outcome"] == "released" for line in lines] == [True, False, True]
    assert "there is no image polls:9.9" in lines[1]["outcome"]
    assert lines[2]["migrations"] == ["polls.0002_more"]
    assert lines[2]["hold_ms"] >= 0
    assert lines[2]["bytes"] == 7


@pytest.mark.parametrize("behaviour", ["healthy", "dies"])
def test_a_release_that_does_not_answer_is_not_committed(world: World, behaviour: str) -> None:
    world.release("1.0")
    before = world.picture()
    setattr(world.engine.images["polls:1.1"], behaviour, behaviour == "dies")
    error = world.fails("1.1")
    assert error.step == "wait until the new release is ready"
    assert ("was not ready within 0 s" if behaviour == "healthy" else "ended while it started") in str(error)
    assert "the reason in the log" in error.log
    assert world.picture() == before


def test_a_missing_image_is_refused(world: World) -> None:
    error = world.fails("9.9")
    assert "there is no image polls:9.9 on the host: push it first" in str(error)
    assert not world.site.generations()


def test_a_static_url_that_differs_from_the_project_s_is_refused(world: World) -> None:
    world.engine.images["polls:1.0"].static_url = "assets/"
    assert "STATIC_URL is /assets/, but Nginx serves static files at /static/" in str(world.fails("1.0"))
    world.engine.images["polls:1.0"].static_url = None
    assert world.release("1.0").action == "released"


def test_an_image_of_another_runtime_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PretendedMigrator, "hear", lambda *_: "{}")
    assert "rebuild the image" in str(world.fails("1.0"))


def test_a_volume_that_is_bound_elsewhere_is_refused(world: World) -> None:
    world.engine.volumes["polls_data"] = {"device": "/elsewhere", "type": "none"}
    assert "volume polls_data exists already and is not bound to" in str(world.fails("1.0"))
    world.engine.volumes["polls_data"] = {"device": str(world.site.data), "type": "none"}
    assert world.release("1.0").action == "released"


def test_the_container_is_hardened(world: World) -> None:
    world.release("1.0", limits=Limits(memory="99m", cpus=0.5, pids=77, tmp="11m"))
    container = world.engine.containers["polls-1"]
    line = " ".join(container.options)
    for option in (
        "--read-only",
        "--init",
        "--cap-drop ALL",
        "--security-opt no-new-privileges",
        "--memory 99m",
        "--memory-swap 99m",
        "--cpus 0.5",
        "--pids-limit 77",
        "--cpu-shares 1024",
        "--ulimit core=0",
        "size=11m",
        "--user 10001:10001",
        "--pull never",
        "--label hostwright=release",
        "--log-opt max-size=10m",
    ):
        assert option in line
    mounts = {mount.split(",target=")[1].partition(",")[0]: mount for mount in container.value("--mount")}
    assert set(mounts) == {"/site/data", "/site/config", "/site/run", "/site/media"}
    assert {target for target, mount in mounts.items() if mount.endswith(",readonly")} == {"/site/config"}
    assert container.value("--volume") == [f"{world.site.memory}/1:/run/secrets:ro"]
    assert [place for place in container.value("--tmpfs") if place.startswith("/site/config/secrets:ro,")]
    helper = next(call for call in world.engine.calls if call[0] == "run")
    assert helper[helper.index("--network") + 1] == "none"
    assert "--read-only" in helper
    assert helper[helper.index("--volume") + 1] == container.value("--volume")[0]
    assert helper[helper.index("--cpu-shares") + 1] == "512"


def test_a_release_has_a_network_only_with_egress(world: World) -> None:
    changes: dict[str, Any] = {"workers": {"mailer": ("send",)}, "pre_release": (("check",),)}
    world.release("1.0", **changes)
    world.release("1.1", **changes)
    assert world.engine.networks == {}
    assert world.release("1.1", egress=True, **changes).release == 3
    world.release("1.0", egress=True, **changes)
    used = {
        call[call.index("--name") + 1]: call[call.index("--network") + 1]
        for call in world.engine.calls
        if call[0] in ("create", "run")
    }
    assert used == {
        "polls-1": "none", "polls-1-mailer": "none", "polls-2": "none", "polls-2-mailer": "none",
        "polls-3": "hostwright-egress", "polls-3-mailer": "hostwright-egress",
        "polls-4": "hostwright-egress", "polls-4-mailer": "hostwright-egress",
        "polls-release-hook": "hostwright-egress", "polls-release": "none",
    }  # fmt: skip
    (network,) = world.engine.networks.values()
    assert {"hostwright=network", "com.docker.network.bridge.enable_icc=false"} <= set(network)


def test_a_foreign_network_is_not_joined(world: World) -> None:
    world.engine.networks["hostwright-egress"] = ["--label", "theirs"]
    assert "hostwright-egress already exists" in str(world.fails("1.0", egress=True))


def test_a_changed_setting_makes_a_release(world: World) -> None:
    world.release("1.0")
    outcome = world.release("1.0", limits=Limits(memory="1g"))
    assert (outcome.action, outcome.release) == ("released", 2)
    world.assert_consistent(world.spec("1.0", limits=Limits(memory="1g")))


def test_a_second_release_at_the_same_time_is_refused(world: World) -> None:
    world.site.make_directories()
    with world.site.lock():
        assert "another release of polls is running" in str(world.fails("1.0"))
    assert not world.engine.calls


def test_a_directory_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "srv").write_text("a file")
    site = Site("polls", tmp_path / "srv")
    with pytest.raises(ReleaseError, match=f"File exists: {tmp_path}/srv"):
        Releases(site, PretendedEngine(site)).run(SPEC)


def test_a_rehearsal_changes_nothing_and_fails_as_the_release_would(world: World) -> None:
    assert world.releases().rehearse(world.spec("2.0")).migrations == ("polls.0001_initial", "polls.0002_more")
    assert not world.site.generations()
    assert world.engine.containers == {}
    world.release("1.0")
    before = world.picture()
    outcome = world.releases().rehearse(world.spec("2.0"))
    assert (outcome.action, outcome.migrations) == ("none", ("polls.0002_more",))
    assert outcome.rehearsed["hold_seconds"] == 0.7
    assert world.releases().rehearse(world.spec("1.0")).action == "none"
    with pytest.raises(ReleaseError, match="The migration failed"):
        world.releases().rehearse(world.spec("2.1"))
    with pytest.raises(ReleaseError, match="push it first"):
        world.releases().rehearse(world.spec("9.9"))
    assert world.picture() == before


# Rollback


def test_a_rollback_to_the_previous_release(world: World) -> None:
    world.release("1.0", limits=Limits(memory="1g"), secrets={"TOKEN": "first"})
    world.release("1.1", secrets={"TOKEN": "second"})
    world.write_row("a vote")
    outcome = world.releases().rollback(RollbackRequest())
    assert (outcome.action, outcome.release, outcome.held) == ("released", 3, 0)
    spec = world.spec("1.0", limits=Limits(memory="1g"), secrets={"TOKEN": "first"})
    world.assert_consistent(spec)
    assert (world.site.secrets(3) / "TOKEN").read_text() == "first\n"
    assert world.content()["rows"] == ["a vote"]
    assert world.release("1.0", limits=Limits(memory="1g"), secrets={"TOKEN": "first"}).action == "none"
    assert world.releases().rollback(RollbackRequest()).release == 4
    world.assert_consistent(world.spec("1.1", secrets={"TOKEN": "second"}))


@pytest.mark.parametrize("to", [None, 1, 2, 9])
def test_a_rollback_to_a_release_that_is_not_kept_is_refused(world: World, to: int | None) -> None:
    with pytest.raises(ReleaseError, match="has no live release"):
        world.releases().rollback(RollbackRequest(to))
    for version in ("1.0", "1.1"):
        world.release(version, keep_releases=1)
    with pytest.raises(ReleaseError, match="Other kept releases: none"):
        world.releases().rollback(RollbackRequest(to))


def test_a_rollback_to_a_release_whose_secrets_were_in_its_configuration(world: World) -> None:
    world.release("1.0")
    world.release("1.1")
    path = world.site.release(1) / "release.json"
    record = json.loads(path.read_text())
    record["spec"]["configuration"]["secret_key_file"] = "/site/config/secrets/secret_key"
    del record["spec"]["egress"]
    path.write_text(json.dumps(record))
    world.releases().rollback(RollbackRequest())
    assert world.engine.containers["polls-3"].value("--network") == ["hostwright-egress"]
    configured = json.loads(world.site.release_configuration(3).read_text())
    assert configured["secret_key_file"] == "/run/secrets/secret_key"
    assert (world.site.memory / "3" / "TOKEN").exists()


def test_a_rollback_to_a_release_whose_configuration_calls_processes_workers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.release("1.0")
    world.release("1.1")
    path = world.site.release(1) / "release.json"
    record = json.loads(path.read_text())
    record["spec"]["configuration"]["server"] = {"workers": 3, "threads": 2}
    path.write_text(json.dumps(record))
    counts: list[int] = []

    def pool(count: int) -> ThreadPoolExecutor:
        counts.append(count)
        return ThreadPoolExecutor(count)

    monkeypatch.setattr(readiness, "ThreadPoolExecutor", pool)
    assert world.releases().rollback(RollbackRequest()).release == 3
    assert counts == [3 * 3 * 2]
    server = json.loads(world.site.release_configuration(3).read_text())["server"]
    assert (server["workers"], "processes" in server) == (3, False)  # the older image reads the older name


def test_a_rollback_whose_image_is_gone_is_refused(world: World) -> None:
    world.release("1.0")
    world.release("1.1")
    del world.engine.images["polls:1.0"]
    with pytest.raises(ReleaseError, match=r"polls:1\.0 of release 1 is no longer on the host"):
        world.releases().rollback(RollbackRequest())


def test_a_rollback_over_migrations_needs_a_choice(world: World) -> None:
    world.release("1.0")
    world.write_row("before")
    world.release("2.0")
    world.write_row("after")
    before = world.picture()
    with pytest.raises(ReleaseError, match=r"polls\.0002_more; about 1 rows were written since") as caught:
        world.releases().rollback(RollbackRequest())
    assert caught.value.step == "choose the schema"
    assert world.picture() == before


@pytest.mark.parametrize(
    ("schema", "migrations", "rows", "generation"),
    [
        ("keep", ["polls.0001_initial", "polls.0002_more"], ["before", "after"], 2),
        ("reverse", ["polls.0001_initial"], ["before", "after"], 3),
        ("generation", ["polls.0001_initial"], ["before"], 3),
    ],
)
def test_a_rollback_over_migrations(
    world: World, schema: str, migrations: list[str], rows: list[str], generation: int
) -> None:
    world.release("1.0")
    world.write_row("before")
    world.release("2.0")
    world.write_row("after")
    newer = world.live_database.read_text()
    outcome = world.releases().rollback(RollbackRequest(schema=schema))
    world.assert_consistent(world.spec("1.0"))
    assert world.content() == {"migrations": migrations, "rows": rows}
    record = world.site.current_record()
    assert record
    assert record.generation == generation
    assert (outcome.held > 0) == (schema != "keep")
    assert (world.site.generation(2) / "db.sqlite3").read_text() == newer
    assert outcome.migrations == (("polls.0002_more (reversed)",) if schema == "reverse" else ())


def test_a_rollback_that_fails_leaves_the_live_release(world: World) -> None:
    world.release("1.0")
    world.release("2.0")
    before = world.picture()
    world.engine.images["polls:1.0"].healthy = False
    with pytest.raises(ReleaseError, match="was not ready"):
        world.releases().rollback(RollbackRequest(schema="reverse"))
    assert world.picture() == before


# Kept releases


def test_old_releases_are_removed_except_the_generations_that_kept_ones_name(world: World) -> None:
    world.release("1.0", keep_releases=2)
    world.release("2.0", keep_releases=2)
    assert world.site.generations() == {1, 2}
    world.offer("2.2", migrations=("polls.0001_initial", "polls.0002_more"))
    world.release("2.2", keep_releases=2)
    assert set(world.site.records()) == {2, 3}
    assert world.site.generations() == {2}
    world.assert_consistent(world.spec("2.2", keep_releases=2))


@pytest.mark.parametrize("keep", [1, 0, -3])
def test_the_live_release_is_always_kept(world: World, keep: int) -> None:
    world.release("1.0")
    world.release("1.1", keep_releases=keep)
    assert set(world.site.records()) == {2}
    assert world.site.generations() == {1}


def test_hashed_static_files_of_the_kept_releases_are_shared(world: World) -> None:
    shared = world.site.static / "shared"
    both, first = "both.aaaaaaaaaaaa.css", "first.bbbbbbbbbbbb.css"
    world.offer("3.0", static={f"css/{both}": "1", first: "2", "plain.css": "3"})
    world.offer("3.1", static={f"css/{both}": "1", "short.abc.css": "4"})
    world.offer("3.2", static={})
    world.release("3.0", keep_releases=2)
    assert {path.name for path in shared.rglob("*.css")} == {both, first}
    assert (shared / first).samefile(world.site.static / "1" / first)
    world.release("3.1", keep_releases=2)
    world.release("3.2", keep_releases=2)
    # The first release, whose file the shared name was made from, is removed.
    assert {path.name for path in shared.rglob("*.css")} == {both}
    assert (shared / "css" / both).read_text() == "1"
    world.offer("1.0")
    world.release("1.0", keep_releases=2)
    assert {path.name for path in shared.rglob("*.css")} == set()


def test_a_link_among_the_static_files_is_not_shared(world: World, tmp_path: Path) -> None:
    secret = tmp_path / "secret.css"
    secret.write_text("key")
    world.offer("3.0", static={"plain.aaaaaaaaaaaa.css": "1", "link.bbbbbbbbbbbb.css": secret})
    world.release("3.0")
    assert [path.name for path in (world.site.static / "shared").iterdir()] == ["plain.aaaaaaaaaaaa.css"]
    assert secret.stat().st_nlink == 1


def test_images_that_no_kept_release_names_are_removed_and_others_stay(world: World) -> None:
    images = world.engine.images
    foreign = {"polls:0.9": App(labels=()), "blog:1.0": App(labels=("hostwright=image",)), "polls:0.9-dev": App()}
    older = {"untagged": App(), "polls:0.8": App(), "polls:0.7": App()}
    world.engine.images = {**older, **foreign, **images}
    world.engine.containers["debugging"] = Container("polls:0.7", ["--label", "x=y"])
    world.engine.volumes["somebody's"] = {}
    for version in ("1.0", "1.1", "2.0"):
        world.release(version, keep_releases=2)
    assert set(world.engine.images) == {*foreign, "polls:0.7", "polls:1.1", "polls:2.0", "polls:2.1"}
    assert "somebody's" in world.engine.volumes


# Leftovers


def test_leftovers_of_an_unfinished_release_are_removed(world: World) -> None:
    world.release("1.0")
    before = world.picture()
    site = world.site
    site.release(2).mkdir()
    site.generation(2).mkdir()
    (site.static / "3").mkdir()
    site.secrets(4).mkdir()
    site.release_configuration(5).write_text("{}")
    (site.run / "releases" / "notes").mkdir()
    live = world.engine.containers["polls-1"]
    options = [word.replace("hostwright.release=1", "hostwright.release=2") for word in live.options]
    world.engine.containers["polls-2"] = dataclasses.replace(live, options=options)
    other = ["--label", "hostwright=release", "--label", "hostwright.site=blog"]
    world.engine.containers["blog-1"] = dataclasses.replace(world.engine.containers["polls-1"], options=other)
    world.release("1.0")
    assert world.engine.containers.pop("blog-1")
    assert world.picture() == before


def test_leftovers_of_a_release_killed_after_its_commit_are_removed(world: World) -> None:
    world.release("1.0")
    world.release("1.1")
    before = world.picture()
    for number in (1, 2):
        world.site.rest(number).touch()
        world.site.rested(number, "mailer").touch()
    world.release("1.1")
    assert world.picture() == before


def test_a_record_that_was_written_but_not_committed_is_removed(world: World) -> None:
    world.release("1.0")
    record = world.site.current_record()
    assert record
    world.site.release(2).mkdir()
    dataclasses.replace(record, release=2).write(world.site.release(2) / "release.json")
    world.release("1.0")
    world.assert_consistent(world.spec("1.0"))


@pytest.mark.parametrize("lost", ["current", "run"])
def test_databases_whose_release_is_unknown_are_never_removed(world: World, lost: str) -> None:
    world.release("1.0")
    world.write_row("a vote")
    database = world.live_database
    if lost == "current":
        world.site.current.unlink()
    else:
        shutil.rmtree(world.site.run)
    before = database.read_text()
    containers = dict(world.engine.containers)
    error = world.fails("1.1")
    assert "Nothing was changed" in str(error)
    assert (f"ln -s releases/1 {world.site.current}" if lost == "current" else "mv ") in str(error)
    assert database.read_text() == before
    assert world.engine.containers == containers


def test_the_cure_for_a_lost_current_works(world: World) -> None:
    world.release("1.0")
    world.site.current.unlink()
    cure = str(world.fails("1.0")).rpartition("ln -s ")[2].split()
    Path(cure[1]).symlink_to(cure[0])
    world.release("1.0")
    world.assert_consistent(world.spec("1.0"))


# Faults

CASES = {"first": (None, "1.0"), "code only": ("1.0", "1.1"), "migrations": ("1.0", "2.0"), "nothing": ("1.0", "1.0")}


def prepared(world: World, before: str | None) -> Picture:
    if before:
        world.release(before)
        world.write_row("a vote")
    world.engine.calls.clear()
    return world.picture()


def number_of_calls(make: Callable[[], World], before: str | None, version: str) -> int:
    world = make()
    prepared(world, before)
    world.release(version)
    return len(world.engine.calls)


@pytest.fixture
def make(world: World, tmp_path: Path, impatient: None) -> Callable[[], World]:  # noqa: ARG001
    """Return a function that makes worlds."""
    made = iter(range(10_000))

    def another() -> World:
        site = Site("polls", tmp_path / f"srv{next(made)}")
        engine = PretendedEngine(site)
        engine.images = dict(world.engine.images)
        return World(site, engine)

    return another


@pytest.mark.parametrize("fault", ["status", "time"])
@pytest.mark.parametrize("case", CASES)
def test_whichever_call_fails_the_old_release_is_intact_and_the_next_run_succeeds(
    make: Callable[[], World], case: str, fault: str
) -> None:
    before, version = CASES[case]
    failures = commits = 0
    for number in range(number_of_calls(make, before, version)):
        world = make()
        picture = prepared(world, before)
        world.engine.fail_at, world.engine.fault = number, fault
        try:
            world.release(version, secrets={"TOKEN": "another"})
        except ReleaseError as error:
            failures += 1
            assert error.step != "begin"
            live = world.site.current_record()
            if live is None or live.image == (before and f"polls:{before}"):
                assert world.picture() == picture, world.engine.calls[number]
            else:
                commits += 1
                assert error.step in ("retire the old release", "start the live release again")
                assert world.engine.containers[live.container].running
        assert world.release(version).action in ("released", "started", "none")
        world.assert_consistent(world.spec(version))
        assert world.content()["rows"] == (["a vote"] if before else [])
    assert failures >= (1 if case == "nothing" else 8)
    if case == "code only":
        assert commits >= 3


@pytest.mark.parametrize("case", CASES)
def test_wherever_the_caller_dies_current_is_intact_and_the_next_run_succeeds(
    make: Callable[[], World], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, version = CASES[case]
    undo = Transaction.undo
    for number in range(number_of_calls(make, before, version)):
        world = make()
        prepared(world, before)
        live = world.site.current_record()
        rows = world.live_database.read_text() if before else ""
        world.engine.fail_at, world.engine.fault = number, "kill"
        monkeypatch.setattr(Transaction, "undo", lambda *_: None)  # a killed process undoes nothing
        with pytest.raises((Killed, ReleaseError)):
            world.release(version, limits=Limits(pids=99) if case == "nothing" else Limits())
        monkeypatch.setattr(Transaction, "undo", undo)
        if live and world.site.current_record() == live:
            assert world.live_database.read_text() == rows
        # If the next release fails at its first step, the site still serves.
        if world.site.current_record():
            world.fails("9.9")
            record = world.site.current_record()
            assert record
            assert world.engine.containers[record.container].running
        world.release(version)
        world.assert_consistent(world.spec(version))
        assert world.content()["rows"] == (["a vote"] if before else [])


@pytest.mark.parametrize("case", CASES)
def test_a_failure_of_the_engine_is_reported_as_the_reason_and_the_next_run_succeeds(
    make: Callable[[], World], case: str
) -> None:
    before, version = CASES[case]
    for number in range(number_of_calls(make, before, version)):
        world = make()
        prepared(world, before)
        live = world.site.current_record()
        files = {name: text for name, text in world.picture().items() if not name.startswith("container")}
        world.engine.fail_at, world.engine.fault = number, "gone"
        error = world.fails(version)
        assert "Cannot connect" in str(error)
        if world.site.current_record() == live:
            left = {name: text for name, text in world.picture().items() if not name.startswith("container")}
            assert left == files
        else:
            assert error.step == "retire the old release"
        assert world.releases().serving() in (
            "The serving release is unknown.",
            "The site has no live release yet.",
        )
        world.engine.fail_at = -1
        world.release(version)
        world.assert_consistent(world.spec(version))


def test_a_release_with_migrations_after_one_whose_container_is_missing(world: World) -> None:
    world.release("1.0")
    world.write_row("a vote")
    del world.engine.containers["polls-1"]
    world.release("2.0")
    world.assert_consistent(world.spec("2.0"))
    assert world.content()["rows"] == ["a vote"]


def test_a_failure_of_the_undo_does_not_hide_the_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.release("1.0")
    record = world.site.current_record()
    world.engine.images["polls:1.1"].healthy = False

    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Site, "remove", broken)
        assert "was not ready" in str(world.fails("1.1"))
    assert world.site.current_record() == record
    world.release("1.0")
    world.assert_consistent(world.spec("1.0"))


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["1.0", "1.1", "2.0", "2.1"]),
            st.sampled_from(["none", "status", "time", "kill"]),
            st.integers(0, 40),
            st.integers(1, 3),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=40, deadline=None)
def test_after_any_history_a_successful_run_gives_a_consistent_state(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int, int]]
) -> None:
    site = Site("polls", tmp_path_factory.mktemp("srv"))
    world = World(site, PretendedEngine(site))
    world.offer("1.0", static={PHOTO: "a"})
    world.offer("1.1", static={PHOTO: "a", "other.cccccccccccc.js": "c"})
    world.offer("2.0", migrations=("polls.0001_initial", "polls.0002_more"))
    world.offer("2.1", migrations=("polls.0001_initial", "polls.0002_more", "polls.0003_broken"))
    written: list[str] = []
    for number, (version, fault, call, keep) in enumerate(steps):
        world.engine.calls.clear()
        world.engine.fail_at, world.engine.fault = (-1, "") if fault == "none" else (call, fault)
        before = world.site.current_record()
        undo = Transaction.undo
        try:
            if fault == "kill":
                Transaction.undo = lambda *_: None  # type: ignore[method-assign]
            world.release(version, keep_releases=keep)
        except (ReleaseError, Killed):
            now = world.site.current_record()
            assert before is None or now is not None
        else:
            if fault == "none":
                world.assert_consistent(world.spec(version, keep_releases=keep))
        finally:
            Transaction.undo = undo  # type: ignore[method-assign]
        world.engine.fail_at = -1
        live = world.site.current_record()
        if live:
            assert world.content()["rows"] == written
            shared = site.static / "shared"
            for kept in site.records():
                for path in (site.static / str(kept)).rglob("*.*.*"):
                    assert (shared / path.relative_to(site.static / str(kept))).exists()
            world.write_row(f"row {number}")
            written.append(f"row {number}")
    world.engine.images["polls:2.0"].migrations = ("polls.0001_initial",)
    world.release("2.0")
    world.assert_consistent(world.spec("2.0"))
    assert world.content()["rows"] == written


# Secrets, digests, the module's results


def test_secrets_are_only_in_their_files(world: World) -> None:
    world.release("1.0", secrets={"TOKEN": "hunter-2"})
    before = module.described(world.site)
    outcome = world.release("1.0", secrets={"TOKEN": "hunter-3"})
    assert outcome.action == "released"
    holding = {
        path.relative_to(world.site.root).as_posix()
        for path in world.site.root.rglob("*")
        if path.is_file() and "hunter" in path.read_text()
    }
    assert holding == {"config/polls/secrets/1/TOKEN", "config/polls/secrets/2/TOKEN"}
    in_memory = {path.relative_to(world.site.memory).as_posix(): path for path in world.site.memory.glob("*/*")}
    assert in_memory.keys() == {f"{number}/{name}" for number in (1, 2) for name in ("TOKEN", "secret_key")}
    assert in_memory["2/TOKEN"].read_text() == "hunter-3\n"
    configured = json.loads(world.site.release_configuration(2).read_text())
    assert configured["secret_key_file"] == "/run/secrets/secret_key"
    assert configured["secrets_directory"] == "/run/secrets"
    assert "hunter" not in json.dumps(world.engine.calls)
    assert "hunter" not in json.dumps(
        module.difference(before, outcome, world.spec("1.0", secrets={"TOKEN": "hunter-3"}), world.site)
    )
    assert "hunter" not in repr(world.spec("1.0", secrets={"TOKEN": "hunter-3"}))
    key = world.site.secret_key().value
    others = [p for p in world.site.root.rglob("*") if p.is_file() and p.name != "secret_key" and key in p.read_text()]
    assert others == []


CHANGED: dict[str, Any] = {
    "image": "polls:2",
    "source_digest": "other",
    "image_digest": "other",
    "configuration": {**CONFIGURATION, "scheme": "https"},
    "limits": Limits(pids=1),
    "static_url": "/s/",
    "secrets": {"TOKEN": "other"},
    "stop_timeout": 31,
    "workers": {"mailer": ("send",)},
    "jobs": {"tidy": Job("* * * * *", ("clearsessions",))},
    "egress": True,
}
UNRELATED: dict[str, Any] = {
    "health_timeout": 61,
    "migrate_timeout": 601,
    "keep_releases": 4,
    "hold_seconds": 11,
    "drain_seconds": 3,
    "maintenance": True,
    "pre_release": (("check",),),
    "post_release": (("check",),),
    "post_restore": (("check",),),
}


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(Spec)])
def test_the_digest_changes_with_each_field_that_the_release_consists_of(name: str) -> None:
    value = {**CHANGED, **UNRELATED}[name]
    changed = dataclasses.replace(SPEC, **{name: value})
    assert (changed.digest("key") != SPEC.digest("key")) == (name in CHANGED)


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(Limits)])
def test_the_digest_changes_with_each_limit(name: str) -> None:
    other: Any = {name: 9 if name in ("cpus", "pids") else "9m"}
    limits = dataclasses.replace(Limits(), **other)
    assert dataclasses.replace(SPEC, limits=limits).digest("key") != SPEC.digest("key")


def test_the_digest_depends_on_the_key_and_not_on_the_order_of_names() -> None:
    turned = dict(reversed(CONFIGURATION.items()))
    assert dataclasses.replace(SPEC, configuration=turned).digest("key") == SPEC.digest("key")
    assert SPEC.digest("key") != SPEC.digest("another key")


def parameters(**changes: Any) -> dict[str, Any]:
    required = {
        "site": "polls", "image": "polls:1.0", "source_digest": "d", "image_digest": "d", "domains": ["example.org"],
    }  # fmt: skip
    return {**role_app.defaults(), **required, **changes}


def test_an_option_that_the_role_passes_has_no_second_default() -> None:
    passed = role_app.defaults()
    assert len(passed) > 20
    # The modules share the option, and a playbook that lists backups does not pass it.
    assert {name for name in passed if "default" in module.ARGUMENTS[name]} == {"by"}
    for name in ("sqlite", "limits"):  # users may set only some of their keys
        options = module.ARGUMENTS[name]["options"]
        assert {key: option["default"] for key, option in options.items()} == passed[name]


CHANGES = {
    "image": "polls:2",
    "source_digest": "e",
    "domains": ["example.net"],
    "scheme": "https",
    "health_path": "/up",
    "stop_timeout": 3,
    "static_url": "/s/",
    "processes": 3,
    "threads": 3,
    "backlog": 3,
    "sqlite": {"synchronous": "FULL", "busy_timeout": 5000, "journal_size_limit": 67108864},
    "limits": {"memory": "1g", "cpus": 1.0, "pids": 256, "tmp": "256m"},
    "environment_variables": {"A": "b"},
    "secrets": {"A": "b"},
    "workers": {"mailer": "send --loop"},
    "jobs": {"tidy": {"schedule": "5 4 * * *", "command": "clearsessions"}},
    "pre_release": ["check"],
    "post_release": ["check"],
    "post_restore": ["check"],
    "maintenance": True,
    "egress": True,
}


@pytest.mark.parametrize(
    "option",
    sorted(set(module.ARGUMENTS) - {"site", "root", "by", "bytes", "image_migrations", "rehearsal", "restore"}),
)
def test_each_option_of_the_module_changes_the_spec(option: str) -> None:
    timing = set(UNRELATED)
    changed = module.spec_of(parameters(**{option: CHANGES.get(option, 7)}))
    plain = module.spec_of(parameters())
    assert changed != plain
    assert (changed.digest("key") != plain.digest("key")) == (option not in timing)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("workers", {"Mailer": "send"}, "'Mailer' is not a valid name"),
        ("workers", {"mailer": 7}, "7 is not a management command"),
        ("workers", {"mailer": "send 'it"}, "No closing quotation"),
        ("jobs", {"tidy": "clearsessions"}, "'tidy' needs 'schedule' and 'command'"),
        ("jobs", {"tidy": {"schedule": "61 * * * *", "command": "clearsessions"}}, "jobs: tidy: .*61"),
        ("pre_release", [" "], "' ' is not a management command"),
    ],
)
def test_commands_that_cannot_be_run_are_refused(option: str, value: Any, says: str) -> None:
    with pytest.raises(ReleaseError, match=says):
        module.spec_of(parameters(**{option: value}))


def test_the_record_gives_the_spec_back() -> None:
    spec = dataclasses.replace(SPEC, **CHANGED, **UNRELATED)
    read = json.loads(json.dumps(spec.recorded()))
    assert "secrets" not in read
    assert Spec.of_record(read, spec.secrets) == spec


def test_a_record_without_egress_has_a_network() -> None:
    read = json.loads(json.dumps(SPEC.recorded()))
    del read["egress"]
    assert Spec.of_record(read, SPEC.secrets).egress


@pytest.mark.parametrize("name", ["lower", "../KEY", "secret_key", "A B", "1A", "", "A\n"])
def test_a_secret_that_cannot_be_an_environment_variable_is_refused(name: str) -> None:
    with pytest.raises(ReleaseError, match="cannot name an environment variable") as caught:
        module.spec_of(parameters(secrets={name: "hunter-2"}))
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(("name", "good"), [("lower", True), ("A_1", True), ("A=B", False), ("A-B", False)])
def test_names_of_environment_variables(name: str, good: bool) -> None:
    if good:
        assert module.spec_of(parameters(environment_variables={name: 5})).configuration["environment_variables"] == {
            name: "5"
        }
    else:
        with pytest.raises(ReleaseError):
            module.spec_of(parameters(environment_variables={name: "x"}))


def test_the_difference_shows_what_the_user_changed_and_no_numbers(world: World) -> None:
    world.release("1.0", keep_releases=1)
    before = module.described(world.site)
    changed = {**CONFIGURATION, "scheme": "https"}
    outcome = world.release("1.1", configuration=changed, keep_releases=1)
    shown = module.difference(before, outcome, world.spec("1.1", configuration=changed), world.site)
    gone = set(shown["before"].splitlines()) - set(shown["after"].splitlines())
    come = set(shown["after"].splitlines()) - set(shown["before"].splitlines())
    assert gone == {"image: polls:1.0 (source digest-1.0)", "container: polls-1", ' "scheme": "http",'}
    assert come == {"image: polls:1.1 (source digest-1.1)", "container: polls-2", ' "scheme": "https",'}
    assert module.difference(before, world_none(world), SPEC, world.site) == {}


def test_the_difference_shows_the_options_outside_the_configuration(world: World) -> None:
    world.release("1.0")
    changed = {
        "egress": True,
        "limits": dataclasses.replace(SPEC.limits, memory="1g"),
        "workers": {"mailer": ("send", "--loop")},
    }
    before = module.described(world.site)
    outcome = world.release("1.0", **changed)
    shown = module.difference(before, outcome, world.spec("1.0", **changed), world.site)
    come = {line.strip(" ,") for line in set(shown["after"].splitlines()) - set(shown["before"].splitlines())}
    assert {'"egress": true', '"memory": "1g"', '"mailer": [', '"--loop"'} < come


def world_none(world: World) -> Outcome:
    """Return the outcome of a run with nothing to do."""
    return Outcome("none", 1, world.site.current_record())


def test_the_plan_predicts_the_run_and_changes_nothing(world: World) -> None:
    releases = world.releases()

    def predicted(version: str) -> bool:
        before = world.picture()
        plan = releases.plan(world.spec(version))
        assert world.picture() == before
        done = world.release(version)
        return (plan.action, plan.release, plan.previous) == (done.action, done.release, done.previous)

    assert releases.plan(world.spec("1.0")) == Outcome("released", 1, None)
    assert not world.site.root.exists()
    assert predicted("1.0")
    assert predicted("1.0")
    world.engine.containers["polls-1"].running = False
    assert predicted("1.0")
    assert predicted("2.0")


def test_the_plan_names_pending_migrations_and_estimates_the_hold(world: World) -> None:
    releases = world.releases()
    assert releases.plan(world.spec("1.0"), ["polls.0001_initial"]).migrations == ("polls.0001_initial",)
    world.release("1.0")
    both = ["polls.0001_initial", "polls.0002_more"]
    plan = releases.plan(world.spec("2.0"), both)
    assert plan.migrations == ("polls.0002_more",)
    assert 0.5 < plan.held < 0.6
    shown = module.difference(module.described(world.site), plan, world.spec("2.0"), world.site)
    assert "migration: polls.0002_more (requests wait for about 0.5 s)" in shown["after"]
    world.site.audit(json.dumps({"hold_ms": 3210, "migrations": ["polls.0000"]}))
    assert releases.plan(world.spec("2.0"), both).held == 3.21
    assert releases.plan(world.spec("2.0")).migrations == ()
    world.engine.containers["polls-1"].running = False
    plan = releases.plan(world.spec("2.0"), both)
    assert plan.migrations == ()
    assert "cannot ask the live release for its applied migrations: it does not run" in plan.warnings[0]


def test_the_message_names_the_serving_release(world: World) -> None:
    assert world.releases().serving() == "The site has no live release yet."
    world.release("1.0")
    assert world.releases().serving() == "Release 1 (polls:1.0) still serves."
    world.engine.containers["polls-1"].running = False
    assert "polls-1 is down" in world.releases().serving()
    (world.site.current / "release.json").write_text("{")
    assert world.releases().serving() == "The serving release is unknown."


def test_a_foreign_container_with_a_needed_name_stays(world: World) -> None:
    for name in ("polls-1", "polls-release"):
        world.engine.containers[name] = Container("other:1", ["--label", "app=other"], running=True)
        world.offer("1.0")
        assert f"there is a container {name} on the host" in str(world.fails("1.0"))
        assert world.engine.containers.pop(name).running
    world.release("1.0")


def test_a_generation_that_a_backup_reads_is_not_removed(world: World) -> None:
    site = world.site
    path = site.generation(1)
    path.mkdir(parents=True)
    backup = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(backup, fcntl.LOCK_SH)
    site.remove_generation(1)
    assert path.exists()
    os.close(backup)
    site.remove_generation(1)
    assert not path.exists()
    site.remove_generation(1)


def test_a_release_warns_of_stale_backups(tmp_path: Path) -> None:
    command = tmp_path / "hostwright"
    command.write_text("#!/bin/sh\n[ \"$*\" = 'backups polls --fresh' ] || exit 3\necho 'two days old' >&2\nexit 1\n")
    command.chmod(0o755)
    assert module.stale_backups("polls", str(command)) == "two days old"
    command.write_text("#!/bin/sh\nexit 0\n")
    assert module.stale_backups("polls", str(command)) == ""
    assert module.stale_backups("polls", str(tmp_path / "missing")) == ""


def test_a_new_release_is_warm_before_it_is_live(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.release("1.0")
    asked: list[str] = []
    ask = world.engine.ask

    def observed(socket: Path, host: str, scheme: str, url: str, timeout: float) -> Any:
        if url == "/" and socket.parent.name != world.site.current.readlink().name:
            asked.append(url)
        return ask(socket, host, scheme, url, timeout)

    monkeypatch.setattr(world.engine, "ask", observed)
    world.release("1.1")
    assert len(asked) > 2 * 2 * 2
    asked.clear()
    world.release("2.0")
    assert len(asked) == 1, "what delays visitors who wait is no courtesy to them"

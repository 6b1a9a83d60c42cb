"""A site's files on a host: durable, whole, with the right owners, and one release at a time."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostwright.django.plugins.module_utils import contract
from ansible_collections.hostwright.django.plugins.module_utils.host.files import (
    make_directory,
    remove_tree,
    write_durably,
)
from ansible_collections.hostwright.django.plugins.module_utils.release.errors import ReleaseError
from ansible_collections.hostwright.django.plugins.module_utils.release.record import Record
from ansible_collections.hostwright.django.plugins.module_utils.release.secret_key import Fallback, SecretKey
from ansible_collections.hostwright.django.plugins.module_utils.release.site import Site, with_numbers

pytestmark = pytest.mark.usefixtures("owners")


class Crash(BaseException):
    """A power failure."""


class Steps:
    """Counts the changes of the disk, and raises a power failure before the one with a given number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, crash_at: int = -1) -> None:
        self.crash_at = crash_at
        self.taken: list[str] = []
        for owner, name in (
            (Path, "replace"),
            (Path, "symlink_to"),
            (Path, "unlink"),
            (os, "fsync"),
            (os, "open"),
            (os, "fchmod"),
        ):
            monkeypatch.setattr(owner, name, self._counted(name, getattr(owner, name)))

    def _counted(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if len(self.taken) >= self.crash_at >= 0:
                raise Crash
            self.taken.append(name)
            return step(*arguments, **options)

        return counted


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site("polls", tmp_path)
    made.make_directories()
    return made


def record(number: int, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "site": "polls",
        "release": number,
        "image": f"polls:1.{number}",
        "image_id": "sha256:1",
        "version": f"1.{number}",
        "source_digest": "d",
        "generation": 1,
        "container": f"polls-{number}",
        "configuration": f"/site/config/releases/{number}.json",
        "created": "2026-01-01T00:00:00Z",
        "migrations": ("polls.0001_initial",),
        "previous": number - 1 or None,
        "spec_digest": "s",
    }
    return Record(**{**fields, **changes})


def commit(site: Site, made: Record) -> None:
    site.release(made.release).mkdir(exist_ok=True)
    site.generation(made.generation).mkdir(exist_ok=True)
    site.commit(made)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_record_is_read_back_as_it_was_written(site: Site) -> None:
    commit(site, record(1))
    assert site.current_record() == record(1)
    assert site.records() == {1: record(1)}
    assert site.current.readlink() == Path("releases/1")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"site": "polls"}', '{"migrations": null}', json.dumps({"more": 1})])
def test_an_unreadable_record_is_named(site: Site, text: str) -> None:
    path = site.release(1) / "release.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ReleaseError, match=str(path)):
        site.records()


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "blog"}, {"release": 2}, {"release": "1"}, {"release": True}, {"generation": 0}, {"generation": "1"},
        {"previous": "0"}, {"image": "--privileged"}, {"image": "polls"}, {"image": 1}, {"image_id": "-v"},
        {"container": "nginx"}, {"configuration": "/etc/passwd"}, {"migrations": "polls.0001"}, {"migrations": [1]},
        {"version": 1}, {"created": None}, {"spec": []}, {"restored": 1}, {"more": 1},
    ],
)  # fmt: skip
def test_a_record_that_no_release_has_written_is_refused(site: Site, changes: dict[str, Any]) -> None:
    commit(site, record(1))
    path = site.release(1) / "release.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ReleaseError, match=r"release\.json cannot be read.*Put back") as caught:
        site.records()
    assert next(iter(changes)) in str(caught.value)


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_record_that_another_user_may_have_written_is_refused(site: Site, mode: int) -> None:
    commit(site, record(1))
    (site.release(1) / "release.json").chmod(mode)
    with pytest.raises(ReleaseError, match=f"mode {mode:04o}; it must belong to root"):
        site.current_record()


def test_a_record_that_is_a_link_is_refused(site: Site, tmp_path: Path) -> None:
    commit(site, record(1))
    path = site.release(1) / "release.json"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReleaseError, match="symbolic link"):
        site.current_record()


def test_a_site_cannot_write_beside_its_record_while_root_does(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    write = Record.write

    def observed(made: Record, path: Path) -> None:
        modes.append(mode(path.parent))
        write(made, path)

    monkeypatch.setattr(Record, "write", observed)
    commit(site, record(1))
    assert modes == [0o750]
    assert mode(site.release(1)) == 0o1770


def test_a_secret_that_is_a_link_is_not_followed(site: Site, tmp_path: Path) -> None:
    site.write_secrets(1, {}, SecretKey("one"))
    (tmp_path / "shadow").write_text("of the host")
    (site.secrets(1) / "TOKEN").symlink_to(tmp_path / "shadow")
    with pytest.raises(OSError, match="TOKEN"):
        site.user_secrets(1)
    (site.secrets(1) / "secret_key").unlink()
    (site.secrets(1) / "secret_key").symlink_to(tmp_path / "shadow")
    with pytest.raises(OSError, match="secret_key"):
        SecretKey.read(site.secrets(1))


def test_current_names_a_complete_release_whenever_the_power_fails(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(site, record(1))
    (site.generation(1) / "db.sqlite3").touch()
    with monkeypatch.context() as patched:
        counting = Steps(patched)
        commit(site, record(2))
    assert counting.taken.count("fsync") >= 5
    outcomes = set()
    for number, crash_at in enumerate(range(len(counting.taken)), start=3):
        before = site.current_record()
        with monkeypatch.context() as patched:
            Steps(patched, crash_at)
            with pytest.raises(Crash):
                commit(site, record(number))
        now = site.current_record()
        assert now in (before, record(number))
        assert now
        assert site.records()[now.release] == now
        outcomes.add(now == before)
    assert outcomes == {True, False}  # power failed before the rename, and after it


def test_everything_below_current_is_durable_before_the_rename(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        made.append(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(site.root).as_posix())
        real_fsync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        made.append(f"rename {target.relative_to(site.root)}")
        return real_replace(path, target)

    site.release(7).mkdir()
    site.generation(1).mkdir()
    (site.generation(1) / "db.sqlite3").touch()
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    site.commit(record(7))
    at = made.index("rename web/polls/run/current")
    assert {
        "data/polls/databases/1/db.sqlite3",
        "data/polls/databases/1",
        "data/polls/databases",
        "web/polls/run/releases/7/.release.json.new",
        "web/polls/run/releases/7",
        "web/polls/run/releases",
    } <= set(made[:at])
    assert made[at + 1 :] == ["web/polls/run"]
    assert made.index("web/polls/run/releases/7/.release.json.new") < made.index(
        "rename web/polls/run/releases/7/release.json"
    )


def test_write_durably_leaves_the_old_or_the_new_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    with monkeypatch.context() as patched:
        counting = Steps(patched)
        write_durably(path, "old", 0o600)
    found = set()
    for crash_at in range(1, len(counting.taken)):
        write_durably(path, "old", 0o600)
        with monkeypatch.context() as patched:
            Steps(patched, crash_at)
            with pytest.raises(Crash):
                write_durably(path, "new", 0o600)
        found.add(path.read_text())
        assert found <= {"old", "new"}
    assert found == {"old", "new"}


def test_write_durably_leaves_no_file_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(tmp_path / "file", "text", 0o600)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_write_durably_gives_mode_and_owner_whatever_the_umask(
    tmp_path: Path, owners: dict[str, tuple[int, int]], umask: int
) -> None:
    before = os.umask(umask)
    try:
        write_durably(tmp_path / "file", "text", 0o640, 10001, 10001)
    finally:
        os.umask(before)
    assert mode(tmp_path / "file") == 0o640
    assert owners[str(tmp_path / ".file.new")] == (10001, 10001)


def test_write_durably_does_not_follow_what_another_user_put_in_its_way(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / ".file.new").symlink_to(victim)
    write_durably(tmp_path / "file", "text", 0o644)
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "file").is_symlink()


def test_write_durably_is_not_misled_by_a_file_made_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".file.new").symlink_to(tmp_path / "victim")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: None)  # another user made it again at once
        with pytest.raises(FileExistsError):
            write_durably(tmp_path / "file", "text", 0o644)
    assert not (tmp_path / "victim").exists()


def test_directories_have_the_modes_of_the_design(site: Site, owners: dict[str, tuple[int, int]]) -> None:
    root = site.root
    expected = {
        "data/polls": (0o750, 0, 10001),
        "data/polls/databases": (0o750, 0, 10001),
        "config/polls": (0o750, 0, 10001),
        "config/polls/secrets": (0o700, 10001, 10001),
        "web/polls/run": (0o755, 0, 0),
        "web/polls/run/releases": (0o755, 0, 0),
        "web/polls/static": (0o755, 0, 0),
        "web/polls/media": (0o755, 10001, 10001),
    }
    assert {name: (mode(root / name), *owners[str(root / name)]) for name in expected} == expected


def test_make_directory_brings_an_existing_one_to_its_mode(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o777)
    make_directory(tmp_path / "a", 0o700)
    assert mode(tmp_path / "a") == 0o700


def test_only_one_release_at_a_time(site: Site) -> None:
    with site.lock(), pytest.raises(ReleaseError, match="another release of polls is running"), site.lock():
        pass
    with site.lock():
        pass


def test_the_lock_ends_with_its_process(site: Site) -> None:
    code = (
        "import fcntl, os, sys\n"
        "handle = open(sys.argv[1], 'a')\n"
        "fcntl.flock(handle, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(site.configuration / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(ReleaseError), site.lock():
            pass
        holder.kill()
    with site.lock():
        pass


def test_a_program_that_a_release_starts_does_not_inherit_the_lock(site: Site) -> None:
    with site.lock():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"], close_fds=False)
    try:
        for _ in range(50):  # the kernel closes the child's copies shortly after its program has begun
            with suppress(ReleaseError), site.lock():
                break
            time.sleep(0.1)
        else:
            pytest.fail("the child holds the lock")
    finally:
        child.kill()
        child.wait()


def test_each_release_has_secrets_of_its_own(site: Site, owners: dict[str, tuple[int, int]]) -> None:
    site.write_secrets(1, {"TOKEN": "old", "GONE": "x"}, SecretKey("one"))
    site.write_secrets(2, {"TOKEN": "new\n"}, SecretKey("two", (Fallback("one", 2_000_000_000),)))
    assert {path.name: path.read_text() for path in site.secrets(1).iterdir()} == {
        "TOKEN": "old\n",
        "GONE": "x\n",
        "secret_key": "one",
    }
    assert {path.name: path.read_text() for path in site.secrets(2).iterdir()} == {
        "TOKEN": "new\n\n",
        "secret_key": "two",
        "secret_key_fallbacks": '[{"key": "one", "until": 2000000000}]',
    }
    assert mode(site.secrets(2)) == 0o700
    assert {mode(path) for path in site.secrets(2).iterdir()} == {0o600}
    given = {path: owner for path, owner in owners.items() if path.startswith(str(site.secrets(2)))}
    assert len(given) == 4
    assert set(given.values()) == {(10001, 10001)}
    assert site.user_secrets(2) == {"TOKEN": "new\n"}


def test_the_secret_key_is_the_live_release_s(site: Site) -> None:
    assert site.secret_key() != site.secret_key()  # before the first release each call makes a new key
    commit(site, record(1))
    shared = site.configuration / "secrets" / "secret_key"
    shared.write_text("of all releases, once")
    assert site.secret_key() == SecretKey("of all releases, once")
    site.write_secrets(1, {}, SecretKey("one"))
    site.write_secrets(2, {}, SecretKey("two"))
    assert site.secret_key() == SecretKey("one")
    commit(site, record(2))
    assert site.secret_key() == SecretKey("two")
    for broken, what in (("{", "Expecting property name"), ('[{"key": "one"}]', "is not a list of keys")):
        (site.secrets(2) / "secret_key_fallbacks").write_text(broken)
        with pytest.raises(ReleaseError, match=f"secrets is invalid: .*{what}"):
            site.secret_key()


def test_the_next_number_is_above_every_trace(site: Site) -> None:
    assert site.next_number() == 1
    for number, path in enumerate(
        (
            site.release(2),
            site.static / "4",
            site.secrets(6),
            site.memory / "8",
        ),
        start=1,
    ):
        path.mkdir(parents=True)
        assert site.next_number() == 2 * number + 1
    site.release_configuration(12).touch()
    (site.run / "releases" / "notes").mkdir()
    (site.static / "shared").mkdir()
    assert site.next_number() == 13
    assert site.traces() == {2, 4, 6, 8, 12}


def test_removing_a_release_leaves_the_others_and_the_databases(site: Site) -> None:
    for number in (1, 2):
        commit(site, record(number, generation=number))
        site.write_secrets(number, {"TOKEN": "t"}, SecretKey("key"))
        site.provide_secrets(number)
        site.release_configuration(number).touch()
        (site.static / str(number)).mkdir()
    site.remove(1)
    assert site.traces() == {2}
    assert site.generations() == {1, 2}
    assert site.records() == {2: record(2, generation=2)}


def test_shared_static_files_are_removed_with_the_last_release_that_has_them(site: Site) -> None:
    shared = site.static / "shared" / "css"
    shared.mkdir(parents=True)
    for number, names in ((1, ["old", "both"]), (2, ["both", "new"])):
        directory = site.static / str(number) / "css"
        directory.mkdir(parents=True)
        for name in names:
            (directory / name).write_text(name)
            if not (shared / name).exists():
                os.link(directory / name, shared / name)
    site.remove(1)
    assert {path.name for path in shared.iterdir()} == {"both", "new"}
    assert (shared / "both").read_text() == "both"


def test_remove_tree_accepts_a_missing_path(tmp_path: Path) -> None:
    remove_tree(tmp_path / "nothing")


def test_the_configuration_has_the_paths_that_depend_on_the_numbers() -> None:
    given = {"server": {"processes": 2}, "scheme": "http"}
    assert with_numbers(given, 7, 3) == {
        "server": {"processes": 2, "socket": "/site/run/releases/7/app.sock"},
        "scheme": "http",
        "database": "/site/data/databases/3/db.sqlite3",
        "secrets_directory": "/run/secrets",
        "secret_key_file": "/run/secrets/secret_key",
    }
    assert given == {"server": {"processes": 2}, "scheme": "http"}


def test_two_sites_share_no_directory(tmp_path: Path) -> None:
    one, other = Site("polls", tmp_path), Site("polls-2", tmp_path)
    assert not {path for path, _, _ in one.volumes.values()} & {path for path, _, _ in other.volumes.values()}
    assert contract.APP_UID == 10001

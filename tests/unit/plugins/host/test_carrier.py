"""File transfer between the control node and a host; this machine's shell runs the host's commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host import carrier
from ansible_collections.hostwright.django.plugins.module_utils.host.carrier import Carrier, CarrierError, Load

FILES = {"a.json": b"{}", "a.media/deep/\udcff name": b"upload", "a.sqlite3.zst": os.urandom(3 * 4096 + 5)}


class Action:
    """An action plugin on a host; each piece is sent twice, as when Ansible loses the connection and repeats."""

    _connection = SimpleNamespace(become=None, has_pipelining=True, fetch_file=shutil.copyfile)

    def __init__(self, fails: str = "\0") -> None:
        self.fails = fails  # a command that contains this text fails
        self.commands: list[str] = []
        self.by_login_user: list[str] = []

    def _low_level_execute_command(self, cmd: str, in_data: bytes = b"", sudoable: bool = True) -> dict[str, Any]:
        self.commands.append(cmd)
        self.by_login_user += [] if sudoable else [cmd]
        if self.fails in cmd:
            return {"rc": 1, "stdout": "", "stderr": "no"}
        for _ in range(1 + cmd.startswith("dd ")):
            done = subprocess.run(["/bin/sh", "-c", cmd], input=in_data, capture_output=True, check=False)
        return {"rc": done.returncode, "stdout": done.stdout.decode(), "stderr": done.stderr.decode()}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's directory for temporary files; pieces are small, and the site's user is the user of the test."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(carrier, "TEMPORARY", str(place))
    monkeypatch.setattr(carrier, "PIECE", 4096)
    monkeypatch.setattr(carrier, "OWNER", f"{os.getuid()}:{os.getgid()}")
    return place


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory of the control node with the files, and one more that is never sent."""
    for name, content in {**FILES, "b.json": b"another"}.items():
        path = tmp_path / "the source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "the source"


def files(directory: str | Path) -> dict[str, bytes]:
    """Contents of the files below a directory, by name."""
    paths = (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


NAMES = ("a.json", "a.media", "a.sqlite3.zst")


def test_lent_files_exist_on_the_host_during_the_block_only(source: Path, temporary: Path) -> None:
    with Carrier(Action()).lend(Load(source, NAMES)) as directory:
        assert files(directory) == FILES
        assert Path(directory).stat().st_mode & 0o777 == 0o700
    assert not list(temporary.iterdir())


def test_nothing_is_left_when_the_block_fails(source: Path, temporary: Path) -> None:
    with pytest.raises(ZeroDivisionError), Carrier(Action()).lend(Load(source, NAMES)):
        raise ZeroDivisionError
    assert not list(temporary.iterdir())


def test_a_missing_file_is_named_in_the_error() -> None:
    with pytest.raises(CarrierError, match=r"cannot pack /usr: .*nothing-here.*No such file"):
        list(Load(Path("/usr"), ["nothing-here"]).pieces())


def test_nothing_is_left_when_the_host_cannot_unpack(source: Path, temporary: Path) -> None:
    action = Action(fails="tar --extract")
    for lend in (True, False):
        with pytest.raises(CarrierError, match=r"tar --extract.* failed on the host \(1\)"):
            if lend:
                Carrier(action).lend(Load(source, NAMES)).__enter__()
            else:
                Carrier(action).give(Load(source, NAMES), f"{source.parent}/backups")
    assert not list(temporary.iterdir())


def test_given_files_are_fetched_as_an_archive_that_can_be_lent(source: Path, temporary: Path) -> None:
    action = Action()
    host = Carrier(action)
    target, archive = source.parent / "its backups" / "polls", source.parent / "archive.tar"
    host.give(Load(source, NAMES), str(target))
    assert files(target) == FILES
    assert not action.by_login_user
    host.fetch(str(target), NAMES, archive)
    assert ["mktemp" in command for command in action.by_login_user] == [True]
    assert not list(temporary.iterdir())
    with host.lend(Load(archive)) as directory:
        assert files(directory) == FILES


def test_a_truncated_archive_is_an_error(source: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(_: str, archive: str) -> None:
        Path(archive).write_bytes(b"a part")

    monkeypatch.setattr(Action._connection, "fetch_file", cut)
    with pytest.raises(CarrierError, match=r"6 of [0-9]+ bytes arrived"):
        Carrier(Action()).fetch(str(source), NAMES, source.parent / "archive.tar")
    assert not list(temporary.iterdir())


def test_disk_space_is_checked_before_anything_is_written(
    source: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    action, archive = Action(), source.parent / "archive.tar"
    monkeypatch.setattr(carrier, "RESERVE", 1 << 60)
    with pytest.raises(CarrierError, match=rf"not enough disk space on the host.*needed in {temporary}"):
        Carrier(action).lend(Load(source, NAMES)).__enter__()
    with pytest.raises(CarrierError, match="not enough disk space on the control node"):
        Carrier(action).fetch(str(source), NAMES, archive)
    assert not list(temporary.iterdir())
    assert not archive.exists()
    assert not [command for command in action.commands if "mktemp" in command]


def test_needs_of_directories_on_one_disk_add_up(
    source: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "RESERVE", 0)
    disk = os.statvfs(temporary)
    half = disk.f_bavail * disk.f_frsize * 3 // 5
    host = Carrier(Action())
    host._require_room({str(temporary): half})
    with pytest.raises(CarrierError, match="not enough disk space on the host"):
        host._require_room({str(temporary): half, str(source): half})

"""Directories where another user may write: an entry of any kind is removed, replaced or refused, never followed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host import files
from ansible_collections.hostwright.django.plugins.module_utils.host.files import (
    create,
    make_directory,
    read,
    remove_tree,
    replace,
    write_durably,
)

DEEP = 3000  # levels: more than Python's stack and a process's descriptors allow


def put_nothing(_: Path) -> None:
    """Create no entry."""


def put_file(path: Path) -> None:
    path.write_text("of somebody else")


def put_link(path: Path) -> None:
    path.symlink_to(path.with_name("victim"))


def put_link_to_directory(path: Path) -> None:
    path.symlink_to(path.with_name("victims"))


def put_broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_directory(path: Path) -> None:
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "file").touch()
    (path / "a" / "link").symlink_to(path.with_name("victims").absolute())


def put_deep_tree(path: Path) -> None:
    path.mkdir()
    directory = os.open(path, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)


Put = Callable[[Path], None]
every = pytest.mark.parametrize(
    "put",
    [
        put_nothing, put_file, put_link, put_link_to_directory, put_broken_link, put_pipe, put_directory, put_deep_tree,
    ],
)  # fmt: skip


@pytest.fixture(autouse=True)
def victims(tmp_path: Path) -> Iterator[None]:
    """The targets of planted links; a deep tree that remains after a failure would be too deep for pytest."""
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "victim").chmod(0o640)
    (tmp_path / "victims").mkdir(mode=0o750)
    (tmp_path / "victims" / "victim").write_text("untouched")
    yield
    subprocess.run(["rm", "-rf", "--", tmp_path / "name", tmp_path / ".name.new"], check=True)


def assert_untouched(directory: Path) -> None:
    for name in ("victim", "victims/victim"):
        assert (directory / name).read_text() == "untouched"
    modes = [stat.S_IMODE((directory / name).stat().st_mode) for name in ("victim", "victims")]
    assert modes == [0o640, 0o750]
    assert [path.name for path in (directory / "victims").iterdir()] == ["victim"]


@every
def test_an_entry_of_any_kind_is_removed(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "name")
    remove_tree(tmp_path / "name")
    assert not os.path.lexists(tmp_path / "name")
    assert_untouched(tmp_path)


@every
def test_a_file_replaces_an_entry_of_any_kind(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "name")
    put(tmp_path / ".name.new")
    write_durably(tmp_path / "name", "text", 0o644, os.geteuid(), os.getegid())
    assert read(tmp_path / "name", own=True) == "text"
    assert not os.path.lexists(tmp_path / ".name.new")
    assert_untouched(tmp_path)


def test_an_entry_created_after_the_removal_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "remove_tree", put_link)
    with pytest.raises(FileExistsError):
        create(tmp_path / "name", 0o644)
    assert_untouched(tmp_path)


def test_a_file_replaces_a_directory(tmp_path: Path) -> None:
    put_directory(tmp_path / "name")
    replace(tmp_path / "victim", tmp_path / "name")
    assert read(tmp_path / "name") == "untouched"


def test_a_directory_to_which_its_owner_still_writes_is_removed(tmp_path: Path) -> None:
    """Root takes the ownership of a directory before it empties it."""
    if os.geteuid() != 0:
        pytest.skip("only root can take a directory from its owner")
    tmp_path.chmod(0o755)
    top = tmp_path / "name"
    for directory in (top, top / "below"):
        directory.mkdir()
        os.chown(directory, 10001, 10001)
    places = [os.open(directory, os.O_RDONLY) for directory in (top, top / "below")]
    process = os.fork()
    if process == 0:
        os.setresuid(10001, 10001, 10001)
        for number in range(10**9):
            for place in places:
                try:
                    os.close(os.open(f"{number}", os.O_CREAT | os.O_WRONLY, dir_fd=place))
                except OSError:
                    os._exit(0)
    try:
        while not any(top.glob("1*")):
            pass
        remove_tree(top)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        for place in places:
            os.close(place)
    assert not top.exists()


@pytest.mark.parametrize("put", [put_link, put_broken_link, put_pipe, put_directory, put_link_to_directory])
def test_only_a_regular_file_is_read(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "name")
    caught: list[BaseException] = []

    def attempt() -> None:
        try:
            read(tmp_path / "name")
        except OSError as error:
            caught.append(error)

    reader = threading.Thread(target=attempt, daemon=True)
    reader.start()
    reader.join(5)
    assert len(caught) == 1
    assert str(tmp_path / "name") in str(caught[0])


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_not_read_as_own(tmp_path: Path, mode: int) -> None:
    (tmp_path / "victim").chmod(mode)
    with pytest.raises(ValueError, match=f"{mode:04o}"):
        read(tmp_path / "victim", own=True)
    assert read(tmp_path / "victim") == "untouched"


def test_a_file_of_another_user_is_not_read_as_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = list((tmp_path / "victim").stat())
    status[4] = 10001
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result(status))
    with pytest.raises(ValueError, match="user 10001 owns it"):
        read(tmp_path / "victim", own=True)


@pytest.mark.parametrize("put", [put_link, put_link_to_directory, put_broken_link, put_pipe, put_file])
def test_no_directory_is_made_from_an_entry_that_another_user_may_have_planted(tmp_path: Path, put: Put) -> None:
    tmp_path.chmod(0o1777)
    put(tmp_path / "name")
    with pytest.raises(OSError, match="name"):
        make_directory(tmp_path / "name", 0o777, os.geteuid(), os.getegid())
    assert_untouched(tmp_path)


def test_an_operator_may_link_to_a_directory_elsewhere(tmp_path: Path) -> None:
    put_link_to_directory(tmp_path / "name")
    make_directory(tmp_path / "name", 0o700, os.geteuid(), os.getegid())
    assert stat.S_IMODE((tmp_path / "victims").stat().st_mode) == 0o700

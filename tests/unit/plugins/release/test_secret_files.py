"""Copies of secrets in memory: their owners, and that they are complete and no more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.release import secret_files


class Rest:
    """Secrets on disk of two releases of a site."""

    def __init__(self, root: Path) -> None:
        self.root = root / "srv"
        self.path = self.root / "config" / "polls" / "secrets"
        self.memory = root / "run" / "hostwright" / "secrets" / "polls"
        for name in ("1", "2"):
            (self.path / name).mkdir(parents=True)
            (self.path / name / "TOKEN").write_text(f"token {name}\n")
            (self.path / name / "secret_key").write_text("key")

    def provide(self) -> None:
        """Provide the secrets of the second release."""
        secret_files.provide(self.path / "2", self.memory / "2")

    def copies(self, number: int = 2) -> dict[str, str]:
        """Return the secrets that a release's containers would see."""
        return {path.name: path.read_text() for path in (self.memory / str(number)).iterdir()}


@pytest.fixture
def rest(tmp_path: Path) -> Rest:
    return Rest(tmp_path)


def test_a_release_sees_its_own_secrets(rest: Rest) -> None:
    rest.provide()
    assert rest.copies() == {"TOKEN": "token 2\n", "secret_key": "key"}
    assert [path.name for path in rest.memory.iterdir()] == ["2"]


def test_no_other_user_can_read_the_secrets(rest: Rest, owners: dict[str, tuple[int, int]]) -> None:
    umask = os.umask(0)
    try:
        rest.provide()
    finally:
        os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (rest.memory / "2").iterdir()}
    assert modes == {"TOKEN": 0o600, "secret_key": 0o600}
    for directory in (rest.memory / "2", rest.memory, rest.memory.parent):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert owners[str(rest.memory / "2")] == owners[str(rest.memory / "2" / ".TOKEN.new")]


def test_the_site_gets_the_directory_after_all_secrets_are_in_it(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []
    monkeypatch.setattr(os, "chown", lambda *_: given.append(rest.copies()))
    rest.provide()
    assert given == [{"TOKEN": "token 2\n", "secret_key": "key"}]


def test_leftovers_of_the_engine_or_of_a_killed_run_are_corrected(rest: Rest) -> None:
    directory = rest.memory / "2"
    directory.mkdir(parents=True, mode=0o755)
    inode = directory.stat().st_ino
    (directory / "TOKEN").write_text("of another time")
    (directory / "GONE").touch()
    (directory / ".secret_key.new").write_text("ha")
    rest.provide()
    assert rest.copies() == {"TOKEN": "token 2\n", "secret_key": "key"}
    assert directory.stat().st_mode & 0o777 == 0o700
    assert directory.stat().st_ino == inode  # containers have this directory mounted


@pytest.mark.parametrize("plant", [lambda path: path.symlink_to("/etc/hostname"), os.mkfifo, Path.mkdir])
def test_only_files_are_secrets(rest: Rest, plant: Callable[[Path], None]) -> None:
    plant(rest.path / "2" / "PLANTED")
    with pytest.raises(OSError, match="PLANTED"):
        rest.provide()


def test_secrets_that_lie_elsewhere_are_not_provided(rest: Rest) -> None:
    (rest.path / "2").rename(rest.root / "elsewhere")
    (rest.path / "2").symlink_to(rest.root / "elsewhere")
    with pytest.raises(OSError, match="secrets/2"):
        rest.provide()


def test_a_secret_that_is_being_written_is_not_copied(rest: Rest) -> None:
    (rest.path / "2" / ".NEXT.new").write_text("half")
    rest.provide()
    assert rest.copies().keys() == {"TOKEN", "secret_key"}


def test_a_secret_in_use_is_never_missing(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    rest.provide()
    (rest.memory / "2" / "GONE").touch()
    removed: list[str] = []
    unlink = Path.unlink

    def watched(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    rest.provide()
    assert not {"TOKEN", "secret_key"} & set(removed)
    assert "GONE" in removed


def test_a_secret_is_copied_unchanged(rest: Rest) -> None:
    (rest.path / "2" / "TOKEN").write_bytes("Schlüssel\r\n".encode())
    rest.provide()
    assert (rest.memory / "2" / "TOKEN").read_bytes() == "Schlüssel\r\n".encode()

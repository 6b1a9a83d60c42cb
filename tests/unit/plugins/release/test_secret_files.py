"""Copies of secrets in memory: whose they are, that none is missing or too many, and that a boot makes them again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.release import boot, secret_files


class Rest:
    """Secrets at rest of two releases of a site."""

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
        """What a release's containers would see."""
        return {path.name: path.read_text() for path in (self.memory / str(number)).iterdir()}


@pytest.fixture
def rest(tmp_path: Path) -> Rest:
    return Rest(tmp_path)


def test_a_release_sees_its_own(rest: Rest) -> None:
    rest.provide()
    assert rest.copies() == {"TOKEN": "token 2\n", "secret_key": "key"}
    assert [path.name for path in rest.memory.iterdir()] == ["2"]


def test_nobody_else_reads_them(rest: Rest, owners: dict[str, tuple[int, int]]) -> None:
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


def test_the_site_gets_the_directory_when_all_is_in_it(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []
    monkeypatch.setattr(os, "chown", lambda *_: given.append(rest.copies()))
    rest.provide()
    assert given == [{"TOKEN": "token 2\n", "secret_key": "key"}]


def test_what_the_engine_or_a_killed_run_has_left_is_put_right(rest: Rest) -> None:
    directory = rest.memory / "2"
    directory.mkdir(parents=True, mode=0o755)
    inode = directory.stat().st_ino
    (directory / "TOKEN").write_text("of another time")
    (directory / "GONE").touch()
    (directory / ".secret_key.new").write_text("ha")
    rest.provide()
    assert rest.copies() == {"TOKEN": "token 2\n", "secret_key": "key"}
    assert directory.stat().st_mode & 0o777 == 0o700
    assert directory.stat().st_ino == inode  # containers have this one mounted


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


def test_what_is_being_written_at_rest_is_no_secret(rest: Rest) -> None:
    (rest.path / "2" / ".NEXT.new").write_text("half")
    rest.provide()
    assert rest.copies().keys() == {"TOKEN", "secret_key"}


def test_what_is_in_use_is_never_missing(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.fixture
def installed(rest: Rest, owners: dict[str, tuple[int, int]]) -> Rest:
    """The program and its unit, as a release installs them."""
    boot.install(rest.root)
    assert set(owners.values()) == {(0, 0)}
    return rest


def boots(rest: Rest) -> subprocess.CompletedProcess[str]:
    """Run the program as systemd does, but for where its copies go."""
    (line,) = (line for line in (boot.UNITS / boot.UNIT).read_text().splitlines() if line.startswith("ExecStart="))
    _, *words = line.removeprefix("ExecStart=").split()
    program = boot.PROGRAM.read_text()
    boot.PROGRAM.write_text(program.replace("/run/hostwright/secrets", str(rest.memory.parent)))
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def test_a_boot_makes_all_of_them_again(installed: Rest) -> None:
    (installed.path / ".3.new").mkdir()
    done = boots(installed)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [installed.copies(number)["TOKEN"] for number in (1, 2)] == ["token 1\n", "token 2\n"]
    assert {path.name for path in installed.memory.iterdir()} == {"1", "2"}


def test_a_site_whose_secrets_are_broken_keeps_no_other_from_its_own(installed: Rest) -> None:
    broken = installed.root / "config" / "a-broken-one" / "secrets" / "1"
    (broken / "TOKEN").mkdir(parents=True)
    done = boots(installed)
    assert done.returncode == 1
    assert str(broken) in done.stderr
    assert "Traceback" not in done.stderr
    assert installed.copies(2)["TOKEN"] == "token 2\n"


def test_the_engine_starts_after_it(installed: Rest) -> None:
    assert (boot.UNITS / "docker.service.wants" / boot.UNIT).resolve() == boot.UNITS / boot.UNIT
    unit = (boot.UNITS / boot.UNIT).read_text()
    assert "Before=docker.service\n" in unit
    assert f"RequiresMountsFor={installed.root}\n" in unit


def test_what_is_installed_already_is_left_alone(installed: Rest) -> None:
    paths = (boot.PROGRAM, boot.UNITS / boot.UNIT)
    before = [path.stat().st_ino for path in paths]
    boot.install(installed.root)
    assert [path.stat().st_ino for path in paths] == before
    boot.PROGRAM.write_text("of an older version")
    boot.install(installed.root)
    assert "def provide" in boot.PROGRAM.read_text()

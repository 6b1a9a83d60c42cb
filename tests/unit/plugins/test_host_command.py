"""The host command is installed whole, and changed by replacing its launcher."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host_command import HostCommand

FILES = {"__init__.py": "", "__main__.py": 'def main() -> int:\n    print("one")\n    return 3\n'}
OTHER = {**FILES, "__main__.py": 'def main() -> int:\n    print("two")\n    return 4\n'}


@pytest.fixture
def places(tmp_path: Path, owners: dict[str, tuple[int, int]]) -> tuple[Path, Path]:
    assert owners == {}
    return tmp_path / "lib", tmp_path / "hostwright"


def run(launcher: Path) -> tuple[str, int]:
    done = subprocess.run([sys.executable, launcher], capture_output=True, text=True, check=False)
    return done.stdout, done.returncode


def test_installed_it_runs_and_nothing_is_left_to_do(places: tuple[Path, Path]) -> None:
    command = HostCommand(*places, FILES)
    assert places[1] in command.differences()
    command.install()
    assert command.differences() == []
    assert run(places[1]) == ("one\n", 3)
    assert places[1].stat().st_mode & 0o777 == 0o755
    assert command.differences() == []  # what Python has compiled there does not matter


def test_another_content_replaces_it(places: tuple[Path, Path]) -> None:
    HostCommand(*places, FILES).install()
    command = HostCommand(*places, OTHER)
    assert {path.parent for path in command.differences() if path.suffix == ".py"} == {
        command.directory / "hostwright_host"
    }
    command.install()
    assert run(places[1]) == ("two\n", 4)
    assert list(places[0].iterdir()) == [command.directory]


def test_a_run_meanwhile_finds_one_of_them_whole(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    HostCommand(*places, FILES).install()
    command = HostCommand(*places, OTHER)
    seen = []
    write = sys.modules[HostCommand.__module__].__dict__["write_durably"]

    def watched(path: Path, text: str, mode: int) -> None:
        write(path, text, mode)
        seen.append(run(places[1]))

    monkeypatch.setitem(sys.modules[HostCommand.__module__].__dict__, "write_durably", watched)
    command.install()
    assert seen == [("one\n", 3), ("one\n", 3), ("two\n", 4)]


@pytest.mark.parametrize("damage", ["text", "gone", "mode", "launcher"])
def test_what_was_damaged_is_put_right(places: tuple[Path, Path], damage: str) -> None:
    command = HostCommand(*places, FILES)
    command.install()
    path = places[1] if damage == "launcher" else command.directory / "hostwright_host" / "__main__.py"
    if damage == "gone":
        path.unlink()
    elif damage == "mode":
        path.chmod(0o666)
    else:
        path.write_text("nonsense", encoding="utf-8")
    assert command.differences() == [path]
    command.install()
    assert (command.differences(), run(places[1])) == ([], ("one\n", 3))

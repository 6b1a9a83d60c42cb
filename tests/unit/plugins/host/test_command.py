"""The host's own commands are installed as a whole, and updated by replacing their launchers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host import command as commands
from ansible_collections.hostwright.django.plugins.module_utils.host import files
from ansible_collections.hostwright.django.plugins.module_utils.host.command import HostCommand
from ansible_collections.hostwright.django.plugins.module_utils.host.process import Answer

MAIN = """\
def main(words: list[str]) -> int:
    print("one", *words)
    return 3
"""
FILES = {"__init__.py": "", "__main__.py": MAIN}
OTHER = {**FILES, "__main__.py": MAIN.replace("one", "two").replace("3", "4")}
PACKAGE = Path(__file__).resolve().parents[4] / "roles" / "host" / "files" / "hostwright_host"

Made = Callable[[dict[str, str]], HostCommand]


@pytest.fixture
def reloads() -> list[list[str]]:
    """The commands sent to systemd."""
    return []


@pytest.fixture
def made(tmp_path: Path, owners: dict[str, tuple[int, int]], reloads: list[list[str]]) -> Made:
    """A function that creates the commands from a package's files, below a directory of the test."""
    assert owners == {}
    (tmp_path / "run/systemd/system").mkdir(parents=True)

    def run(words: Sequence[str]) -> Answer:
        reloads.append(list(words))
        return Answer(0)

    return lambda texts: HostCommand(texts, tmp_path, run)


def run(command: HostCommand, *words: str, name: str = "hostwright") -> tuple[str, int]:
    """Run a command without this process's import path."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-I", command.program(name), *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout, done.returncode


def test_an_installed_command_runs_and_needs_no_change(made: Made) -> None:
    command = made(FILES)
    assert command.program("hostwright") in command.differences()
    command.install()
    assert (command.differences(), command.obsolete()) == ([], [])
    assert run(command, "a", "b") == ("one a b\n", 3)
    assert run(command, "a", name="hostwright-certificates") == ("one certificates a\n", 3)
    assert command.program("hostwright").stat().st_mode & 0o777 == 0o755
    assert (command.differences(), command.obsolete()) == ([], [])  # compiled files of Python do not count


def test_a_new_version_replaces_the_old_one(made: Made) -> None:
    made(FILES).install()
    command = made(OTHER)
    assert command.directory / "hostwright_host" / "__main__.py" in command.differences()
    command.install()
    assert run(command) == ("two\n", 4)
    assert list(command.library.iterdir()) == [command.directory]


def test_a_command_that_runs_during_an_update_is_complete(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made(FILES).install()
    command = made(OTHER)
    seen: list[tuple[str, int]] = []
    write = files.write_durably

    def watched(path: Path, text: str, mode: int) -> None:
        write(path, text, mode)
        seen.append(run(command))

    monkeypatch.setattr(commands, "write_durably", watched)
    command.install()
    assert seen[0] == ("one\n", 3)
    assert seen[-1] == ("two\n", 4)
    assert seen == sorted(seen)


@pytest.mark.parametrize("damage", ["text", "gone", "mode", "launcher", "shared", "unit", "link"])
def test_a_damaged_installation_is_repaired(made: Made, damage: str) -> None:
    command = made(FILES)
    command.install()
    shared = command.directory / "ansible_collections/hostwright/django/plugins/module_utils/host/files.py"
    places = {"launcher": command.program("hostwright"), "shared": shared, "unit": command.unit, "link": command.wanted}
    path = places.get(damage, command.directory / "hostwright_host" / "__main__.py")
    if damage in {"gone", "link"}:
        path.unlink()
    elif damage == "mode":
        path.chmod(0o666)
    else:
        path.write_text("nonsense", encoding="utf-8")
    if damage == "link":
        path.symlink_to("elsewhere")
    assert command.differences() == [path]
    command.install()
    assert (command.differences(), run(command)) == ([], ("one\n", 3))


def test_only_the_owner_may_write_to_the_directories(made: Made) -> None:
    umask = os.umask(0)
    try:
        command = made(FILES)
        command.install()
    finally:
        os.umask(umask)
    modes = {path.stat().st_mode & 0o777 for path in (command.library, *command.library.rglob("*")) if path.is_dir()}
    assert modes == {0o755}


def test_files_of_earlier_versions_are_removed(made: Made) -> None:
    command = made(FILES)
    old = command.library.with_name("hostwright-secrets.py")
    old.parent.mkdir(parents=True)
    old.write_text("of an earlier version")
    (command.library / "0123456789ab" / "hostwright_host").mkdir(parents=True)
    command.unit.parent.mkdir(parents=True)
    command.unit.write_text(f"[Service]\nExecStart=/usr/bin/python3 -I {old} /srv/hostwright\n")
    assert command.obsolete() == [command.library / "0123456789ab", old]
    command.install()
    assert command.obsolete() == []
    assert not old.exists()
    assert str(old) not in command.unit.read_text()


class TestTheUnit:
    def test_the_engine_starts_after_it(self, made: Made) -> None:
        command = made(FILES)
        command.install()
        assert (command.unit.parent / "docker.service.wants" / "hostwright-secrets.service").resolve() == command.unit
        unit = command.unit.read_text()
        assert "Before=docker.service\n" in unit
        assert "RequiresMountsFor=/srv/hostwright\n" in unit
        assert f"ExecStart={command.program('hostwright')} secrets\n" in unit

    def test_systemd_reloads_only_when_the_unit_changes(self, made: Made, reloads: list[list[str]]) -> None:
        made(FILES).install()
        assert reloads == [["systemctl", "daemon-reload"]]
        made(OTHER).install()
        assert len(reloads) == 1

    def test_nothing_is_reloaded_on_a_host_without_systemd(
        self, made: Made, reloads: list[list[str]], tmp_path: Path
    ) -> None:
        (tmp_path / "run/systemd/system").rmdir()
        made(FILES).install()
        assert reloads == []

    def test_a_failed_reload_is_an_error(self, tmp_path: Path, made: Made) -> None:
        command = HostCommand(made(FILES).files, tmp_path, lambda _: Answer(1, "", "Access denied"))
        with pytest.raises(OSError, match="Access denied"):
            command.install()


class TestTheShippedOne:
    @pytest.fixture
    def shipped(self, made: Made) -> HostCommand:
        """The commands as the role installs them."""
        command = made({path.name: path.read_text(encoding="utf-8") for path in PACKAGE.glob("*.py")})
        command.install()
        return command

    def boot(self, command: HostCommand) -> tuple[str, int]:
        """Run the unit's command as systemd does, with the test's directories for secrets and copies."""
        (line,) = (line for line in command.unit.read_text().splitlines() if line.startswith("ExecStart="))
        program, *words = line.removeprefix("ExecStart=").split()
        assert program == str(command.program("hostwright"))
        return run(command, f"--root={command.root}/srv", f"--volatile={command.root}/memory", *words)

    def secrets(self, command: HostCommand, site: str, number: int) -> Path:
        place = command.root / "srv/config" / site / "secrets" / str(number)
        place.mkdir(parents=True)
        (place / "TOKEN").write_text(f"token {number}\n")
        return place

    def test_it_contains_everything_that_it_imports(self, shipped: HostCommand) -> None:
        output, status = run(shipped, "--help")
        assert (status, "Traceback" in output) == (0, False)

    def test_certificates_have_a_command_of_their_own(self, shipped: HostCommand) -> None:
        sites = shipped.root / "srv/nginx"
        assert run(shipped, f"--root={sites.parent}", "certificates") == ("", 0)
        output, status = run(shipped, "nobody", name="hostwright-certificates")
        assert status == 2
        message = "These sites get no certificate from a CA on this host: nobody. Sites that do: none."
        assert output == f"hostwright certificates: {message}\n"

    def test_a_boot_copies_all_secrets_again(self, shipped: HostCommand) -> None:
        for number in (1, 2):
            self.secrets(shipped, "polls", number)
        (shipped.root / "srv/config/polls/secrets/.3.new").mkdir()
        assert self.boot(shipped) == ("", 0)
        memory = shipped.root / "memory/polls"
        assert {path.name: (path / "TOKEN").read_text() for path in memory.iterdir()} == {
            "1": "token 1\n",
            "2": "token 2\n",
        }

    def test_broken_secrets_of_one_site_do_not_affect_another(self, shipped: HostCommand) -> None:
        (self.secrets(shipped, "a-broken-one", 1) / "DIRECTORY").mkdir()
        (self.secrets(shipped, "an-unreadable-one", 1) / "TOKEN").write_bytes(b"\xff")
        self.secrets(shipped, "polls", 2)
        output, status = self.boot(shipped)
        assert status == 1
        for site in ("a-broken-one", "an-unreadable-one"):
            assert f"cannot copy the secrets in {shipped.root}/srv/config/{site}/secrets/1 to " in output
        assert "Traceback" not in output
        assert (shipped.root / "memory/polls/2/TOKEN").read_text() == "token 2\n"

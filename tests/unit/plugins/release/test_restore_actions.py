"""The part of a restore on the control node."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.hostwright.django.plugins.action import restore, restore_plan
from ansible_collections.hostwright.django.plugins.action.restore_plan import Request
from ansible_collections.hostwright.django.plugins.module_utils.host import carrier

from tests.unit.plugins.release.test_restore import NOON, write_backup


class Task:
    """The host of an action plugin: this machine's shell, and a module that records its arguments and files."""

    def __init__(self, arguments: dict[str, Any], check: bool = False) -> None:
        task = MagicMock(args=arguments, check_mode=check, async_val=0)
        connection = MagicMock(has_pipelining=True, become=None)
        super().__init__(task, connection, MagicMock(), MagicMock(), MagicMock(), MagicMock())  # type: ignore[call-arg]
        self.modules: list[dict[str, Any]] = []
        self.found: list[str] = []

    def _low_level_execute_command(self, cmd: str, in_data: bytes = b"", **_: bool) -> dict[str, Any]:
        done = subprocess.run(["/bin/sh", "-c", cmd], input=in_data, capture_output=True, check=False)
        return {"rc": done.returncode, "stdout": done.stdout.decode(), "stderr": done.stderr.decode()}

    def _execute_module(self, module_args: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.modules.append(module_args)
        if "directory" in module_args:
            self.found = sorted(path.name for path in Path(module_args["directory"]).iterdir())
        return {"changed": True}


class Restore(Task, restore.ActionModule):
    """Restores on this host."""


class Plan(Task, restore_plan.ActionModule):
    """Checks this host."""

    live = True

    def _low_level_execute_command(self, cmd: str, in_data: bytes = b"", **_: bool) -> dict[str, Any]:  # noqa: ARG002
        return {"rc": 0, "stdout": "live\n" if self.live else "none\n", "stderr": ""}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's directory of temporary files; the site's user is the user of the tests."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(carrier, "TEMPORARY", str(place))
    monkeypatch.setattr(carrier, "OWNER", f"{os.getuid()}:{os.getgid()}")
    return place


VARIABLES = {
    "inventory_hostname": "web",
    "ansible_play_hosts": ["web"],
    "groups": {"prod": ["web", "spare", "notes"]},
    "hostvars": {host: {"site_name": "notes" if host == "notes" else "polls"} for host in ("web", "spare", "notes")},
}


def plan(options: dict[str, str], live: bool = True, hosts: tuple[str, ...] = ("web",)) -> dict[str, Any]:
    """Return the plan for a request."""
    action = Plan({"site": "polls", "group": "prod", **options})
    action.live = live
    variables = {**VARIABLES, "ansible_play_hosts": list(hosts)}
    answer: dict[str, Any] = action.run(task_vars=variables)
    return answer


@pytest.mark.parametrize(
    ("live", "options", "does", "host", "directory"),
    [
        (True, {}, "list", "web", ""),
        (False, {}, "list", "web", "/var/backups/hostwright/polls"),
        (True, {"backup": "latest"}, "restore", "web", ""),
        (True, {"backup": "latest", "target": "spare"}, "restore", "spare", ""),
        (False, {"backup": "latest", "backup_directory": "/mnt"}, "rebuild", "web", "/mnt/polls"),
        (True, {"backup": "latest", "source": "/usr"}, "restore", "web", "/usr"),
        (False, {"backup": "latest", "source": "/usr"}, "rebuild", "web", "/usr"),
        (True, {"backup": "/etc/passwd"}, "restore", "web", ""),
    ],
)
def test_the_request_and_the_host_decide_what_is_done(
    live: bool, options: dict[str, str], does: str, host: str, directory: str
) -> None:
    decided = plan(options, live)
    assert (decided["does"], decided["host"], decided["directory"]) == (does, host, directory)
    assert decided["control_node"] == (bool(options.get("source")) or "/" in options.get("backup", ""))


@pytest.mark.parametrize(
    ("options", "hosts", "problem"),
    [
        ({"backup": "/nowhere"}, ["web"], "there is no file /nowhere on this machine"),
        ({"source": "/nowhere"}, ["web"], "there is no directory /nowhere on this machine"),
        ({"backup": "/etc/passwd", "source": "/usr"}, ["web"], "names a file to import"),
        ({"backup": "/etc/passwd", "target": "spare"}, ["web"], "names a file to import"),
        ({"target": "spare"}, ["web"], "name the backup with -e backup_restore"),
        ({"target": "spare", "backup": "latest", "source": "/usr"}, ["web"], "backup_source goes to the hosts of -l"),
        ({"target": "nowhere", "backup": "latest"}, ["web"], "must be a host of the group prod"),
        ({"target": "web", "backup": "latest"}, ["web"], "not the host of -l"),
        ({"target": "spare", "backup": "latest"}, ["web", "spare"], "name that host with -l"),
        ({"target": "notes", "backup": "latest"}, ["web"], "notes has another site than polls"),
    ],
)
def test_a_request_that_cannot_be_fulfilled_is_refused(options: dict[str, str], hosts: list[str], problem: str) -> None:
    with pytest.raises(AnsibleActionFail, match=rf"{problem}.*Nothing was changed\."):
        plan(options, hosts=tuple(hosts))


@pytest.mark.parametrize("options", [{"backup": "/etc/passwd"}, {"backup": "latest", "target": "spare"}])
def test_a_host_without_the_site_refuses_an_import_and_another_host_s_backup(options: dict[str, str]) -> None:
    with pytest.raises(AnsibleActionFail, match=r"has no live release of polls: deploy to it first.*Nothing was"):
        plan(options, live=False)


def test_a_host_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"rc": 1, "stdout": "", "stderr": "sudo: a password is required"}
    monkeypatch.setattr(Plan, "_low_level_execute_command", lambda *_, **__: answer)
    with pytest.raises(AnsibleActionFail, match="cannot check for a live release of polls: sudo: a password"):
        plan({})


def test_paths_are_relative_to_the_user_s_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/user")
    options = {"backup": "./db.sqlite3", "source": "~/backups", "target": ""}
    request = Request.of(options)
    assert (request.backup, request.file, request.source) == ("", f"{tmp_path}/db.sqlite3", "/home/user/backups")


def test_a_backup_of_the_control_node_is_lent_to_the_host(tmp_path: Path, temporary: Path) -> None:
    write_backup(tmp_path / "here", "20261122T120000Z-r1")
    name = write_backup(tmp_path / "here")
    action = Restore({"site": "polls", "control_node": True, "directory": f"{tmp_path}/here", "backup": "latest"})
    assert action.run(task_vars={})["changed"]
    assert action.modules[0]["backup"] == name == NOON
    assert {path.partition(".")[0] for path in action.found} == {NOON}
    assert not list(temporary.iterdir())


def test_a_database_is_lent_with_its_wal(tmp_path: Path, temporary: Path) -> None:
    for name in ("mine.sqlite3", "mine.sqlite3-wal", "other.sqlite3"):
        (tmp_path / name).write_text(name)
    action = Restore({"site": "polls", "control_node": True, "file": f"{tmp_path}/mine.sqlite3"})
    action.run(task_vars={})
    assert Path(action.modules[0]["file"]).name == "mine.sqlite3"
    assert action.found == ["mine.sqlite3", "mine.sqlite3-wal"]
    assert not list(temporary.iterdir())


def test_in_check_mode_nothing_reaches_the_host(tmp_path: Path) -> None:
    write_backup(tmp_path / "here")
    given = {"site": "polls", "control_node": True, "directory": f"{tmp_path}/here"}
    action = Restore({**given, "backup": "latest"}, check=True)
    answer = action.run(task_vars={})
    assert answer["chosen"]["id"] == NOON
    assert answer["summary"][0] == f"{NOON}, made 2026-11-23T12:00:00Z by release 1"
    assert Restore(given).run(task_vars={})["table"][1].startswith(NOON)
    assert not action.modules


def test_a_damaged_backup_of_the_control_node_is_refused(tmp_path: Path) -> None:
    name = write_backup(tmp_path / "here")
    (tmp_path / "here" / f"{name}.sqlite3.zst").write_bytes(b"damaged")
    given = {"site": "polls", "control_node": True, "directory": f"{tmp_path}/here", "backup": "latest"}
    with pytest.raises(AnsibleActionFail, match=r"could not check the backup's files: .*Nothing was changed"):
        Restore(given, check=True).run(task_vars={})

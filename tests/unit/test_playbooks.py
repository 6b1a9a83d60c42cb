"""Every playbook refuses to act on all hosts unless that is requested."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"
TASK = {"name": "Require a choice of hosts", "ansible.builtin.import_tasks": "tasks/which_hosts.yml"}
HOSTS = "all: {children: {prod: {hosts: {one: , two: }}, dev: {hosts: {three: }}}, vars: {ansible_connection: local}}"
PLAY = {"hosts": "prod", "gather_facts": False, "serial": 1}
ACT = {"ansible.builtin.debug": {"msg": "{{ inventory_hostname }} acts"}, "tags": ["release"]}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a playbook that acts on prod, an inventory with two hosts there, and one of another group."""
    (tmp_path / "hosts.yml").write_text(HOSTS)
    check = {"ansible.builtin.import_tasks": str(PLAYBOOKS / "tasks/which_hosts.yml")}
    (tmp_path / "act.yml").write_text(yaml.safe_dump([{**PLAY, "tasks": [check, ACT]}]))
    return tmp_path


def play(directory: Path, *arguments: str) -> tuple[int, str]:
    """Run ``ansible-playbook`` with these arguments; return its exit status and its output with single blanks."""
    environment = {**os.environ, "ANSIBLE_CONFIG": str(PLAYBOOKS.parent / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "hosts.yml", "act.yml", *arguments]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, " ".join(done.stdout.split())


@pytest.mark.parametrize("playbook", sorted(PLAYBOOKS.glob("*.yml")), ids=lambda path: path.stem)
def test_the_first_task_requires_a_choice_of_hosts(playbook: Path) -> None:
    first = yaml.safe_load(playbook.read_text())[0]
    if first["hosts"] != "workstation":
        assert first["tasks"][0] == TASK


@pytest.mark.parametrize("arguments", [[], ["--tags", "release"], ["-e", "all_hosts=false"]])
def test_a_run_without_a_choice_of_hosts_is_refused(directory: Path, arguments: list[str]) -> None:
    status, output = play(directory, *arguments)
    assert status == 2
    assert "one acts" not in output
    assert "(groups: prod; hosts: one, two), or -e all_hosts=true for all of them. Nothing was changed." in output


@pytest.mark.parametrize(
    ("arguments", "acting"),
    [(["-l", "two"], ["two"]), (["-l", "three"], []), (["-e", "all_hosts=true", "--tags", "release"], ["one", "two"])],
)
def test_the_chosen_hosts_act(directory: Path, arguments: list[str], acting: list[str]) -> None:
    status, output = play(directory, *arguments)
    assert status == 0
    assert [host for host in ("one", "two", "three") if f"{host} acts" in output] == acting

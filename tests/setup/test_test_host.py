"""Destroying a test host removes its volumes; a container that was never started stands for the host."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
NAME = "hostwright-test-absent"


def docker(*arguments: str, data: bytes = b"") -> str:
    return subprocess.run(["docker", *arguments], input=data, capture_output=True, check=True).stdout.decode().strip()


@pytest.fixture
def volume() -> Iterator[str]:
    """The volume of a container called NAME."""
    archive = io.BytesIO()
    tarfile.open(fileobj=archive, mode="w").close()
    image = docker("import", "--change", "LABEL hostwright=test", "-", data=archive.getvalue())
    docker("create", "--name", NAME, "--label", "hostwright=test", "--volume", "/data", image, "/none")
    (mount,) = json.loads(docker("inspect", "--format", "{{json .Mounts}}", NAME))
    yield mount["Name"]
    docker("rm", "--force", "--volumes", NAME)
    docker("volume", "rm", "--force", mount["Name"])
    docker("rmi", "--force", image)


def test_a_test_host_is_removed_with_its_volumes(volume: str, tmp_path: Path) -> None:
    tasks = {"ansible.builtin.include_tasks": str(PROJECT / "playbooks/tasks/test_host_absent.yml")}
    variables = {
        "test_host_container": NAME,
        "test_host_purpose": "test",
        "test_host_inventory": str(tmp_path / "inventory.yml"),
        "test_host_directory": str(tmp_path / "keys"),
    }
    play = [{"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": [tasks]}]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    assert volume in docker("volume", "ls", "--quiet").splitlines()
    subprocess.run(["ansible-playbook", tmp_path / "play.yml"], cwd=PROJECT, check=True)
    assert NAME not in docker("ps", "--all", "--format", "{{.Names}}").splitlines()
    assert volume not in docker("volume", "ls", "--quiet").splitlines()

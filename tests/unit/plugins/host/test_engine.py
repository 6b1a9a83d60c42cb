"""The Engine, with a pretended ``docker`` program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine, EngineError, Image


def docker(directory: Path, script: str) -> Engine:
    """Return an Engine whose program is a shell script."""
    program = directory / "docker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Engine(str(program))


def test_a_command_that_succeeds(tmp_path: Path) -> None:
    assert docker(tmp_path, 'echo "  $* "')("ps", "--all") == "ps --all"


def test_the_error_of_a_failed_command_names_it_and_shows_its_output(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"'docker start polls-1 …' failed \(7\): no space left"):
        docker(tmp_path, "echo no space left >&2; exit 7")("start", "polls-1")


def test_secrets_in_later_arguments_are_not_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        docker(tmp_path, "exit 1")("run", "--rm", "--env", "TOKEN=hunter-2")
    assert "hunter" not in str(caught.value)


def test_a_missing_program_and_one_that_hangs(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="install the Docker Engine first"):
        Engine(str(tmp_path / "docker")).run(["ps"])
    with pytest.raises(EngineError, match="did not end within 0 s"):
        docker(tmp_path, "exec sleep 20").run(["ps"], timeout=0.1)


@pytest.mark.parametrize(
    "error", ["Error: No such image: x", "Error response from daemon: no such image: x", "[]\nNo such object"]
)
def test_a_missing_image_or_container_is_none(tmp_path: Path, error: str) -> None:
    engine = docker(tmp_path, f"echo '{error}' >&2; exit 1")
    assert engine.image("x") is None
    assert engine.container("x") is None


def test_an_engine_that_does_not_answer_is_an_error_and_not_a_missing_image(tmp_path: Path) -> None:
    engine = docker(tmp_path, "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    with pytest.raises(EngineError, match="Cannot connect"):
        engine.image("x")


def test_an_image(tmp_path: Path) -> None:
    found = {"Id": "sha256:1", "RootFS": {"Layers": ["sha256:a", "sha256:b"]}, "Size": 5}
    (tmp_path / "found").write_text(json.dumps([{**found, "Config": {"Labels": {"k": "v"}}}]))
    engine = docker(tmp_path, f"cat {tmp_path}/found")
    assert engine.image("x") == Image("sha256:1", ("sha256:a", "sha256:b"), {"k": "v"}, 5)
    (tmp_path / "found").write_text(json.dumps([{**found, "RootFS": {}, "Config": None}]))
    assert engine.image("x") == Image("sha256:1", (), {}, 5)

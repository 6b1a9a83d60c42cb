"""The test commands together run every check, and continuous integration adds up their results."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from scripts import run_tests

PROJECT = Path(__file__).resolve().parents[2]
# Checks may be added to this list, but not removed.
CHECKS = {
    *(("lint", name) for name in ("ansible-lint", "yamllint", "ruff", "format", "mypy", "shellcheck", "changelog")),
    ("unit", "pytest"),
    ("app", "django"),
    ("setup", "pytest"),
    *(("demo", name) for name in ("fresh", "first", "again", "round-trips", "backup", "manage")),
    *(("demo", name) for name in ("development", "development-again")),
    ("browser", "pytest"),
    *(("molecule", name) for name in ("default", "docker", "host", "image", "nginx", "app")),
    *(("molecule", name) for name in ("backup", "dev", "hardening")),
    *(("deep", name) for name in ("faults", "push", "release", "restore", "several", "tls")),
}


def commands_of(group: str) -> list[str]:
    """Return the commands that run a group."""
    return [command for command, groups in run_tests.COMMANDS.items() if group in groups]


def test_every_check_is_a_step() -> None:
    steps = [(step.group, step.name) for step in run_tests.steps()]
    assert set(steps) >= CHECKS
    assert len(steps) == len(set(steps))


def test_every_step_belongs_to_one_command() -> None:
    assert [step for step in run_tests.steps() if len(commands_of(step.group)) != 1] == []


def test_every_scenario_belongs_to_one_command() -> None:
    runs = [step for step in run_tests.steps() if step.command[0] == "molecule"]
    for path in PROJECT.glob("molecule/*/molecule.yml"):
        (step,) = (step for step in runs if step.command[-1] == path.parent.name)
        assert len(commands_of(step.group)) == 1


def test_make_test_runs_the_whole_stack_and_every_role() -> None:
    roles = {path.parent.name for path in PROJECT.glob("roles/*/README.md")}
    assert {step.name for step in run_tests.steps() if step.group == "molecule"} == {"default"} | roles


@pytest.mark.parametrize("target", run_tests.COMMANDS)
def test_make_runs_the_steps_of_the_command(target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Scenarios run in two lanes: with one lane, the barrier of two scenarios would time out."""
    line = subprocess.check_output(["make", "--no-print-directory", "--dry-run", target], cwd=PROJECT, text=True)
    steps = list(run_tests.steps())
    ran: list[tuple[str, str]] = []
    together = threading.Barrier(2)

    def run(step: run_tests.Step, _: threading.Event) -> run_tests.Counts:
        ran.append((step.group, step.name))
        if step.name in {"faults", "push"}:
            together.wait(10)
        return run_tests.Counts(1, 0)

    monkeypatch.setattr(run_tests, "run", run)
    monkeypatch.setattr(run_tests, "steps", lambda: steps)
    monkeypatch.setattr(run_tests, "PROJECT", tmp_path)
    monkeypatch.setattr(run_tests, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(sys, "argv", line.split())
    assert run_tests.main() == 0
    assert sorted(ran) == sorted(check for check in CHECKS if commands_of(check[0]) == [target])


def test_list_prints_every_step_and_runs_none() -> None:
    listed = subprocess.check_output([PROJECT / "scripts" / "test", "--list"], text=True).splitlines()
    commands = [line for line in listed if not line.startswith(" ")]
    assert commands == ["make test", "make test-deep"]
    deep = listed.index("make test-deep")
    assert {line.strip() for line in listed[1:deep]} == {f"{g}: {n}" for g, n in CHECKS if g != "deep"}
    assert {line.strip() for line in listed[deep + 1 :]} == {f"{g}: {n}" for g, n in CHECKS if g == "deep"}


@pytest.mark.parametrize(
    ("test", "deep", "last_line", "status"),
    [
        ("echo 5 passed, 0 failed", "echo 2 passed, 0 failed", "7 passed, 0 failed", 0),
        ("echo 4 passed, 1 failed; exit 2", "echo 2 passed, 0 failed", "6 passed, 1 failed", 1),
        ("echo 5 passed, 0 failed", "echo 0 passed, 2 failed; exit 2", "5 passed, 2 failed", 1),
        ("echo Interrupted.; exit 2", "echo 2 passed, 0 failed", "2 passed, 1 failed", 1),
        ("echo 5 passed, 0 failed; exit 2", "echo 2 passed, 0 failed", "7 passed, 1 failed", 1),
        ("echo 5 passed, 0 failed", "true", "5 passed, 1 failed", 1),
    ],
)
def test_ci_runs_both_commands_and_adds_up_their_results(
    tmp_path: Path, test: str, deep: str, last_line: str, status: int
) -> None:
    for name in (".ci/run", "scripts/setup", "scripts/clean", "bin/make"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    shutil.copy(PROJECT / ".ci" / "run", tmp_path / ".ci" / "run")
    program = f'#!/bin/sh\necho "$2" >> ran\ncase $2 in test) {test} ;; *) {deep} ;; esac\n'
    (tmp_path / "bin" / "make").write_text(program)
    done = subprocess.run(
        [tmp_path / ".ci" / "run"], capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert (done.stdout.splitlines()[-1], done.returncode) == (last_line, status)
    assert (tmp_path / "ran").read_text().split() == ["test", "test-deep"]

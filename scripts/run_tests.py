"""Run Hostwright's tests in two parallel lanes; the last line is `N passed, N failed`.

A step is one command. A step of a test runner counts its tests; any other step (a linter, a deployment, a Molecule
scenario) counts as one. A failed step does not stop the next. Its output is written to .cache/logs/<step>.log;
an excerpt is shown if it fails. One lane runs scenarios, the other runs all other steps in order, then scenarios, too:
scenarios wait most of the time, so two of them use two cores. Called by scripts/test.

Every step belongs to one group, and every group to one of two commands, `make test` and `make test-deep`: see COMMANDS.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LOGS = PROJECT / ".cache" / "logs"
# `molecule` has the scenario of the whole stack and one per role, `deep` has the other scenarios.
COMMANDS = {
    "test": ("lint", "unit", "app", "setup", "demo", "browser", "molecule"),
    "test-deep": ("deep",),
}
GROUPS = tuple(group for groups in COMMANDS.values() for group in groups)
SCENARIOS = ("molecule", "deep")

# Maximum number of SSH commands of a deployment that changes nothing; a peer takes 32.
ROUND_TRIPS = 12

# Seconds after which a step is stopped; the long run of kills (HOSTWRIGHT_KILLS=full) takes hours.
TIME_LIMIT = 8 * 3600 if os.environ.get("HOSTWRIGHT_KILLS") == "full" else 1800
# Seconds between two progress messages of a running step.
PROGRESS_INTERVAL = 60
# The longest scenarios start first, after the one of the whole stack.
LONG = ("default", "faults", "backup", "push", "restore", "release", "app", "hardening", "tls")
# Number of lines shown of a failed step's log.
EXCERPT = 60


@dataclass(frozen=True)
class Counts:
    """How many tests passed and failed."""

    passed: int
    failed: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.passed + other.passed, self.failed + other.failed)


def count_step(status: int, log: str) -> Counts:
    """Count a step as one test, by its exit status."""
    del log
    return Counts(1, 0) if status == 0 else Counts(0, 1)


def count_pytest(status: int, log: str) -> Counts:
    """Count the tests in pytest's last line; a run that fails without a failed test counts as one failure."""
    closing = next((line for line in reversed(log.splitlines()) if re.search(r" in [\d.]+s", line)), "")
    found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", closing)}
    failed = found.get("failed", 0) + found.get("error", 0)
    return Counts(found.get("passed", 0), failed if failed or status == 0 else 1)


def count_django(status: int, log: str) -> Counts:
    """Count the tests in the last lines of Django's test runner; a run without tests counts as one failure."""
    ran = sum(int(number) for number in re.findall(r"^Ran (\d+) test", log, re.MULTILINE))
    closing = next(iter(re.findall(r"^FAILED \((.*)\)", log, re.MULTILINE)), "")
    failed = sum(int(number) for number in re.findall(r"(?:failures|errors)=(\d+)", closing))
    if not failed and (status != 0 or ran == 0):
        failed = 1
    return Counts(max(ran - failed, 0), failed)


def count_round_trips(status: int, log: str) -> Counts:
    """Count a verbose playbook run as one test, which fails above ROUND_TRIPS SSH commands; print their number."""
    commands = len(re.findall(r"^<[^>]+> SSH: EXEC ", log, re.MULTILINE))
    print(f"  {commands} SSH commands (at most {ROUND_TRIPS})")
    return count_step(status or int(not 0 < commands <= ROUND_TRIPS), log)


def count_unchanged(status: int, log: str) -> Counts:
    """Count a playbook run as one test, which fails if a task changed anything."""
    changed = re.search(r"\bchanged=[1-9]", log)
    return count_step(status or int(changed is not None), log)


@dataclass(frozen=True)
class Step:
    """One command of the test run, run in `directory` of the project."""

    group: str
    name: str
    command: tuple[str, ...]
    count: Callable[[int, str], Counts] = count_step
    directory: str = "."

    @property
    def log(self) -> Path:
        """The file for the command's output."""
        return LOGS / f"{self.group}-{self.name}.log"


def shell_scripts() -> Iterator[str]:
    """Yield the shell scripts of the project."""
    for directory in (".ci", "scripts", "playbooks", "roles"):
        for path in sorted((PROJECT / directory).rglob("*")):
            if path.is_file() and path.suffix != ".py":
                with path.open("rb") as file:
                    first = file.readline(80)
                if re.match(rb"#!.*\b(ba|da)?sh\b|# shellcheck shell=", first):
                    yield str(path.relative_to(PROJECT))


def scenarios() -> list[str]:
    """Return the names of the Molecule scenarios: the whole stack, then the long ones, then the others."""
    names = [path.parent.name for path in PROJECT.glob("molecule/*/molecule.yml")]
    return sorted(names, key=lambda name: (LONG.index(name) if name in LONG else len(LONG), name))


def steps() -> Iterator[Step]:
    """Yield all steps in their order."""
    yield Step("lint", "ansible-lint", ("ansible-lint", "--strict", "--offline"))
    yield Step("lint", "yamllint", ("yamllint", "--strict", "."))
    yield Step("lint", "ruff", ("ruff", "check", "."))
    yield Step("lint", "format", ("ruff", "format", "--check", "."))
    yield Step("lint", "mypy", ("mypy",))
    yield Step("lint", "shellcheck", ("shellcheck", "--external-sources", *shell_scripts()))
    yield Step("lint", "changelog", ("antsibull-changelog", "lint"))
    # Unit tests wait half of the time: run two at a time.
    yield Step("unit", "pytest", ("pytest", "tests/unit", "-n", "2", "--dist", "loadfile"), count_pytest)
    yield Step("app", "django", ("python", "manage.py", "test"), count_django, "app")
    yield Step("setup", "pytest", ("pytest", "tests/setup"), count_pytest)
    yield Step("demo", "fresh", ("ansible-playbook", "playbooks/sandbox.yml", "-e", "sandbox_state=absent"))
    yield Step("demo", "first", ("scripts/demo",))
    yield Step("demo", "again", ("scripts/demo",), count_unchanged)
    nothing_to_do = ("ansible-playbook", "-vvv", "deploy.yml", "--limit", "sandbox")
    yield Step("demo", "round-trips", nothing_to_do, count_round_trips)
    for name, command in (
        ("backup", ("ansible-playbook", "playbooks/backup.yml", "--limit", "sandbox")),
        ("manage", ("ansible-playbook", "playbooks/manage.yml", "--limit", "sandbox", "-e", "manage=check --deploy")),
        ("development", ("ansible-playbook", "deploy.yml", "--limit", "dev")),
    ):
        yield Step("demo", name, command)
    yield Step("demo", "development-again", ("ansible-playbook", "deploy.yml", "--limit", "dev"), count_unchanged)
    yield Step("browser", "pytest", ("pytest", "tests/browser"), count_pytest)
    roles = {path.name for path in PROJECT.glob("roles/*")}
    for scenario in scenarios():
        group = "molecule" if scenario in {"default", *roles} else "deep"
        yield Step(group, scenario, ("molecule", "test", "--scenario-name", scenario))


def listing() -> Iterator[str]:
    """Yield the lines of ``--list``: each command, followed by its steps."""
    for command, groups in COMMANDS.items():
        yield f"make {command}"
        yield from (f"  {step.group}: {step.name}" for step in steps() if step.group in groups)


def environment() -> dict[str, str]:
    """Return the environment for the steps, in which logs are plain text and show the time of each task."""
    return os.environ | {
        "PATH": f"{PROJECT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
        "ANSIBLE_NOCOLOR": "1",
        "NO_COLOR": "1",
        "MOLECULE_COMMAND_BORDERS": "false",
        "PYTHONUNBUFFERED": "1",
    }


def last_line(log: Path) -> str:
    """Return the last line that is not blank or a rule, for a progress message."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip(" *=-")]
    return lines[-1].rstrip(" *")[:100] if lines else ""


def excerpt(log: str) -> str:
    """Return the part of a failed step's log that starts at the failed task, or the end of the log."""
    lines = log.splitlines()
    failures = [number for number, line in enumerate(lines) if line.startswith(("fatal:", "[ERROR]", "failed:"))]
    start = len(lines) - EXCERPT
    if failures:
        start = next((n for n in range(failures[0], 0, -1) if lines[n].startswith("TASK")), failures[0])
    return "\n".join(f"    {line}" for line in lines[max(start, 0) :][:EXCERPT])


def run_lane(steps: deque[Step], more: deque[Step], interrupted: threading.Event, failed: list[Step]) -> Counts:
    """Run a lane's steps, then the shared ones; return the counts, append failed steps to ``failed``."""
    total = Counts(0, 0)
    for queue in (steps, more):
        while not interrupted.is_set():
            try:
                step = queue.popleft()
            except IndexError:  # the other lane may have taken the last shared step
                break
            counts = run(step, interrupted)
            if counts.failed:
                failed.append(step)
            total += counts
    return total


def run(step: Step, interrupted: threading.Event) -> Counts:
    """Run a step, print its result, return its counts."""
    started = time.monotonic()
    print(f"{step.group}: {step.name} …", flush=True)
    with step.log.open("w") as log:
        process = subprocess.Popen(
            step.command, cwd=PROJECT / step.directory, env=environment(), stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            next_message = started + PROGRESS_INTERVAL
            while (status := process.poll()) is None:
                elapsed = time.monotonic() - started
                if interrupted.wait(0.2):
                    status = 130
                    break
                if elapsed > TIME_LIMIT:
                    log.write(f"\nStopped: the step took longer than {TIME_LIMIT} s.\n")
                    status = 124
                    break
                if time.monotonic() > next_message:
                    next_message += PROGRESS_INTERVAL
                    print(f"  {step.name}, {elapsed:.0f} s: {last_line(step.log)}", flush=True)
        finally:
            stop(process)
    text = step.log.read_text(errors="replace")
    counts = step.count(status, text)
    outcome = "ok" if not counts.failed else f"FAILED ({step.log.relative_to(PROJECT)})"
    tests = f", {counts.passed + counts.failed} tests" if counts.passed + counts.failed > 1 else ""
    print(f"{step.group}: {step.name} {outcome} ({time.monotonic() - started:.1f} s{tests})", flush=True)
    if counts.failed:
        print(excerpt(text), flush=True)
    return counts


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a step's processes if they are still running."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    """Run the chosen groups, by default those of `make test`; return the exit status."""
    parser = argparse.ArgumentParser(description="Run Hostwright's tests.")
    known = f"one of {', '.join(GROUPS)}; default: all but deep"
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=known)
    parser.add_argument("--list", action="store_true", help="show the steps of each command; run none")
    arguments = parser.parse_args()
    chosen = arguments.groups or COMMANDS["test"]
    if unknown := set(chosen) - set(GROUPS):
        parser.error(f"unknown group: {', '.join(sorted(unknown))}; groups: {', '.join(GROUPS)}")
    if arguments.list:
        print("\n".join(listing()))
        return 0

    started = time.monotonic()
    todo = [step for step in steps() if step.group in chosen]
    # The logs of the other command are kept.
    LOGS.mkdir(parents=True, exist_ok=True)
    for step in todo:
        step.log.unlink(missing_ok=True)
    ordered = deque(step for step in todo if step.group not in SCENARIOS)
    shared = deque(step for step in todo if step.group in SCENARIOS)
    interrupted = threading.Event()
    failed: list[Step] = []
    with ThreadPoolExecutor(2) as lanes:
        results = [lanes.submit(run_lane, steps, shared, interrupted, failed) for steps in (deque[Step](), ordered)]
        try:
            total = results[0].result() + results[1].result()
        except KeyboardInterrupt:
            interrupted.set()
            raise
    print(f"\nThe run took {time.monotonic() - started:.0f} s; the logs are in {LOGS.relative_to(PROJECT)}/.")
    for step in failed:
        print(f"Failed: {step.group}: {step.name}")
    print(f"{total.passed} passed, {total.failed} failed")
    return 1 if total.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Interrupted.")

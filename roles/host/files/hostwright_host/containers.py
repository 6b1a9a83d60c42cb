"""Containers of the live release's image: the running one, and those that do one thing and go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.hostwright.django.plugins.module_utils.contract import hardened, labels

from hostwright_host.errors import BUSY, TIMED_OUT, BusyError, CommandError
from hostwright_host.site import Site, field

# Longer than the runtime's own limit, which comes first and says more.
GRACE = 15
_CPU_SHARES = 256  # of a processor that is short: a quarter of what the site and Nginx get
_PIDS = 128


def docker(arguments: Sequence[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run docker and capture what it prints.

    Raises:
        CommandError: there is no docker command.
        subprocess.TimeoutExpired: it took longer than the timeout (seconds).
    """
    try:
        return subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise CommandError("There is no docker command on this host.") from error


def manage(site: Site, arguments: Sequence[str]) -> int:
    """Run a management command in the live release; this process becomes it, with its exit status and its signals."""
    container = field(site.current(), "container", "release's record")
    terminal = ["--interactive", "--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else ["--interactive"]
    command = ["docker", "exec", *terminal, container, "python3", "manage.py", *arguments]
    try:
        os.execvp(command[0], command)  # noqa: S606 (a shell would read the arguments again)
    except FileNotFoundError as error:
        raise CommandError("There is no docker command on this host.") from error


def job(site: Site, name: str) -> int:
    """Run a job of the live release in its container; return its exit status, with what it printed.

    A job that still runs is left alone.
    """
    container = f"{field(site.current(), 'container', 'release record')}-job-{name}"
    state = container_state(container)["status"]
    if state == "missing":
        raise CommandError(f'The live release of {site.name} has no job "{name}" (container {container}).')
    if state == "running":
        raise BusyError(f"The job {name} of {site.name} runs already.")
    return subprocess.run(["docker", "start", "--attach", container], check=False, stdin=subprocess.DEVNULL).returncode


def container_state(name: str) -> dict[str, Any]:
    """Ask Docker about a container."""
    result = docker(["container", "inspect", name])
    if result.returncode:
        return {"name": name, "status": "missing"}
    found = json.loads(result.stdout)[0]
    state = found["State"]
    return {
        "name": name,
        "status": state["Status"],
        "started": state["StartedAt"],
        "exit_status": state["ExitCode"],
        "out_of_memory": state["OOMKilled"],
        "restarts": found["RestartCount"],
    }


@dataclass(frozen=True)
class Mount:
    """A directory of the host in a container."""

    source: Path
    target: str
    writable: bool = False

    def __str__(self) -> str:
        # Binds, not volumes: Docker would make a missing volume, empty and without a word.
        return f"type=bind,src={self.source},dst={self.target}{'' if self.writable else ',readonly'}"


@dataclass(frozen=True)
class OneShot:
    """A container that runs one verb of the runtime and goes. Its fixed name is a lock."""

    site: Site
    kind: str
    """What it does: its label, and the end of its name."""
    mounts: Sequence[Mount]
    verb: Sequence[str]
    time_limit: float
    """Seconds."""
    memory: str = "256m"

    @property
    def name(self) -> str:
        """The container's name."""
        return f"{self.site.name}-{self.kind}"

    def run(self, record: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        """Run it to its end.

        Args:
            record: the live release's.

        Raises:
            BusyError: a container of this name is running.
            CommandError: it did not end in time, and was killed.
        """
        self._clear()
        try:
            result = docker(self.arguments(record), timeout=self.time_limit + GRACE)
        except subprocess.TimeoutExpired as error:
            docker(["kill", self.name])
            docker(["rm", "--force", self.name])
            raise CommandError(
                f"The {self.kind} did not end within {self.time_limit:g} s: its container was killed.", TIMED_OUT
            ) from error
        if result.returncode == 125 and "is already in use" in result.stderr:
            raise BusyError(f"Another {self.kind} of {self.site.name} runs already (container {self.name}).")
        return result

    def arguments(self, record: dict[str, Any]) -> list[str]:
        """Build docker's arguments."""
        mounts = [part for mount in self.mounts for part in ("--mount", str(mount))]
        return [
            "run", "--rm", "--name", self.name,
            *labels(self.kind, self.site.name, field(record, "release", "release's record")),
            *hardened("none", self.memory, self.memory, _PIDS, _CPU_SHARES), "--log-driver", "none", *mounts,
            "--env", f"HOSTWRIGHT_CONFIG={field(record, 'configuration', 'release record')}",
            str(record.get("image_id") or field(record, "image", "release's record")),
            *self.verb,
        ]  # fmt: skip

    def _clear(self) -> None:
        """Remove a container that a reboot ended; one that runs is another run."""
        result = docker(["container", "inspect", "--format", "{{.State.Status}}", self.name])
        if result.returncode:
            return
        state = result.stdout.strip()
        if state in {"running", "paused", "restarting"}:
            raise BusyError(f"Another {self.kind} runs already (container {self.name} is {state}).")
        docker(["rm", self.name])


def answer(result: subprocess.CompletedProcess[str], what: str) -> dict[str, Any]:
    """Read the runtime's answer, one line of JSON.

    Raises:
        BusyError: it said that something else is under way.
        CommandError: it failed, or said nothing that can be read.
    """
    if result.returncode:
        said = (result.stderr or result.stdout).strip() or f"exit status {result.returncode}"
        raise BusyError(said) if result.returncode == BUSY else CommandError(said, result.returncode)
    try:
        found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise CommandError(f"The {what} said nothing that can be read: {result.stdout!r}") from error
    return found

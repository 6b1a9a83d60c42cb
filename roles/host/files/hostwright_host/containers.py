"""Containers of the live release's image: the running one and the one-shot ones."""

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

# Seconds beyond the runtime's time limit, which expires first and reports more.
GRACE = 15
_CPU_SHARES = 256  # while processor time is short: a quarter of what the site and Nginx get
_PIDS = 128


def docker(arguments: Sequence[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run docker and capture its output.

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
    """Replace this process by a management command in the live release, which gets its signals and exit status."""
    container = field(site.current(), "container")
    terminal = ["--interactive", "--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else ["--interactive"]
    command = ["docker", "exec", *terminal, container, "python3", "manage.py", *arguments]
    try:
        os.execvp(command[0], command)  # noqa: S606 (a shell would parse the arguments again)
    except FileNotFoundError as error:
        raise CommandError("There is no docker command on this host.") from error


def job(site: Site, name: str) -> int:
    """Run a job of the live release in its container, passing on its output; return its exit status.

    Raises:
        BusyError: the job is still running.
        CommandError: the release has no job of this name.
    """
    container = f"{field(site.current(), 'container')}-job-{name}"
    state = container_state(container)["status"]
    if state == "missing":
        raise CommandError(f'The live release of {site.name} has no job "{name}" (container {container}).')
    if state == "running":
        raise BusyError(f"The job {name} of {site.name} is already running.")
    return subprocess.run(["docker", "start", "--attach", container], check=False, stdin=subprocess.DEVNULL).returncode


def container_state(name: str) -> dict[str, Any]:
    """Return a container's state; its status is ``missing`` if Docker has none of this name."""
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
    """A directory or file of the host, mounted into a container."""

    source: Path
    target: str
    writable: bool = False

    def __str__(self) -> str:
        # Binds, not volumes: Docker would silently create an empty volume in place of a missing one.
        return f"type=bind,src={self.source},dst={self.target}{'' if self.writable else ',readonly'}"


@dataclass(frozen=True)
class OneShot:
    """A container that runs one verb of the runtime and is then removed. Its fixed name is the lock."""

    site: Site
    kind: str
    """The kind of run: the container's label and the end of its name."""
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
        """Run the container until it ends.

        Args:
            record: the live release's record.

        Raises:
            BusyError: a container of this name is running.
            CommandError: the container did not end in time and was killed.
        """
        self._remove_ended()
        try:
            result = docker(self.arguments(record), timeout=self.time_limit + GRACE)
        except subprocess.TimeoutExpired as error:
            docker(["kill", self.name])
            docker(["rm", "--force", self.name])
            raise CommandError(
                f"The {self.kind} did not end within {self.time_limit:g} s: its container was killed.", TIMED_OUT
            ) from error
        if result.returncode == 125 and "is already in use" in result.stderr:
            raise BusyError(f"Another {self.kind} of {self.site.name} is already running (container {self.name}).")
        return result

    def arguments(self, record: dict[str, Any]) -> list[str]:
        """Return docker's arguments."""
        mounts = [part for mount in self.mounts for part in ("--mount", str(mount))]
        return [
            "run", "--rm", "--name", self.name,
            *labels(self.kind, self.site.name, field(record, "release")),
            *hardened("none", self.memory, self.memory, _PIDS, _CPU_SHARES), "--log-driver", "none", *mounts,
            "--env", f"HOSTWRIGHT_CONFIG={field(record, 'configuration')}",
            str(record.get("image_id") or field(record, "image")),
            *self.verb,
        ]  # fmt: skip

    def _remove_ended(self) -> None:
        """Remove a container that a reboot ended; a running one belongs to another run."""
        result = docker(["container", "inspect", "--format", "{{.State.Status}}", self.name])
        if result.returncode:
            return
        state = result.stdout.strip()
        if state in {"running", "paused", "restarting"}:
            raise BusyError(f"Another {self.kind} is already running (container {self.name} is {state}).")
        docker(["rm", self.name])


def report_of(result: subprocess.CompletedProcess[str], what: str) -> dict[str, Any]:
    """Parse the runtime's report, the last line of its output, in JSON.

    Raises:
        BusyError: the runtime found another run in progress.
        CommandError: the runtime failed, or its output is not a report.
    """
    if result.returncode:
        message = (result.stderr or result.stdout).strip() or f"exit status {result.returncode}"
        raise BusyError(message) if result.returncode == BUSY else CommandError(message, result.returncode)
    try:
        report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise CommandError(f"The {what} printed no report (a line of JSON) but: {result.stdout!r}") from error
    return report

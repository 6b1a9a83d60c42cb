"""The machines of a measurement: hosts in containers reached over SSH, and what Ansible costs on this machine.

Everything made here carries the label ``hostwright`` and is removed when the measurement ends, also after a failure.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
BIN = PROJECT / ".venv" / "bin"
DIRECTORY = PROJECT / ".cache" / "bench"
PLAYBOOKS = PROJECT / "bench" / "playbooks"
# Interval between two samples of memory, seconds.
MEMORY_INTERVAL = 0.03
# Time limit of a command, seconds.
TIME_LIMIT = 900
TICKS = os.sysconf("SC_CLK_TCK")


class LabError(Exception):
    """A measurement is impossible; the message has the failed command and its output."""


@dataclass(frozen=True)
class Run:
    """One run of a playbook: seconds of wall and of processor time, peak memory in bytes (0: not watched).

    ``tasks`` has the tasks' seconds by name, ``results`` their results by name and host.
    """

    seconds: float
    cpu: float
    memory: int
    tasks: dict[str, float] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)


class Lab:
    """Makes hosts and runs playbooks on them; a context manager, which removes everything at the end."""

    def __init__(self, quick: bool = False) -> None:
        self.quick = quick
        self.hosts: list[str] = []
        self._tags: list[str] = []
        self._load = os.getloadavg()[0]
        self._sockets = Path(tempfile.gettempdir())  # the path of a socket must be short

    def __enter__(self) -> Lab:
        shutil.rmtree(DIRECTORY, ignore_errors=True)
        (DIRECTORY / "inventory").mkdir(parents=True)
        self._sockets = Path(tempfile.mkdtemp(prefix="hostwright-bench-"))
        return self

    def __exit__(self, *exception: object) -> None:
        say("removing the hosts")
        self.disconnect()
        with suppress(LabError):
            self.playbook("hosts", bench_hosts=self.hosts, bench_state="absent")
        for tag in self._tags:
            subprocess.run(["docker", "image", "rm", tag], capture_output=True, check=False)
        shutil.rmtree(self._sockets, ignore_errors=True)
        shutil.rmtree(DIRECTORY, ignore_errors=True)

    def make_hosts(self, *names: str) -> None:
        """Make hosts with the Engine of Debian 13, unless they exist."""
        say(f"making the hosts {', '.join(names)}")
        self.hosts += names
        self.playbook("hosts", bench_hosts=list(names))

    def will_remove(self, tag: str) -> None:
        """Note an image of this machine's Engine that is removed at the end."""
        self._tags.append(tag)

    def playbook(self, name: str, limit: str = "all", watch: bool = False, **variables: Any) -> Run:
        """Run a playbook of the measurements.

        Raises:
            LabError: it failed.
        """
        command = _ansible_playbook(name, limit, {"bench_directory": str(DIRECTORY), **variables})
        environment = {**self.environment, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
        before = self._cpu()
        started = time.monotonic()
        with (
            tempfile.TemporaryFile("w+") as output,
            subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            ) as process,
            self._watching(process.pid) if watch else _nothing() as peak,
        ):
            status = process.wait(TIME_LIMIT)
            seconds = time.monotonic() - started
            output.seek(0)
            text = output.read()
        if status != 0:
            raise LabError(f"the playbook bench/playbooks/{name}.yml failed ({status}):\n{text[-4000:]}")
        report = json.loads(text[text.index("\n{\n" if not text.startswith("{") else "{") :])
        tasks = [task for play in report["plays"] for task in play["tasks"]]
        return Run(
            seconds,
            self._cpu() - before,
            peak[0],
            {task["task"]["name"]: _duration(task["task"]["duration"]) for task in tasks},
            {task["task"]["name"]: task["hosts"] for task in tasks},
        )

    def round_trips(self, name: str, limit: str, **variables: Any) -> int:
        """Return the number of SSH commands that a playbook runs."""
        command = [*_ansible_playbook(name, limit, variables), "-vvv"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout.count("SSH: EXEC ")

    def ssh(self, host: str, *command: str) -> list[str]:
        """Return the command line that runs a command as root on a host, over a separate connection."""
        keys = DIRECTORY / "keys" / host
        return [
            "ssh", "-F", "none", "-i", str(keys / "id_ed25519"), "-p", self.port(host, 22), "-o", "IdentitiesOnly=yes",
            "-o", f"UserKnownHostsFile={keys / 'known_hosts'}", "deploy@127.0.0.1", "sudo", *command,
        ]  # fmt: skip

    def port(self, host: str, port: int) -> str:
        """Return the port of this machine that leads to a host's port."""
        return call("docker", "port", f"hostwright-bench-{host}", f"{port}/tcp").splitlines()[0].rpartition(":")[2]

    def address(self, host: str) -> str:
        """Return the address of a host on this machine's bridge."""
        return call("docker", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", f"hostwright-bench-{host}")

    def on(self, host: str, *command: str) -> str:
        """Run a command on a host without the network; return its output."""
        return call("docker", "exec", f"hostwright-bench-{host}", *command)

    def wire(self, host: str) -> int:
        """Return the bytes that a host's network interface has received and sent so far."""
        counters = [f"/sys/class/net/eth0/statistics/{direction}_bytes" for direction in ("rx", "tx")]
        return sum(int(line) for line in self.on(host, "cat", *counters).splitlines())

    def disconnect(self) -> None:
        """Close the connections that Ansible keeps open."""
        for socket in self._sockets.iterdir():
            command = ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "host"]
            subprocess.run(command, capture_output=True, check=False)

    def conditions(self, **more: str) -> dict[str, str]:
        """Return the conditions of the measurement on this machine; ``more`` adds others."""
        core = call(str(BIN / "ansible"), "--version").split("\n")[0].split()[-1].strip("]")
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        return {
            "date": f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}",
            "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, control node and hosts all on it; load average "
            f"{self._load:.1f} before it began",
            "control node": f"{_system(Path('/etc/os-release').read_text())}, Docker Engine "
            f"{call('docker', 'version', '--format', '{{.Server.Version}}')}, Python {platform.python_version()}, "
            f"ansible-core {core}",
            **more,
        }

    def engine_of(self, host: str) -> str:
        """Return the system, Engine and image store of a host."""
        info = json.loads(self.on(host, "docker", "info", "--format", "{{json .}}"))
        system = _system(self.on(host, "cat", "/etc/os-release"))
        return f"{system}, Docker Engine {info['ServerVersion']} ({info['Driver']})"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of Ansible."""
        return os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._sockets),
        }

    def _connections(self) -> Iterator[int]:
        """Yield the process ids of the connections that Ansible keeps open: they are not children of this process."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    if str(self._sockets).encode() in (entry / "cmdline").read_bytes().partition(b"\0")[0]:
                        yield int(entry.name)

    def _cpu(self) -> float:
        """Return the processor seconds so far of this program's children and of the open connections."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        connections = 0
        for process in self._connections():
            with suppress(OSError):
                connections += sum(int(number) for number in _stat(process)[11:13])
        return used.ru_utime + used.ru_stime + connections / TICKS

    @contextmanager
    def _watching(self, process: int) -> Iterator[list[int]]:
        """Yield the peak memory so far of a process, its descendants and open connections; shared pages count once."""
        peak, over = [0], threading.Event()

        def watch() -> None:
            while not over.wait(MEMORY_INTERVAL):
                peak[0] = max(peak[0], sum(map(_memory, {*_family(process), *self._connections()})))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield peak
        finally:
            over.set()
            thread.join()


def _ansible_playbook(name: str, limit: str, variables: dict[str, Any]) -> list[str]:
    return [
        str(BIN / "ansible-playbook"), "--inventory", str(PROJECT / "bench" / "inventory.yml"),
        "--inventory", str(DIRECTORY / "inventory"), "--limit", limit,
        "--extra-vars", json.dumps(variables), str(PLAYBOOKS / f"{name}.yml"),
    ]  # fmt: skip


@contextmanager
def _nothing() -> Iterator[list[int]]:
    yield [0]


def _stat(process: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third one on."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def _family(process: int) -> set[int]:
    """Return a process and its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
    found, new = {process}, {process}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def _memory(process: int) -> int:
    """Return the proportional set size of a process (PSS), in bytes."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0


def _duration(span: dict[str, str]) -> float:
    start, end = (datetime.datetime.fromisoformat(span[key]) for key in ("start", "end"))
    return (end - start).total_seconds()


def _system(release: str) -> str:
    """Return the name of a system, from its /etc/os-release."""
    return next(line.partition("=")[2].strip('"') for line in release.splitlines() if line.startswith("PRETTY_NAME="))


def say(text: str) -> None:
    """Print the progress."""
    print(f"bench: {text} …", flush=True)


def call(*command: str) -> str:
    """Run a command that must succeed; return its output.

    Raises:
        LabError: it failed.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=TIME_LIMIT, check=False
    )
    if done.returncode != 0:
        raise LabError(f"'{' '.join(command)}' failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout.strip()


def pipe(*commands: Sequence[str]) -> tuple[float, float]:
    """Run a pipeline of commands; return seconds of wall and of processor time.

    Raises:
        LabError: one of them failed.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    running: list[subprocess.Popen[bytes]] = []
    for command in commands:
        source = running[-1].stdout if running else subprocess.DEVNULL
        running.append(subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        if len(running) > 1 and running[-2].stdout:
            running[-2].stdout.close()
    errors = running[-1].communicate(timeout=TIME_LIMIT)[1].decode(errors="replace").strip()
    failed = [command for command, process in zip(commands, running, strict=True) if process.wait(TIME_LIMIT) != 0]
    seconds = time.monotonic() - started
    if failed:
        raise LabError(f"'{' '.join(failed[-1])}' failed: {errors}")
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime

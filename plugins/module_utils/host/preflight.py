"""Requirements that a host must meet before it is changed, all checked in one run that changes nothing.

Reading the host (``Host``) is separate from checking it (the ``check_…`` functions), so that tests can invent hosts.
"""

from __future__ import annotations

import grp
import importlib.util
import json
import os
import platform
import pwd
import re
import shutil
import socket
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .docker_daemon import UNIT, parse, read
from .problems import Problem, ProblemError
from .process import Runner, run, search_path

MEGABYTE = 1_000_000
FEW_INODES = 2_000
ENGINE_SPACE = "engine"
DEFAULT_DATA_ROOT = Path("/var/lib/docker")
CONTAINERD_ROOT = Path("/var/lib/containerd")
LISTENING = "0A"
MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}
DAEMON_PACKAGES = ("docker.io", "docker-ce")
PYTHON_MINIMUM = "3.11"


@dataclass(frozen=True)
class Space:
    """Disk space needed at a path, or for ``engine`` in the Engine's image store; in megabytes of 10^6 bytes."""

    path: str
    megabytes: int


@dataclass(frozen=True)
class Expectation:
    """Requirements for a host. An empty value requires nothing.

    ``distributions`` are like ``debian 13``, ``engine`` is ``optional`` or ``required``, ``container`` may already
    publish the ``ports``, ``users`` are accounts that must exist.
    """

    distributions: tuple[str, ...] = ()
    platform: str = ""
    engine: str = "optional"
    engine_minimum: str = ""
    space: tuple[Space, ...] = ()
    ports: tuple[int, ...] = ()
    container: str = ""
    users: tuple[str, ...] = ()


@dataclass(frozen=True)
class Distribution:
    """A Linux distribution, from its os-release file; ``version`` is empty if that has none (Debian testing)."""

    id: str = ""
    version: str = ""
    codename: str = ""
    name: str = ""

    @property
    def short(self) -> str:
        """The name in lists of allowed distributions: ``debian 13``."""
        return f"{self.id} {self.version}".strip()


@dataclass(frozen=True)
class EngineState:
    """The state of a host's Docker Engine.

    ``package`` is the Debian package of the daemon (empty if there is none), ``unit`` whether systemd has its service,
    ``failure`` the reason why it does not answer, ``image_root`` the directory of its images.
    """

    client: bool = False
    daemon: bool = False
    answers: bool = False
    version: str = ""
    storage_driver: str = ""
    data_root: Path = DEFAULT_DATA_ROOT
    image_root: Path = DEFAULT_DATA_ROOT
    package: str = ""
    unit: bool = False
    active: bool = False
    enabled: bool = False
    failure: str = ""

    @property
    def present(self) -> bool:
        """Whether the host has an Engine: a daemon is installed, or an Engine answers the client."""
        return self.daemon or self.answers


@dataclass(frozen=True)
class Filesystem:
    """A mounted file system: free space in bytes, free inodes (None if it does not count them)."""

    device: int
    free: int
    inodes: int | None = None
    read_only: bool = False


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket."""

    port: int
    address: str
    inode: str


@dataclass(frozen=True)
class Process:
    """A running program."""

    pid: int
    name: str


@dataclass(frozen=True)
class Findings:
    """The result: every problem, and the facts for the tasks that follow."""

    problems: tuple[Problem, ...]
    facts: dict[str, Any] = field(default_factory=dict)


class Host:
    """Reads a host's state; no other part of this module does. ``root`` is the directory of its file system."""

    def __init__(
        self,
        root: Path = Path("/"),
        runner: Runner = run,
        os_release: str = "/etc/os-release",
        daemon_configuration: str = "/etc/docker/daemon.json",
    ) -> None:
        self.root = root
        self.run = runner
        self.os_release = self.at(os_release)
        self.daemon_configuration = self.at(daemon_configuration)

    def at(self, path: str | Path) -> Path:
        """The path below ``root`` for a path of the host."""
        return self.root / str(path).lstrip("/")

    @property
    def machine(self) -> str:
        """The kernel's name of the processor."""
        return platform.machine()

    @property
    def python(self) -> str:
        """Version of the Python that runs this module."""
        return platform.python_version()

    @property
    def systemd(self) -> bool:
        """Whether systemd runs the host."""
        return self.at("/run/systemd/system").is_dir()

    @property
    def package_interrupted(self) -> bool:
        """Whether dpkg was interrupted: files with numeric names remain, and apt refuses to run."""
        updates = self.at("/var/lib/dpkg/updates")
        return updates.is_dir() and any(entry.name.isdigit() for entry in updates.iterdir())

    @property
    def requests(self) -> bool:
        """Whether this Python has the requests library, which community.docker's modules need."""
        return importlib.util.find_spec("requests") is not None

    def has(self, program: str) -> bool:
        """Whether a program is installed."""
        return shutil.which(program, path=search_path()) is not None

    def distribution(self) -> Distribution:
        """The distribution; empty if there is no os-release file."""
        try:
            lines = self.os_release.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return Distribution()
        pairs = (line.partition("=")[::2] for line in lines if "=" in line and not line.lstrip().startswith("#"))
        value = {key.strip(): text.strip().strip("\"'") for key, text in pairs}
        return Distribution(
            value.get("ID", "linux"),
            value.get("VERSION_ID", ""),
            value.get("VERSION_CODENAME", ""),
            value.get("PRETTY_NAME", ""),
        )

    def configuration(self) -> dict[str, Any]:
        """The Engine's configuration file.

        Raises:
            ProblemError: it is not valid JSON.
        """
        return parse(read(self.daemon_configuration), self.daemon_configuration)

    def engine(self) -> EngineState:
        """The Engine's state, queried through the Docker client if that is installed."""
        client = self.has("docker")
        daemon = self.has("dockerd")
        packages = [name for name in DAEMON_PACKAGES if self.at(f"/var/lib/dpkg/info/{name}.list").exists()]
        package = packages[0] if daemon and packages else ""
        state: dict[str, Any] = {"client": client, "daemon": daemon, "package": package, **self._unit()}
        if not client:
            state["failure"] = "the program 'docker' is not installed"
            return EngineState(**state)
        answer = self.run(["docker", "info", "--format", "{{json .}}"])
        try:
            information = json.loads(answer.stdout)
        except json.JSONDecodeError:
            information = {}
        if not isinstance(information, dict) or not information.get("ServerVersion"):
            errors = information.get("ServerErrors") if isinstance(information, dict) else None
            state["failure"] = "; ".join(errors) if errors else answer.said or "docker info printed nothing"
            return EngineState(**state)
        data_root = Path(information.get("DockerRootDir") or DEFAULT_DATA_ROOT)
        containerd = any("containerd.snapshotter" in str(row) for row in information.get("DriverStatus") or ())
        return EngineState(
            **state,
            answers=True,
            version=information["ServerVersion"],
            storage_driver=information.get("Driver") or "",
            data_root=data_root,
            image_root=CONTAINERD_ROOT if containerd and self.at(CONTAINERD_ROOT).is_dir() else data_root,
        )

    def _unit(self) -> dict[str, bool]:
        if not self.systemd:
            return {}
        answer = self.run(["systemctl", "show", UNIT, "--property=LoadState,ActiveState,UnitFileState"])
        shown = dict(line.partition("=")[::2] for line in answer.stdout.splitlines())
        return {
            "unit": shown.get("LoadState") == "loaded",
            "active": shown.get("ActiveState") == "active",
            "enabled": shown.get("UnitFileState") == "enabled",
        }

    def existing(self, path: str | Path) -> Path:
        """The path itself or its nearest existing parent, as a path of the host."""
        nearest = Path(path)
        while not os.path.lexists(self.at(nearest)) and nearest != nearest.parent:
            nearest = nearest.parent
        return nearest

    def filesystem(self, path: Path) -> Filesystem:
        """The file system that contains an existing path."""
        figures = os.statvfs(self.at(path))
        return Filesystem(
            device=self.at(path).stat().st_dev,
            free=figures.f_bavail * figures.f_frsize,
            inodes=figures.f_favail if figures.f_files else None,
            read_only=bool(figures.f_flag & os.ST_RDONLY),
        )

    def listeners(self) -> tuple[Listener, ...]:
        """Every listening TCP socket, IPv4 and IPv6, in the host's network namespace."""
        found: list[Listener] = []
        for name in ("tcp", "tcp6"):
            try:
                table = self.at(f"/proc/net/{name}").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            found.extend(parse_listeners(table))
        return tuple(found)

    def holders(self, inodes: Iterable[str]) -> dict[str, Process]:
        """The programs that have sockets open, by the socket's inode; if several do, the one with the lowest pid."""
        wanted = {f"socket:[{inode}]": inode for inode in inodes}
        found: dict[str, Process] = {}
        pids = sorted(int(entry.name) for entry in self.at("/proc").iterdir() if entry.name.isdigit())
        for pid in pids if wanted else ():
            for target in self._descriptors(pid):
                inode = wanted.get(target)
                if inode is not None and inode not in found:
                    found[inode] = Process(pid, self._name(pid))
        return found

    def _descriptors(self, pid: int) -> tuple[str, ...]:
        targets = []
        with suppress(OSError):  # the process has ended, or belongs to another user
            for entry in self.at(f"/proc/{pid}/fd").iterdir():
                targets.append(str(entry.readlink()))
        return tuple(targets)

    def _name(self, pid: int) -> str:
        try:
            return self.at(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return "a program"

    def published(self) -> dict[int, str]:
        """The names of the running containers, by the host ports that they publish."""
        listed = self.run(["docker", "ps", "--format", "{{.Names}}\t{{.Ports}}"])
        return parse_published(listed.stdout) if listed.ok else {}

    def missing_users(self, users: Iterable[str]) -> tuple[str, ...]:
        """The accounts among ``users`` that do not exist."""
        return tuple(user for user in users if not _exists(user))

    def outside_group(self, users: Iterable[str], group: str) -> tuple[str, ...]:
        """The accounts among ``users`` that are not in a group (all of them if the group does not exist)."""
        try:
            entry = grp.getgrnam(group)
        except KeyError:
            return tuple(users)
        return tuple(
            user
            for user in users
            if user not in entry.gr_mem and not (_exists(user) and pwd.getpwnam(user).pw_gid == entry.gr_gid)
        )


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def name() -> str:
    """The host name, for messages."""
    return platform.node() or "this host"


def version_of(text: str) -> tuple[int, ...]:
    """The numbers at the beginning of a version: ``20.10.24+dfsg1`` is (20, 10, 24).

    Raises:
        ValueError: it does not begin with a number.
    """
    matched = re.match(r"\d+(?:\.\d+)*", text)
    if matched is None:
        raise ValueError(f"'{text}' is not a version: it must begin with a number, like 20.10")
    numbers = [int(part) for part in matched.group().split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def machine_of(text: str) -> str:
    """The kernel's name of a processor: ``x86_64`` for ``amd64`` and ``linux/amd64``."""
    name = text.strip().lower().rpartition("linux/")[2]
    return MACHINES.get(name, name)


def parse_listeners(table: str, state: str = LISTENING) -> tuple[Listener, ...]:
    """The listening sockets of a ``/proc/net/tcp``, ``tcp6``, ``udp`` or ``udp6`` table (see proc_pid_net(5))."""
    found = []
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) > 9 and columns[3] == state:
            address, _, port = columns[1].partition(":")
            found.append(Listener(int(port, 16), _address(address), columns[9]))
    return tuple(found)


def _address(text: str) -> str:
    """Decode an address of the table: groups of 4 bytes, each in this machine's byte order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)


def parse_published(listed: str) -> dict[int, str]:
    """Container names by the host's TCP ports that they publish, from lines ``name<TAB>ports`` of docker ps.

    The ports look like ``0.0.0.0:80->8080/tcp, :::443->8443/tcp, 0.0.0.0:8000-8002->8000-8002/tcp``.
    """
    found: dict[int, str] = {}
    for line in listed.splitlines():
        name, _, ports = line.partition("\t")
        for matched in re.finditer(r":(\d+)(?:-(\d+))?->[\d-]+/tcp", ports):
            first, last = int(matched[1]), int(matched[2] or matched[1])
            found.update(dict.fromkeys(range(first, last + 1), name))
    return found


def check_distribution(host: Distribution, allowed: Sequence[str], where: str) -> list[Problem]:
    """Check that the distribution is one of the allowed ones."""
    if not allowed or host.short in {" ".join(entry.lower().split()) for entry in allowed}:
        return []
    name = host.name or host.short
    return [
        Problem(
            f"the host runs {name} ({host.short})" if name else "the host's Linux distribution is unknown",
            where,
            f"use a host with one of: {', '.join(allowed)}",
        )
    ]


def check_python(version: str) -> list[Problem]:
    """Check that the host's Python is new enough for all modules of this collection.

    This module and its imports also run with an older Python, so that they can report it.
    """
    if version_of(version) >= version_of(PYTHON_MINIMUM):
        return []
    return [
        Problem(
            f"the host's Python is too old: {version}; {PYTHON_MINIMUM} or newer is needed",
            sys.executable,
            "use a host with a newer distribution, or set ansible_python_interpreter to a newer Python on this host",
        )
    ]


def check_platform(machine: str, expected: str) -> list[Problem]:
    """Check that the image was built for the host's processor."""
    if not expected or machine_of(expected) == machine_of(machine):
        return []
    return [
        Problem(
            f"the image is for {machine_of(expected)}, the host is {machine_of(machine)}",
            "the host's processor (uname -m)",
            "build on a machine with the host's processor: set image_builder to that inventory host",
        )
    ]


def check_engine(state: EngineState, systemd: bool, expected: Expectation) -> list[Problem]:
    """Check that an installed Engine answers and is new enough, and that there is one if it is required."""
    if state.answers:
        minimum = expected.engine_minimum
        if not minimum or version_of(state.version) >= version_of(minimum):
            return []
        return [
            Problem(
                f"the Docker Engine is too old: {state.version}; {minimum} or newer is needed",
                "docker info",
                "upgrade it (on Debian 12 or newer: apt-get install docker.io), then run again",
            )
        ]
    if "permission denied" in state.failure.lower():
        return [Problem("the Docker Engine refuses the login user", state.failure, "set become: true for this host")]
    if state.daemon and state.client and (state.active or not systemd):
        return [
            Problem(
                "a Docker Engine is installed but does not answer",
                state.failure,
                "see 'systemctl status docker' and 'journalctl -u docker'"
                if systemd
                else "start dockerd (systemd, which could start it, does not run on this host), then run again",
            )
        ]
    if expected.engine == "required":
        return [
            Problem(
                "the Docker Engine does not answer" if state.daemon else "there is no Docker Engine",
                state.failure,
                "run the role hostwright.django.docker on this host"
                if not state.daemon
                else "see 'systemctl status docker' and 'journalctl -u docker'",
            )
        ]
    if not systemd:
        return [
            Problem(
                "there is no Docker Engine, and no systemd to run one",
                "/run/systemd/system",
                "use a host that runs systemd, or install and start an Engine yourself: a running Engine is used",
            )
        ]
    return []


def check_configuration(host: Host) -> list[Problem]:
    """Check the Engine's configuration file: with an invalid one, the Engine's next start fails."""
    try:
        host.configuration()
    except ProblemError as error:
        return [error.problem]
    return []


def check_space(host: Host, wanted: Sequence[Space], engine: EngineState) -> tuple[list[Problem], dict[str, int]]:
    """Check that every file system has enough free space for all needs on it together.

    Returns:
        The problems, and the free megabytes by the path of each need.
    """
    problems: list[Problem] = []
    free: dict[str, int] = {}
    needs: dict[int, list[tuple[Space, Path]]] = {}
    systems: dict[int, Filesystem] = {}
    for space in wanted:
        path = _image_root(host, engine) if space.path == ENGINE_SPACE else Path(space.path)
        existing = host.existing(path)
        if not host.at(existing).is_dir():
            problems.append(Problem(f"{existing} is not a directory", str(path), f"move {existing} away"))
            continue
        system = host.filesystem(existing)
        free[space.path] = system.free // MEGABYTE
        systems[system.device] = system
        needs.setdefault(system.device, []).append((space, path))
    for device, needed in needs.items():
        problems.extend(_check_filesystem(systems[device], needed))
    return problems, free


def _check_filesystem(system: Filesystem, needed: Sequence[tuple[Space, Path]]) -> list[Problem]:
    where = ", ".join(f"{path} ({space.megabytes} MB)" for space, path in needed)
    total = sum(space.megabytes for space, _ in needed)
    if system.read_only:
        return [Problem("the file system is mounted read-only", where, "mount it writable, or replace the disk")]
    if system.free < total * MEGABYTE:
        missing = total - system.free // MEGABYTE
        return [
            Problem(
                f"not enough disk space: {total} MB needed, {system.free // MEGABYTE} MB free",
                where,
                f"free at least {missing} MB there or enlarge the disk ('docker system df' shows the use by images)",
            )
        ]
    if system.inodes is not None and system.inodes < FEW_INODES:
        return [
            Problem(
                f"not enough free inodes on the file system: {FEW_INODES} needed, {system.inodes} free",
                where,
                "delete small files there ('df -i' shows the use), or create the file system with more inodes",
            )
        ]
    return []


def _image_root(host: Host, engine: EngineState) -> Path:
    if engine.answers:
        return engine.image_root
    try:
        configured = host.configuration().get("data-root")
    except ProblemError:
        configured = None
    return Path(configured) if isinstance(configured, str) and configured.startswith("/") else engine.image_root


def check_ports(host: Host, ports: Sequence[int], container: str, engine: EngineState) -> list[Problem]:
    """Check that every port is free, or published by ``container``, which a deployment replaces or keeps."""
    if not ports:
        return []
    published = host.published() if engine.answers else {}
    taken: dict[int, Listener] = {}
    for listener in host.listeners():
        taken.setdefault(listener.port, listener)
    foreign = [port for port in ports if port not in published and port in taken]
    holders = host.holders({taken[port].inode for port in foreign})
    problems = []
    for port in dict.fromkeys(ports):
        name = published.get(port)
        if name is not None and name != container:
            problems.append(_taken(port, f"the container '{name}' publishes it", f"docker stop {name}"))
        elif port in foreign:
            process = holders.get(taken[port].inode)
            where = f"listening on {_endpoint(taken[port])}"
            if process is None:
                problems.append(_taken(port, f"a program {where}", "stop it"))
            else:
                who = f"{process.name} (pid {process.pid}) {where}"
                problems.append(_taken(port, who, f"stop it ('systemctl status {process.pid}' names its service)"))
    return problems


def _endpoint(listener: Listener) -> str:
    return f"[{listener.address}]:{listener.port}" if ":" in listener.address else f"{listener.address}:{listener.port}"


def _taken(port: int, where: str, stop: str) -> Problem:
    return Problem(f"TCP port {port} is taken", where, f"{stop}, or deploy on another port")


def check_users(missing: Sequence[str]) -> list[Problem]:
    """Report the missing accounts: this collection creates no accounts for people."""
    return [
        Problem(f"there is no user '{user}'", "the host's accounts", "create the account, or correct the name")
        for user in missing
    ]


def examine(host: Host, expected: Expectation) -> Findings:
    """Check a host against the requirements; report every problem, not only the first."""
    distribution = host.distribution()
    engine = host.engine()
    space, free = check_space(host, expected.space, engine)
    problems = (
        *check_distribution(distribution, expected.distributions, str(host.os_release)),
        *check_python(host.python),
        *check_platform(host.machine, expected.platform),
        *check_engine(engine, host.systemd, expected),
        *check_configuration(host),
        *space,
        *check_ports(host, expected.ports, expected.container, engine),
        *check_users(host.missing_users(expected.users)),
    )
    return Findings(problems, _facts(host, distribution, engine, free, expected))


def _facts(
    host: Host, distribution: Distribution, engine: EngineState, free: Mapping[str, int], expected: Expectation
) -> dict[str, Any]:
    return {
        "distribution": distribution.id,
        "distribution_version": distribution.version,
        "codename": distribution.codename,
        "machine": machine_of(host.machine),
        "python_version": host.python,
        "systemd": host.systemd,
        "requests": host.requests,
        "package_interrupted": host.package_interrupted,
        "engine_present": engine.present,
        "engine_answers": engine.answers,
        "engine_client": engine.client,
        "engine_version": engine.version,
        "engine_package": engine.package,
        "engine_unit": engine.unit,
        "engine_enabled": engine.enabled,
        "storage_driver": engine.storage_driver,
        "data_root": str(engine.data_root),
        "image_root": str(engine.image_root),
        "free_megabytes": dict(free),
        "users_outside_docker": list(host.outside_group(expected.users, "docker")),
    }

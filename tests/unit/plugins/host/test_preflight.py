"""Checks of a host before it is changed: invented hosts in a directory, and this machine's own sockets."""

from __future__ import annotations

import ast
import inspect
import json
import os
import platform
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host import (
    docker_daemon,
    files,
    preflight,
    problems,
    process,
)
from ansible_collections.hostwright.django.plugins.module_utils.host.preflight import (
    Distribution,
    EngineState,
    Expectation,
    Filesystem,
    Host,
    Listener,
    Process,
    Space,
    check_distribution,
    check_engine,
    check_platform,
    check_ports,
    check_space,
    examine,
    machine_of,
    parse_listeners,
    parse_published,
    version_of,
)
from ansible_collections.hostwright.django.plugins.module_utils.host.problems import Problem, report
from ansible_collections.hostwright.django.plugins.module_utils.host.process import Answer, run
from hypothesis import given
from hypothesis import strategies as st

ANY = ".".join(["0"] * 4)

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_ID="13"\nVERSION_CODENAME=trixie\nID=debian\n# x=y\n'
INFORMATION = {"ServerVersion": "26.1.5+dfsg1", "Driver": "overlay2", "DockerRootDir": "/var/lib/docker"}
ANSWERING = EngineState(client=True, daemon=True, answers=True, version="26.1.5+dfsg1", unit=True, active=True)
STOPPED = EngineState(client=True, daemon=True, unit=True, failure="Cannot connect to the Docker daemon")
MISSING = EngineState(failure="the program 'docker' is not installed")


class Invented(Host):
    """A host in a directory; the test sets its Engine, file systems and listeners."""

    def __init__(self, root: Path) -> None:
        self.programs = {"docker", "dockerd"}
        self.information: dict[str, Any] | None = dict(INFORMATION)
        self.unit = "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\n"
        self.ps = ""
        self.systems: dict[str, Filesystem] = {"/": Filesystem(1, 10_000 * preflight.MEGABYTE, 100_000)}
        self.sockets: tuple[Listener, ...] = ()
        self.processes: dict[str, Process] = {}
        self.accounts = {"root", "alice"}
        self.version = "3.11.2"
        super().__init__(root, self._run)
        self.write("/etc/os-release", DEBIAN)
        self.at("/run/systemd/system").mkdir(parents=True)

    def write(self, path: str, text: str) -> None:
        """Write a file on the host."""
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_text(text)

    def _run(self, command: Sequence[str]) -> Answer:
        if command[:2] == ["docker", "info"]:
            if self.information is None:
                return Answer(1, json.dumps({"ServerErrors": ["Cannot connect to the Docker daemon"]}))
            return Answer(0, json.dumps(self.information))
        if command[:2] == ["docker", "ps"]:
            return Answer(0, self.ps)
        return Answer(0, self.unit)

    @property
    def python(self) -> str:
        return self.version

    def has(self, program: str) -> bool:
        return program in self.programs

    def filesystem(self, path: Path) -> Filesystem:
        mounts = [mount for mount in self.systems if path.is_relative_to(mount)]
        return self.systems[max(mounts, key=len)]

    def listeners(self) -> tuple[Listener, ...]:
        return self.sockets

    def holders(self, inodes: Iterable[str]) -> dict[str, Process]:
        return {inode: self.processes[inode] for inode in inodes if inode in self.processes}

    def missing_users(self, users: Iterable[str]) -> tuple[str, ...]:
        return tuple(user for user in users if user not in self.accounts)


@pytest.fixture
def host(tmp_path: Path) -> Invented:
    """A host without problems."""
    return Invented(tmp_path)


EVERYTHING = Expectation(
    distributions=("debian 13",),
    platform=platform.machine(),
    engine="required",
    engine_minimum="20.10",
    space=(Space("engine", 100), Space("/srv/hostwright", 100)),
    ports=(80, 443),
    container="hostwright-nginx",
    users=("alice",),
)


class TestExamine:
    def test_good_host_has_no_problems_and_its_facts_are_returned(self, host: Invented) -> None:
        findings = examine(host, EVERYTHING)
        assert findings.problems == ()
        facts = findings.facts
        assert (facts["distribution"], facts["distribution_version"], facts["codename"]) == ("debian", "13", "trixie")
        assert facts["engine_present"] is facts["engine_answers"] is facts["engine_enabled"] is True
        assert (facts["engine_version"], facts["storage_driver"]) == ("26.1.5+dfsg1", "overlay2")
        assert facts["free_megabytes"] == {"engine": 10_000, "/srv/hostwright": 10_000}

    def test_every_problem_is_reported_at_once(self, host: Invented) -> None:
        host.write("/etc/os-release", "ID=fedora\nVERSION_ID=42\n")
        host.write("/etc/docker/daemon.json", "{oops")
        host.information = {**INFORMATION, "ServerVersion": "19.03.8"}
        host.systems["/"] = Filesystem(1, 5)
        host.sockets = (Listener(80, "::", "7"),)
        findings = examine(host, replace(EVERYTHING, platform="riscv64", users=("bob",)))
        whats = [problem.what for problem in findings.problems]
        assert [what.split(":")[0] for what in whats] == [
            "the host runs fedora 42 (fedora 42)",
            f"the image is for riscv64, the host is {machine_of(platform.machine())}",
            "the Docker Engine is too old",
            "the Docker Engine's configuration is not valid JSON",
            "not enough disk space",
            "TCP port 80 is taken",
            "there is no user 'bob'",
        ]
        message = report(findings.problems, "web1")
        assert message.startswith("7 problems on host web1; nothing was changed.\n1. ")
        assert message.count("what to do:") == message.count("where:") == 7

    @pytest.mark.parametrize(
        ("version", "old"), [("3.9.2", True), ("3.10.12", True), ("3.11.0", False), ("3.13.5", False)]
    )
    def test_python_must_be_new_enough(self, host: Invented, version: str, old: bool) -> None:
        host.version = version
        found = examine(host, EVERYTHING).problems
        wanted = [f"the host's Python is too old: {version}; 3.11 or newer is needed"]
        assert [problem.what for problem in found] == (wanted if old else [])

    def test_an_older_python_can_run_the_check(self) -> None:
        # Ansible runs the module with the Python that it finds; 3.8 is the oldest that it supports.
        for module in (preflight, docker_daemon, files, problems, process):
            ast.parse(inspect.getsource(module), feature_version=(3, 8))

    def test_bare_host_is_accepted_if_the_engine_is_optional(self, host: Invented) -> None:
        host.programs = set()
        host.unit = "LoadState=not-found\nActiveState=inactive\nUnitFileState=\n"
        findings = examine(host, replace(EVERYTHING, engine="optional"))
        assert findings.problems == ()
        assert findings.facts["engine_present"] is False
        assert findings.facts["engine_version"] == ""

    def test_nothing_is_changed(self, host: Invented, tmp_path: Path) -> None:
        before = sorted(str(path) for path in tmp_path.rglob("*"))
        examine(host, EVERYTHING)
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before


class TestDistribution:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (DEBIAN, Distribution("debian", "13", "trixie", "Debian GNU/Linux 13 (trixie)")),
            ("ID=ubuntu\nVERSION_ID='24.04'\n", Distribution("ubuntu", "24.04")),
            ("ID=debian\nVERSION_CODENAME=sid\n", Distribution("debian", "", "sid")),
            ("", Distribution("linux")),
        ],
    )
    def test_os_release(self, host: Invented, text: str, expected: Distribution) -> None:
        host.write("/etc/os-release", text)
        assert host.distribution() == expected

    def test_missing_file_is_reported(self, host: Invented) -> None:
        host.os_release.unlink()
        assert "distribution is unknown" in check_distribution(host.distribution(), ["debian 13"], "x")[0].what

    @pytest.mark.parametrize("allowed", [["debian 13"], ["Debian  13", "x"], []])
    def test_allowed(self, allowed: list[str]) -> None:
        assert check_distribution(Distribution("debian", "13"), allowed, "x") == []

    @pytest.mark.parametrize("allowed", [["debian 12"], ["debian"], ["ubuntu 13"], ["debian 130"]])
    def test_not_allowed(self, allowed: list[str]) -> None:
        assert len(check_distribution(Distribution("debian", "13"), allowed, "x")) == 1


class TestPlatform:
    @pytest.mark.parametrize("expected", ["", "x86_64", "amd64", "linux/amd64", "AMD64"])
    def test_same(self, expected: str) -> None:
        assert check_platform("x86_64", expected) == []

    @pytest.mark.parametrize("expected", ["aarch64", "linux/arm64", "x86"])
    def test_other(self, expected: str) -> None:
        assert machine_of(expected) in check_platform("x86_64", expected)[0].what


class TestVersion:
    @pytest.mark.parametrize(
        ("older", "newer"),
        [("19.03.8", "20.10"), ("20.10.24+dfsg1", "23"), ("9.9", "20.10"), ("28.5.2", "29.0.0-rc.1")],
    )
    def test_order(self, older: str, newer: str) -> None:
        assert version_of(older) < version_of(newer)

    def test_trailing_zeros_do_not_count(self) -> None:
        assert version_of("23") == version_of("23.0.0")

    @given(st.lists(st.integers(0, 99), min_size=1, max_size=3), st.sampled_from(["", "+dfsg1", "-rc.1", "~ds1"]))
    def test_suffix_does_not_count(self, numbers: list[int], suffix: str) -> None:
        text = ".".join(map(str, numbers))
        assert version_of(text + suffix) == version_of(text)

    def test_no_version(self) -> None:
        with pytest.raises(ValueError, match="must begin with a number"):
            version_of("new")


class TestEngine:
    def check(
        self, state: EngineState, *, systemd: bool = True, engine: str = "optional", minimum: str = "20.10"
    ) -> str:
        """Return what the problem is; empty if there is none."""
        found = check_engine(state, systemd, Expectation(engine=engine, engine_minimum=minimum))
        return found[0].what if found else ""

    def test_old(self) -> None:
        assert self.check(replace(ANSWERING, version="20.10.0")) == ""
        assert "too old: 19.03.8" in self.check(replace(ANSWERING, version="19.03.8"))
        assert "too old: 9.1" in self.check(replace(ANSWERING, version="9.1"))

    def test_missing(self) -> None:
        assert self.check(MISSING) == ""
        assert self.check(MISSING, engine="required") == "there is no Docker Engine"
        assert "no systemd" in self.check(MISSING, systemd=False)

    def test_stopped_is_a_problem_only_if_required_or_without_systemd(self) -> None:
        assert self.check(STOPPED) == ""
        assert "does not answer" in self.check(STOPPED, engine="required")
        assert "does not answer" in self.check(STOPPED, systemd=False)

    def test_active_but_silent(self) -> None:
        assert "does not answer" in self.check(replace(STOPPED, active=True))

    def test_daemon_without_a_client_is_no_problem_because_the_role_installs_it(self) -> None:
        assert self.check(replace(STOPPED, client=False, active=True)) == ""

    def test_refused_user(self) -> None:
        assert "refuses the login user" in self.check(replace(STOPPED, failure="Permission denied … docker.sock"))

    def test_state_of_a_stopped_one(self, host: Invented) -> None:
        host.information = None
        host.unit = "LoadState=loaded\nActiveState=failed\nUnitFileState=disabled\n"
        host.write("/var/lib/dpkg/info/docker.io.list", "")
        state = host.engine()
        assert (state.answers, state.unit, state.active, state.enabled) == (False, True, False, False)
        assert state.failure == "Cannot connect to the Docker daemon"
        assert state.package == "docker.io"

    def test_removed_package_is_not_reported_as_the_engine_s(self, host: Invented) -> None:
        host.write("/var/lib/dpkg/info/docker.io.list", "")
        host.programs = {"docker"}
        assert host.engine().package == ""

    def test_images_of_containerd_are_in_another_directory(self, host: Invented) -> None:
        host.information = {**INFORMATION, "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
        assert host.engine().image_root == Path("/var/lib/docker")
        host.at("/var/lib/containerd").mkdir(parents=True)
        assert host.engine().image_root == Path("/var/lib/containerd")

    def test_through_a_real_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = tmp_path / "bin" / "docker"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho '{json.dumps({**INFORMATION, 'ServerVersion': '19.03.8'})}'\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        findings = examine(Host(tmp_path, run), Expectation(engine_minimum="20.10"))
        assert any("too old: 19.03.8" in problem.what for problem in findings.problems)
        assert findings.facts["engine_version"] == "19.03.8"


class TestSpace:
    def test_nearest_existing_parent(self, host: Invented) -> None:
        host.at("/srv").mkdir()
        assert host.existing("/srv/hostwright/data") == Path("/srv")
        assert host.existing("/nowhere/at/all") == Path("/")

    def test_needs_of_one_file_system_add_up(self, host: Invented) -> None:
        host.systems["/"] = Filesystem(1, 1_500 * preflight.MEGABYTE)
        each = (Space("engine", 1_000), Space("/srv", 1_000))
        assert check_space(host, each[:1], ANSWERING)[0] == check_space(host, each[1:], ANSWERING)[0] == []
        (problem,) = check_space(host, each, ANSWERING)[0]
        assert problem.what == "not enough disk space: 2000 MB needed, 1500 MB free"
        assert problem.where == "/var/lib/docker (1000 MB), /srv (1000 MB)"
        host.at("/srv").mkdir()
        host.systems["/srv"] = Filesystem(2, 1_500 * preflight.MEGABYTE)
        assert check_space(host, each, ANSWERING)[0] == []

    def test_the_engines_real_data_root_counts(self, host: Invented) -> None:
        host.at("/mnt/docker").mkdir(parents=True)
        host.systems["/mnt"] = Filesystem(2, 1)
        assert check_space(host, [Space("engine", 1)], ANSWERING)[0] == []
        moved = replace(ANSWERING, image_root=Path("/mnt/docker"))
        assert check_space(host, [Space("engine", 1)], moved)[0][0].where == "/mnt/docker (1 MB)"

    def test_the_configured_data_root_counts_while_the_engine_is_stopped(self, host: Invented) -> None:
        host.at("/mnt").mkdir()
        host.systems["/mnt"] = Filesystem(2, 1)
        host.write("/etc/docker/daemon.json", '{"data-root": "/mnt/docker"}')
        assert check_space(host, [Space("engine", 1)], STOPPED)[0][0].where == "/mnt/docker (1 MB)"

    @pytest.mark.parametrize(
        ("system", "what"),
        [
            (Filesystem(1, 10**12, 10), "not enough free inodes"),
            (Filesystem(1, 10**12, None, read_only=True), "mounted read-only"),
        ],
    )
    def test_other_reasons(self, host: Invented, system: Filesystem, what: str) -> None:
        host.systems["/"] = system
        assert what in check_space(host, [Space("/srv", 1)], ANSWERING)[0][0].what

    def test_a_file_instead_of_a_directory(self, host: Invented) -> None:
        host.write("/srv", "")
        assert check_space(host, [Space("/srv/hostwright", 1)], ANSWERING)[0][0].what == "/srv is not a directory"

    def test_this_machine(self) -> None:
        system = Host().filesystem(Path("/tmp"))
        assert system.free > 0
        assert not system.read_only


class TestPorts:
    def test_free(self, host: Invented) -> None:
        host.sockets = (Listener(8080, ANY, "1"),)
        assert check_ports(host, [80, 443], "hostwright-nginx", ANSWERING) == []

    def test_program(self, host: Invented) -> None:
        host.sockets = (Listener(80, ANY, "1"), Listener(443, "::", "2"))
        host.processes = {"1": Process(812, "apache2")}
        first, second = check_ports(host, [80, 443], "hostwright-nginx", ANSWERING)
        assert (first.what, first.where) == ("TCP port 80 is taken", "apache2 (pid 812) listening on 0.0.0.0:80")
        assert second.where == "a program listening on [::]:443"

    def test_only_the_given_container_may_publish_the_port(self, host: Invented) -> None:
        host.sockets = (Listener(80, ANY, "1"),)
        host.processes = {"1": Process(9, "docker-proxy")}
        host.ps = "hostwright-nginx\t0.0.0.0:80->8080/tcp, :::80->8080/tcp\n"
        assert check_ports(host, [80], "hostwright-nginx", ANSWERING) == []
        (problem,) = check_ports(host, [80], "other", ANSWERING)
        assert problem.where == "the container 'hostwright-nginx' publishes it"

    def test_port_of_a_container_without_a_proxy_process_is_taken_too(self, host: Invented) -> None:
        host.ps = "stranger\t127.0.0.1:80->80/tcp\n"
        assert "docker stop stranger" in check_ports(host, [80], "hostwright-nginx", ANSWERING)[0].do

    def test_published(self) -> None:
        listed = (
            "a\t0.0.0.0:80->8080/tcp, [::]:80->8080/tcp, 53/udp, 0.0.0.0:53->53/udp\nb\t0.0.0.0:8000-8002->1-3/tcp\n"
        )
        assert parse_published(listed + "c\t\nd\t8080/tcp\n") == {80: "a", 8000: "b", 8001: "b", 8002: "b"}

    @pytest.mark.parametrize(
        ("family", "address", "shown"),
        [(socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::1", "::1"), (socket.AF_INET6, "::", "::")],
    )
    def test_real_sockets_name_this_process(self, family: int, address: str, shown: str) -> None:
        machine = Host()
        with socket.socket(family) as server:
            try:
                server.bind((address, 0))
            except OSError:
                pytest.skip("this machine has no such address")
            server.listen()
            port = server.getsockname()[1]
            (listener,) = [entry for entry in machine.listeners() if entry.port == port]
            assert listener.address == shown
            holder = machine.holders([listener.inode])[listener.inode]
            assert holder.pid == os.getpid()
            (problem,) = check_ports(machine, [port], "", MISSING)
            assert f"(pid {os.getpid()})" in problem.where
        assert check_ports(machine, [port], "", MISSING) == []

    def test_only_listening_sockets_count(self) -> None:
        table = (
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
            "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
            "   1: 0100007F:0051 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n"
        )
        assert [(entry.port, entry.inode) for entry in parse_listeners(table)] == [(80, "4711")]


class TestRest:
    def test_interrupted_package_manager(self, host: Invented) -> None:
        assert not host.package_interrupted
        host.write("/var/lib/dpkg/updates/tmp.i", "")
        assert not host.package_interrupted
        host.write("/var/lib/dpkg/updates/0001", "")
        assert host.package_interrupted

    @pytest.mark.parametrize("check", [Host.missing_users, Host.outside_group])
    def test_accounts_of_this_machine(self, check: Callable[..., tuple[str, ...]]) -> None:
        arguments = ["root"] if check is Host.outside_group else []
        assert check(Host(), ["root"], *arguments) == ()
        assert check(Host(), ["no-such-user"], *arguments) == ("no-such-user",)

    def test_missing_group_has_no_members(self) -> None:
        assert Host().outside_group(["root"], "no-such-group") == ("root",)

    def test_one_problem(self) -> None:
        assert report([Problem("a", "b", "c")], "h") == (
            "1 problem on host h; nothing was changed.\n1. a\n   where: b\n   what to do: c"
        )

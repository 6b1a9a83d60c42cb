"""The audit from inside: hosts invented in a directory, with invented answers of docker, ip, sshd and apt."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.audit import inside
from ansible_collections.hostwright.django.plugins.module_utils.audit.inside import (
    AuditedHost,
    Container,
    Inspection,
    Program,
    check_containers,
    check_ssh,
    container_of,
    find_open_ports,
    gives_engine,
    inspect,
    parse_addresses,
    parse_bridges,
    parse_containers,
    parse_upgrades,
    unit_of,
)
from ansible_collections.hostwright.django.plugins.module_utils.audit.judge import FAIL, WARN, Finding, OpenPort, Port
from ansible_collections.hostwright.django.plugins.module_utils.host.preflight import Listener, Process
from ansible_collections.hostwright.django.plugins.module_utils.host.process import NOT_FOUND, Answer

NOW = 1_795_000_000.0  # 2026-11-18
DAY = 86_400.0
ANY = "0.0.0.0"  # noqa: S104 (seen, not bound)
ID = "d" * 64
DOCKER = {
    "Id": ID,
    "Name": "/db",
    "Config": {"Image": "postgres:17"},
    "HostConfig": {"Privileged": False, "NetworkMode": "default"},
    "NetworkSettings": {
        "Ports": {
            "5432/tcp": [{"HostIp": ANY, "HostPort": "5432"}, {"HostIp": "::", "HostPort": "5432"}],
            "8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}],
            "53/udp": [{"HostIp": "", "HostPort": "5353"}],
            "9000/tcp": None,
        }
    },
    "Mounts": [{"Type": "bind", "Source": "/srv/db", "Destination": "/data"}],
}
NETWORKS = [
    {"Id": "a" * 64, "Options": {"com.docker.network.bridge.name": "docker0"}},
    {"Id": "b" * 64, "Options": None},
]
INTERFACES = [
    {"ifname": "eth0", "addr_info": [
        {"family": "inet", "local": "203.0.113.5"},
        {"family": "inet6", "local": "2001:db8::5"},
        {"family": "inet6", "local": "2001:db8::f00", "temporary": True},
        {},
    ]},
    {"ifname": "docker0", "addr_info": [{"family": "inet", "local": "172.17.0.1"}]},
    {"ifname": f"br-{'b' * 12}", "addr_info": [{"family": "inet", "local": "172.18.0.1"}]},
]  # fmt: skip
SSHD = "port 22\npermitrootlogin without-password\npasswordauthentication no\nkbdinteractiveauthentication no\n"
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41 1 0 100 0 0 10 0
   1: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 42 1 0 100 0 0 10 0
"""
UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  1: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 43 2 0 0
  2: 050071CB:D431 08080808:0035 01 00000000:00000000 00:00000000 00000000     0        0 44 2 0 0
"""
UPGRADES = """\
NOTE: This is only a simulation!
Inst base-files [13.8] (13.8+deb13u1 Debian:13.1/stable [amd64])
Inst openssl [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])
Inst linux-image-6.12-amd64 (6.12.48-1 Debian-Security:13/stable-security [amd64]) []
Inst curl [8.5.0-2ubuntu10.1] (8.5.0-2ubuntu10.6 Ubuntu:24.04/noble-updates, Ubuntu:24.04/noble-security [amd64])
Conf openssl (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])
"""


class Invented(AuditedHost):
    """A host without faults in a directory, with answers to the commands that the audit runs."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, self._run)
        self.answers: dict[str, Answer] = {
            "docker info": Answer(0, json.dumps({"ServerVersion": "26.1.5"})),
            "ip -json": Answer(0, json.dumps(INTERFACES)),
            "docker network": Answer(0, json.dumps(NETWORKS)),
            "sshd -T": Answer(0, SSHD),
            "systemctl is-active": Answer(3, "inactive\n"),
            "docker exec": Answer(0, "3.53.4\n"),
        }
        self.asked: list[Sequence[str]] = []
        self.processes: dict[str, Process] = {}
        self.write("run/systemd/system/x", "")
        self.write("var/lib/apt/lists/partial", "", age=DAY)
        self.write("var/lib/apt/lists/mirror.example_debian_dists_trixie_InRelease", "", age=90 * DAY)
        self.write("srv/hostwright/web/polls/run/current/release.json", '{"container": "polls-7"}')
        self.write("srv/hostwright/config/polls/backup.json", '{"directory": "/var/backups/hostwright/polls"}')

    def write(self, path: str, text: str, mode: int = 0o600, age: float = 0) -> Path:
        """Put a file on the host."""
        file = self.at(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        os.utime(file, (NOW - age, NOW - age))
        return file

    def runs(self, *containers: dict[str, Any]) -> None:
        """Set the running containers."""
        self.answers["docker ps"] = Answer(0, "\n".join(one["Id"] for one in containers))
        self.answers["docker container"] = Answer(0, json.dumps(containers))

    def _run(self, command: Sequence[str]) -> Answer:
        self.asked.append(command)
        return self.answers.get(" ".join(command[:2]), Answer(NOT_FOUND))

    @property
    def now(self) -> float:
        return NOW

    def has(self, program: str) -> bool:
        return program in {"docker", "dockerd"}

    def holders(self, inodes: Iterable[str]) -> dict[str, Process]:
        return {inode: self.processes[inode] for inode in inodes if inode in self.processes}


@pytest.fixture
def host(tmp_path: Path) -> Invented:
    """A host without faults."""
    return Invented(tmp_path)


@pytest.fixture(autouse=True)
def owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the user who runs the tests own the secrets."""
    monkeypatch.setattr(inside, "OWNERS", (os.getuid(),))


def inspected(host: AuditedHost, *trusted: str) -> Inspection:
    return inspect(host, "20.10", trusted)


def found(host: AuditedHost) -> list[tuple[str, str]]:
    """Severity, what and who of every finding."""
    return [(finding.severity, f"{finding.what}: {finding.who}") for finding in inspected(host).findings]


class TestInspection:
    def test_host_without_faults_has_no_finding(self, host: Invented) -> None:
        seen = inspected(host)
        assert seen.findings == ()
        assert (seen.addresses, seen.ssh_ports, seen.held) == (("203.0.113.5", "2001:db8::5"), (22,), ())
        assert seen.notes == {
            "containers": "0 running, 0 of them publish ports to others",
            "engine": "Docker 26.1.5, at least 20.10 required",
            "secrets": "0 files and directories",
            "certificates": "none",
            "SQLite": "3.53.4 in polls-7",
            "SSH": "port 22, password login no, root login without-password",
            "security upgrades": "0 wait; package lists refreshed 1.0 days ago",
            "firewall": "none detected",
            "UDP (not tried from outside)": "none open to others",
        }

    def test_nothing_is_changed(self, host: Invented, tmp_path: Path) -> None:
        before = sorted(str(path) for path in tmp_path.rglob("*"))
        inspected(host)
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before
        readers = {"docker ps", "docker container", "nft list", "iptables -S", "systemctl show", "apt-get --simulate"}
        assert {" ".join(command[:2]) for command in host.asked} <= readers | set(host.answers)

    def test_each_open_port_names_its_container_or_program(self, host: Invented) -> None:
        host.runs(DOCKER)
        host.write("proc/net/tcp", TCP)
        host.write("proc/net/udp", UDP)
        host.write("proc/7/cgroup", "0::/system.slice/redis-server.service\n")
        host.processes = {"41": Process(7, "redis-server"), "43": Process(8, "dhclient")}
        close = "have it listen on 127.0.0.1, or 'systemctl disable --now redis-server.service'"
        assert inspected(host).held == (
            OpenPort(
                Port(5432),
                (ANY, "::"),
                "container db (postgres:17)",
                True,
                "publish it on 127.0.0.1:5432 instead of 0.0.0.0:5432, or not at all",
            ),
            OpenPort(
                Port(5353, "udp"),
                (ANY,),
                "container db (postgres:17)",
                True,
                "publish it on 127.0.0.1:5353 instead of 0.0.0.0:5353, or not at all",
            ),
            OpenPort(Port(6379), (ANY,), "redis-server (pid 7) of redis-server.service", False, close),
            OpenPort(Port(68, "udp"), (ANY,), "dhclient (pid 8)", False, "have it listen on 127.0.0.1, or stop it"),
        )
        notes = inspected(host).notes
        assert notes["containers"] == "1 running, 1 of them publish ports to others"
        assert notes["UDP (not tried from outside)"] == "68, 5353 open to others"

    @pytest.mark.parametrize(("address", "outer"), [("057100CB", True), ("010011AC", False)])
    def test_port_on_an_address_of_the_engines_networks_is_not_open(
        self, host: Invented, address: str, outer: bool
    ) -> None:
        host.write("proc/net/tcp", TCP.replace("00000000:18EB", f"{address}:18EB"))
        assert [one.addresses for one in inspected(host).held] == ([("203.0.113.5",)] if outer else [])

    def test_engine_that_does_not_answer(self, host: Invented) -> None:
        host.answers["docker info"] = Answer(1, "", "Cannot connect to the Docker daemon\n")
        host.answers["systemctl show"] = Answer(0, "LoadState=loaded\nActiveState=active\n")
        seen = inspected(host)
        assert [finding.severity for finding in seen.findings] == [FAIL]
        assert seen.notes["engine"] == "no Docker Engine answers"

    def test_old_engine(self, host: Invented) -> None:
        host.answers["docker info"] = Answer(0, json.dumps({"ServerVersion": "19.03.8"}))
        assert found(host) == [(FAIL, "the Docker Engine is too old: 19.03.8; 20.10 or newer is needed: docker info")]


class TestOpenPorts:
    def test_proxy_of_a_published_port_is_reported_as_its_container(self) -> None:
        (container,) = parse_containers(json.dumps([DOCKER]))
        proxy = Listener(5432, ANY, "1")
        held = find_open_ports([container], [("tcp", proxy)], {"1": Program(9, "docker-proxy")}, ())
        assert [one.who for one in held if one.port.number == 5432] == ["container db (postgres:17)"]

    def test_proxy_without_a_container_is_named(self) -> None:
        (held,) = find_open_ports([], [("tcp", Listener(5432, ANY, "1"))], {"1": Program(9, "docker-proxy")}, ())
        assert held.who == "docker-proxy (pid 9)"

    def test_other_program_on_a_published_port_is_named_too(self) -> None:
        (container,) = parse_containers(json.dumps([DOCKER]))
        held = find_open_ports(
            [container], [("tcp", Listener(5432, "10.0.0.5", "1"))], {"1": Program(9, "postgres")}, ()
        )
        assert [one.who for one in held if one.port.number == 5432] == [
            "container db (postgres:17)",
            "postgres (pid 9)",
        ]

    def test_ipv6_address_is_written_in_brackets_as_for_docker(self) -> None:
        container = Container(ID, "db", "postgres:17", {Port(5432): ("::",)})
        (held,) = find_open_ports([container], [], {}, ())
        assert held.close == "publish it on 127.0.0.1:5432 instead of [::]:5432, or not at all"

    def test_program_in_a_container_with_the_hosts_network(self) -> None:
        container = Container(ID, "monitor", "netdata:2", host_network=True)
        (held,) = find_open_ports(
            [container], [("tcp", Listener(19999, "::", "1"))], {"1": Program(9, "netdata", "", ID)}, ()
        )
        assert held.who == "netdata (pid 9) in container monitor (netdata:2)"

    @pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.53", "::1", "::ffff:127.0.0.1", "172.17.0.1"])
    def test_port_that_other_machines_cannot_reach_is_left_out(self, address: str) -> None:
        assert find_open_ports([], [("tcp", Listener(5432, address, "1"))], {}, ["172.17.0.1"]) == ()

    def test_socket_without_a_program(self) -> None:
        (held,) = find_open_ports([], [("tcp", Listener(2049, "::", "0"))], {}, ())
        assert held.who == "the kernel or an unknown program"

    def test_same_program_on_ipv4_and_ipv6_is_one_open_port(self) -> None:
        sockets = [("tcp", Listener(6379, ANY, "1")), ("tcp", Listener(6379, "::", "2"))]
        (held,) = find_open_ports([], sockets, dict.fromkeys(("1", "2"), Program(9, "redis")), ())
        assert held.addresses == (ANY, "::")


class TestParsing:
    @pytest.mark.parametrize(
        ("groups", "unit", "container"),
        [
            ("0::/system.slice/ssh.service\n", "ssh.service", ""),
            ("0::/system.slice/system-postgresql.slice/postgresql@17-main.service\n", "postgresql@17-main.service", ""),
            (f"0::/system.slice/docker-{ID}.scope\n", "", ID),
            (f"12:pids:/docker/{'e' * 64}/docker/{ID}\n", "", ID),
            ("0::/user.slice/user-0.slice/session-1.scope\n", "", ""),
            ("", "", ""),
        ],
    )
    def test_cgroup(self, groups: str, unit: str, container: str) -> None:
        assert (unit_of(groups), container_of(groups)) == (unit, container)

    @pytest.mark.parametrize(
        "source", ["/var/run/docker.sock", "/run/docker.sock", "/run", "/var/run/", "/", "/run/containerd"]
    )
    def test_mount_that_gives_the_engine(self, source: str) -> None:
        assert gives_engine(source)

    @pytest.mark.parametrize("source", ["", "/srv", "/run/docker", "/run/hostwright", "/var/lib", "/var/runner"])
    def test_mount_that_does_not_give_the_engine(self, source: str) -> None:
        assert not gives_engine(source)

    def test_addresses_of_the_engines_networks_are_not_scanned(self) -> None:
        bridges = parse_bridges(json.dumps(NETWORKS))
        assert bridges == ("docker0", "br-bbbbbbbbbbbb")
        addresses = parse_addresses(json.dumps(INTERFACES), bridges)
        assert [address for address, outer in addresses.items() if outer] == ["203.0.113.5", "2001:db8::5"]
        assert {"172.17.0.1", "172.18.0.1", "2001:db8::f00"} <= set(addresses)

    @pytest.mark.parametrize("text", ["", "not JSON", '{"message": "no"}'])
    def test_unusable_output_is_parsed_as_empty(self, text: str) -> None:
        assert parse_containers(text) == ()
        assert parse_bridges(text) == ()
        assert parse_addresses(text, ()) == {}

    def test_security_upgrades_are_distinguished_from_others(self) -> None:
        assert parse_upgrades(UPGRADES) == ["openssl", "linux-image-6.12-amd64", "curl"]


class TestContainers:
    def findings(self, *trusted: str, **changes: Any) -> list[Finding]:
        one = {**DOCKER, **changes}
        return check_containers(parse_containers(json.dumps([one])), trusted)

    def test_ordinary_container(self) -> None:
        assert self.findings() == []

    def test_socket(self) -> None:
        mounts = [{"Type": "bind", "Source": "/var/run/docker.sock"}, {"Type": "tmpfs"}]
        (finding,) = self.findings(Mounts=mounts)
        assert (finding.severity, finding.who) == (FAIL, "container db (postgres:17) mounts /var/run/docker.sock")
        assert self.findings("db", Mounts=mounts) == []

    @pytest.mark.parametrize("capability", ["ALL", "SYS_ADMIN", "CAP_SYS_MODULE", "DAC_READ_SEARCH"])
    def test_capability_as_good_as_all_privileges(self, capability: str) -> None:
        (finding,) = self.findings(HostConfig={"CapAdd": ["NET_BIND_SERVICE", capability]})
        assert (finding.severity, capability in finding.who) == (FAIL, True)

    def test_harmless_capability(self) -> None:
        assert self.findings(HostConfig={"CapAdd": ["NET_BIND_SERVICE"], "PidMode": ""}) == []

    def test_processes_of_the_host(self) -> None:
        assert [finding.severity for finding in self.findings(HostConfig={"PidMode": "host"})] == [WARN]

    def test_privileged(self) -> None:
        (finding,) = self.findings(HostConfig={"Privileged": True})
        assert (finding.severity, finding.who) == (FAIL, "container db (postgres:17)")

    def test_network_of_the_host(self) -> None:
        assert [finding.severity for finding in self.findings(HostConfig={"NetworkMode": "host"})] == [WARN]


class TestSecrets:
    @pytest.mark.parametrize(
        ("path", "mode"),
        [
            ("srv/hostwright/config/polls/secrets/7/PAYMENT_KEY", 0o644),
            ("srv/hostwright/config/polls/secrets/secret_key", 0o604),
            ("run/hostwright/secrets/polls/7/PAYMENT_KEY", 0o640),
            ("srv/hostwright/nginx/tls/polls/privkey.pem", 0o440),
            ("srv/hostwright/nginx/acme/config/archive/polls/privkey1.pem", 0o644),
            ("srv/hostwright/nginx/acme/config/accounts/ca/directory/1/private_key.json", 0o444),
            ("etc/hostwright/polls.restic", 0o644),
            ("var/backups/hostwright/polls/20261122T203000Z-r7.config.tar", 0o644),
            ("var/backups/hostwright/polls/20261122T203000Z-r7.sqlite3.zst", 0o644),
            ("srv/hostwright/data/polls", 0o755),
        ],
    )
    def test_secret_that_others_may_read_is_named(self, host: Invented, path: str, mode: int) -> None:
        file = host.write(path, "secret", mode)
        for directory in file.parents:
            if directory != host.root and directory.is_relative_to(host.root):
                directory.chmod(0o700)
        ((severity, text),) = found(host)
        who = "others" if mode & 0o007 else "its group"
        assert (severity, text) == (FAIL, f"{who} may read or change what is secret: /{path} has mode {mode:04o}")
        file.chmod(mode & 0o700)
        assert found(host) == []

    def test_directory_of_secrets_is_checked_too(self, host: Invented) -> None:
        host.write("srv/hostwright/config/polls/secrets/secret_key", "secret")
        host.at("srv/hostwright/config/polls/secrets").chmod(0o701)
        ((_, text),) = found(host)
        assert text.endswith("/srv/hostwright/config/polls/secrets has mode 0701")

    def test_secret_of_another_user(self, host: Invented, monkeypatch: pytest.MonkeyPatch) -> None:
        host.write("etc/hostwright/polls.json", "{}")
        monkeypatch.setattr(inside, "OWNERS", (os.getuid() + 1,))
        ((severity, text),) = found(host)
        assert (severity, text.partition(":")[0]) == (FAIL, f"a secret belongs to user {os.getuid()}")

    def test_mode_of_a_symlink_is_ignored(self, host: Invented) -> None:
        link = host.at("etc/hostwright/polls.json")
        link.parent.mkdir(parents=True)
        link.symlink_to("/nowhere")
        assert found(host) == []


class TestCertificates:
    def ends(self, host: Invented, days: float) -> list[tuple[str, str]]:
        end = time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(NOW + days * DAY))
        host.write("srv/hostwright/nginx/tls/polls/fullchain.pem", "PEM", 0o644)
        host.answers["openssl x509"] = Answer(0, f"notAfter={end}\n")
        return found(host)

    def test_expiry(self, host: Invented) -> None:
        assert self.ends(host, 15) == []
        assert inspected(host).notes["certificates"] == "polls until 2026-12-03"
        ((severity, text),) = self.ends(host, 13.1)
        assert (severity, text.partition(":")[0]) == (WARN, "a certificate expires in 13 days")
        ((severity, text),) = self.ends(host, -0.1)
        assert severity == FAIL
        assert text == "a certificate has expired: /srv/hostwright/nginx/tls/polls/fullchain.pem, on 2026-11-18"

    def test_unreadable_certificate(self, host: Invented) -> None:
        host.write("srv/hostwright/nginx/tls/polls/fullchain.pem", "no PEM", 0o644)
        assert [severity for severity, _ in found(host)] == [WARN]


class TestSqlite:
    def test_affected_version(self, host: Invented) -> None:
        said = "Traceback\nhostwright.errors.HostwrightError: SQLite 3.46.1 can corrupt a database in WAL mode\n"
        host.answers["docker exec"] = Answer(1, "", said)
        assert found(host) == [(FAIL, "SQLite 3.46.1 can corrupt a database in WAL mode: container polls-7")]

    def test_container_that_does_not_run(self, host: Invented) -> None:
        host.answers["docker exec"] = Answer(1, "", "Error response from daemon: container polls-7 is not running\n")
        ((severity, text),) = found(host)
        assert severity == WARN
        assert "polls-7 is not running" in text
        host.answers["docker exec"] = Answer(1)
        assert found(host) == [(WARN, "the live release's SQLite version is unknown: polls-7: no answer")]

    def test_record_that_cannot_be_read(self, host: Invented) -> None:
        host.write("srv/hostwright/web/polls/run/current/release.json", "{")
        assert inspected(host).notes["SQLite"] == "no live release"


class TestSsh:
    @pytest.mark.parametrize("keyword", ["passwordauthentication", "kbdinteractiveauthentication"])
    def test_password(self, host: Invented, keyword: str) -> None:
        host.answers["sshd -T"] = Answer(0, SSHD.replace(f"{keyword} no", f"{keyword} yes") + "port 2222\n")
        seen = inspected(host)
        assert [(finding.severity, finding.who) for finding in seen.findings] == [(WARN, f"sshd -T: {keyword} yes")]
        assert seen.findings[0].what == "SSH accepts passwords"
        assert seen.notes["SSH"] == "port 22, 2222, password login yes, root login without-password"
        assert seen.ssh_ports == (22, 2222)

    def test_root_with_a_password(self) -> None:
        ((finding,), _) = check_ssh({"passwordauthentication": ["yes"], "permitrootlogin": ["yes"]})
        assert finding.what == "SSH accepts passwords, for root too"

    def test_no_server(self) -> None:
        assert check_ssh({}) == ([], "no OpenSSH server")


class TestUpgrades:
    def test_waiting(self, host: Invented) -> None:
        host.answers["apt-get --simulate"] = Answer(0, UPGRADES)
        assert found(host) == [(WARN, "3 security upgrades wait: openssl, linux-image-6.12-amd64, curl")]

    def test_old_package_lists_are_a_warning(self, host: Invented) -> None:
        host.write("var/lib/apt/lists/partial", "", age=9 * DAY)
        what = "it is unknown whether security upgrades wait: the package lists were refreshed 9.0 days ago"
        assert found(host) == [(WARN, what)]
        host.write("var/lib/apt/lists/partial", "")
        host.at("var/lib/apt/lists/mirror.example_debian_dists_trixie_InRelease").unlink()
        assert found(host)[0][1].endswith("the package lists were never refreshed")
        host.write("var/lib/apt/lists/mirror.example_debian_dists_trixie_InRelease", "")
        host.at("var/lib/apt/lists/partial").unlink()
        assert found(host)[0][1].endswith("the package lists were never refreshed")

    def test_five_of_many_are_named(self, host: Invented) -> None:
        lines = [f"Inst p{number} (1 Debian-Security:13/stable-security [amd64])\n" for number in range(7)]
        for count, end in ((5, "p4"), (6, "p4 and 1 more"), (7, "p4 and 2 more")):
            host.answers["apt-get --simulate"] = Answer(0, "".join(lines[:count]))
            assert found(host) == [(WARN, f"{count} security upgrades wait: p0, p1, p2, p3, {end}")]


class TestFirewall:
    @pytest.mark.parametrize(
        ("answers", "ufw", "name"),
        [
            ({"nft list": "table inet hostwright\n"}, "yes", "Hostwright's own"),
            ({"nft list": "table ip nat\n"}, "yes", "ufw"),
            ({"systemctl is-active": "active\n"}, "no", "firewalld"),
            ({"iptables -S": "-P INPUT DROP\n"}, "no", "other rules"),
            ({"iptables -S": "-P INPUT ACCEPT\n"}, "no", ""),
        ],
    )
    def test_kind(self, host: Invented, answers: dict[str, str], ufw: str, name: str) -> None:
        host.answers |= {command: Answer(0, text) for command, text in answers.items()}
        host.write("etc/ufw/ufw.conf", f"# ENABLED=yes\nENABLED={ufw}\n")
        assert host.firewall().partition(" (")[0] == name
        assert inspected(host).notes["firewall"].partition(" (")[0] == (name or "none detected")

"""The audit of a host from inside: open ports, rights of containers, modes of secrets, outdated software.

Changes nothing. Reading (``AuditedHost``) is separate from judging, so that the tests can judge invented hosts.
"""

from __future__ import annotations

import json
import re
import ssl
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..contract import APP_UID, CERTIFICATE_DAYS, NGINX_UID
from ..host.preflight import Expectation, Host, Listener, check_engine, parse_listeners
from .judge import FAIL, WARN, Finding, OpenPort, Port

DAY = 86_400.0
# Maximum age of the package lists: apt-daily.timer refreshes them once a day, up to twelve hours late.
LISTS_DAYS = 2
# Forbidden mode bits.
GROUP_AND_OTHERS = 0o077
OTHERS = 0o007
OWNERS = (0, APP_UID, NGINX_UID)  # root, the sites, Nginx
PROXY = "docker-proxy"
PASSWORDS = ("passwordauthentication", "kbdinteractiveauthentication")
# With one of these a container can escape: it can load kernel modules, mount file systems or read any file of the host.
ROOT_CAPABILITIES = ("ALL", "SYS_ADMIN", "SYS_MODULE", "DAC_READ_SEARCH")
SOCKETS = ("/run/docker.sock", "/run/containerd/containerd.sock")
# Paths with the mode bits that they must not have; ** stands for the directory and everything below it.
PRIVATE = (
    ("srv/hostwright/config/*/secrets/**", GROUP_AND_OTHERS),
    ("run/hostwright/secrets/**", GROUP_AND_OTHERS),
    ("srv/hostwright/nginx/tls/*/privkey.pem", GROUP_AND_OTHERS),
    ("srv/hostwright/nginx/acme", GROUP_AND_OTHERS),
    ("srv/hostwright/nginx/acme/config/archive/*/privkey*.pem", GROUP_AND_OTHERS),
    ("srv/hostwright/nginx/acme/config/accounts/**/private_key.json", GROUP_AND_OTHERS),
    ("etc/hostwright/*.json", GROUP_AND_OTHERS),
    ("etc/hostwright/*.restic", GROUP_AND_OTHERS),
    ("srv/hostwright/data/*", OTHERS),
)
BACKUPS = (("*.config.tar", GROUP_AND_OTHERS), ("*.sqlite3.zst", OTHERS))
CERTIFICATES = "srv/hostwright/nginx/tls/*/fullchain.pem"
RECORDS = "srv/hostwright/web/*/run/current/release.json"
LISTS = "var/lib/apt/lists/*Release"
# Every refresh of the package lists updates the time of one of these, even if nothing is new.
REFRESHED = ("var/lib/apt/periodic/update-success-stamp", "var/lib/apt/lists/partial")
SIMULATE = ("apt-get", "--simulate", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "dist-upgrade")


@dataclass(frozen=True)
class Container:
    """A running container. ``published`` maps ports of the host to the addresses that they are published on."""

    id: str
    name: str
    image: str
    published: Mapping[Port, tuple[str, ...]] = field(default_factory=dict)
    privileged: bool = False
    host_network: bool = False
    host_processes: bool = False
    capabilities: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"container {self.name} ({self.image})"


@dataclass(frozen=True)
class Program:
    """A program that listens on a port; ``unit`` and ``container`` are empty if it belongs to none."""

    pid: int
    name: str
    unit: str = ""
    container: str = ""


@dataclass(frozen=True)
class Inspection:
    """Result of ``inspect``: addresses to scan from outside, SSH's ports, open ports, findings, notes by topic."""

    addresses: tuple[str, ...]
    ssh_ports: tuple[int, ...]
    held: tuple[OpenPort, ...]
    findings: tuple[Finding, ...]
    notes: Mapping[str, str]


class AuditedHost(Host):
    """Reads the facts about a host that an audit needs."""

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def udp(self) -> tuple[Listener, ...]:
        """Return every UDP socket that accepts packets from any sender."""
        return tuple(
            listener
            for name in ("udp", "udp6")
            for listener in parse_listeners(self.text(f"proc/net/{name}"), state="07")
        )

    def text(self, path: str) -> str:
        """Return a file's text; empty if it cannot be read."""
        try:
            return self.at(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def programs(self, listeners: Sequence[Listener]) -> dict[str, Program]:
        """Return the programs that own the sockets, by the socket's inode."""
        found: dict[str, Program] = {}
        for inode, process in self.holders(listener.inode for listener in listeners).items():
            groups = self.text(f"proc/{process.pid}/cgroup")
            found[inode] = Program(process.pid, process.name, unit_of(groups), container_of(groups))
        return found

    def containers(self) -> tuple[Container, ...]:
        """Return the running containers."""
        return parse_containers(self._inspected("container", "ps", "--no-trunc"))

    def bridges(self) -> tuple[str, ...]:
        """Return the bridge interfaces of the Engine: only containers can reach a program that listens there."""
        return parse_bridges(self._inspected("network", "network", "ls", "--filter", "driver=bridge"))

    def _inspected(self, kind: str, *listing: str) -> str:
        """Return Docker's JSON for the objects of a listing; empty if there are none."""
        listed = self.run(["docker", *listing, "--quiet"])
        if not listed.ok or not listed.stdout.strip():
            return ""
        # The status is 1 if a container has ended in between; the output has the others.
        return self.run(["docker", kind, "inspect", *listed.stdout.split()]).stdout

    def interfaces(self) -> str:
        """Return the host's global addresses as JSON of ``ip -json address``."""
        return self.run(["ip", "-json", "address", "show", "scope", "global"]).stdout

    def sshd(self) -> dict[str, list[str]]:
        """Return the effective settings of the SSH server by lower-case keyword; empty if there is no server."""
        found: dict[str, list[str]] = {}
        for line in self.run(["sshd", "-T"]).stdout.splitlines():
            key, _, value = line.partition(" ")
            found.setdefault(key.lower(), []).append(value)
        return found

    def firewall(self) -> str:
        """Return the name of the active firewall; empty if none is detected."""
        if "table inet hostwright" in self.run(["nft", "list", "tables"]).stdout:
            return "Hostwright's own (nftables, table inet hostwright)"
        if re.search(r"^ENABLED=yes", self.text("etc/ufw/ufw.conf"), re.MULTILINE):
            return "ufw"
        if self.run(["systemctl", "is-active", "firewalld"]).ok:
            return "firewalld"
        rules = self.run(["iptables", "-S", "INPUT"]).stdout.strip()
        return "" if rules in {"", "-P INPUT ACCEPT"} else "other rules (iptables -S INPUT)"

    def private(self) -> Iterator[tuple[Path, int]]:
        """Yield every private file and directory with the mode bits that it must not have."""
        for pattern, forbidden in PRIVATE:
            inside = pattern.endswith("/**")
            for found in sorted(self.root.glob(pattern.removesuffix("/**"))):
                yield from ((path, forbidden) for path in (found, *(sorted(found.rglob("*")) if inside else ())))
        for directory in self.backups():
            for pattern, forbidden in BACKUPS:
                yield from ((path, forbidden) for path in sorted(directory.glob(pattern)))

    def backups(self) -> Iterator[Path]:
        """Yield the directories of the sites' backups."""
        for settings in sorted(self.root.glob("srv/hostwright/config/*/backup.json")):
            try:
                yield self.at(json.loads(settings.read_text(encoding="utf-8"))["directory"])
            except (OSError, ValueError, KeyError):
                continue  # 'hostwright status' reports it

    def expiry(self, certificate: Path) -> float | None:
        """Return when a certificate expires, in seconds since the epoch; None if it cannot be read."""
        shown = self.run(["openssl", "x509", "-noout", "-enddate", "-in", str(certificate)])
        try:
            return float(ssl.cert_time_to_seconds(shown.stdout.strip().partition("=")[2]))
        except ValueError:
            return None

    def lists_age(self) -> float | None:
        """Return the seconds since the package lists were refreshed; None if they never were."""
        moments = [path.stat().st_mtime for path in map(self.at, REFRESHED) if path.exists()]
        return self.now - max(moments) if moments and any(self.root.glob(LISTS)) else None

    def host_path(self, path: Path) -> str:
        """Return a path as it is on the host, without ``root``."""
        return f"/{path.relative_to(self.root)}"


def unit_of(groups: str) -> str:
    """Return the systemd service named in a process's ``/proc/PID/cgroup``; empty if there is none."""
    found = re.findall(r"/([^/\n]+\.service)(?=/|$)", groups, re.MULTILINE)
    return found[-1] if found else ""


def container_of(groups: str) -> str:
    """Return the id of the innermost container in a process's ``/proc/PID/cgroup``; empty if there is none."""
    found = re.findall(r"[0-9a-f]{64}", groups)
    return found[-1] if found else ""


def parse_containers(inspected: str) -> tuple[Container, ...]:
    """Parse the output of ``docker container inspect``."""
    return tuple(_container(one) for one in _parsed(inspected))


def _container(one: Mapping[str, Any]) -> Container:
    options = one["HostConfig"]
    published: dict[Port, tuple[str, ...]] = {}
    for bindings in (one["NetworkSettings"].get("Ports") or {}).items():
        protocol = bindings[0].partition("/")[2]
        for binding in bindings[1] or ():
            port = Port(int(binding["HostPort"]), protocol)
            published[port] = (*published.get(port, ()), binding["HostIp"] or "0.0.0.0")  # noqa: S104 (seen, not bound)
    return Container(
        id=one["Id"],
        name=one["Name"].lstrip("/"),
        image=one["Config"]["Image"],
        published=published,
        privileged=bool(options.get("Privileged")),
        host_network=options.get("NetworkMode") == "host",
        host_processes=options.get("PidMode") == "host",
        capabilities=tuple(
            name for name in options.get("CapAdd") or () if name.removeprefix("CAP_") in ROOT_CAPABILITIES
        ),
        sockets=tuple(mount["Source"] for mount in one.get("Mounts") or () if gives_engine(mount.get("Source") or "")),
    )


def gives_engine(source: str) -> bool:
    """Whether a mounted path is a socket of the Engine, or a directory that contains one."""
    path = PurePosixPath(re.sub(r"^/var/run(?=/|$)", "/run", source))
    return path.is_absolute() and any(PurePosixPath(socket).is_relative_to(path) for socket in SOCKETS)


def parse_bridges(inspected: str) -> tuple[str, ...]:
    """Return the interface names of the networks in the output of ``docker network inspect``."""
    return tuple(
        (network.get("Options") or {}).get("com.docker.network.bridge.name") or f"br-{network['Id'][:12]}"
        for network in _parsed(inspected)
    )


def parse_addresses(shown: str, without: Sequence[str]) -> dict[str, bool]:
    """Return the addresses in the output of ``ip -json address``, each with whether to scan it from outside.

    Addresses of the interfaces ``without``, and temporary, deprecated and tentative ones are not scanned.
    """
    return {
        address["local"]: interface.get("ifname") not in without
        and not {"temporary", "deprecated", "tentative"} & {key for key, value in address.items() if value is True}
        for interface in _parsed(shown)
        for address in interface.get("addr_info") or ()
        if "local" in address
    }


def _parsed(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return []
    return found if isinstance(found, list) else []


def find_open_ports(
    containers: Sequence[Container],
    sockets: Sequence[tuple[str, Listener]],
    programs: Mapping[str, Program],
    inner: Sequence[str],
) -> tuple[OpenPort, ...]:
    """Return the ports that can be reached from outside the host and its containers.

    Args:
        containers: the running containers.
        sockets: listening sockets, each with its protocol.
        programs: the programs that own the sockets, by inode.
        inner: addresses of the host that only containers can reach.
    """
    found = []
    for container in containers:
        for port, addresses in container.published.items():
            outer = tuple(address for address in addresses if not _is_inner(address, inner))
            if outer:
                name = f"{outer[0]}:{port.number}" if ":" not in outer[0] else f"[{outer[0]}]:{port.number}"
                close = f"publish it on 127.0.0.1:{port.number} instead of {name}, or not at all"
                found.append(OpenPort(port, outer, str(container), True, close))
    published = {one.port for one in found}
    names = {container.id: container for container in containers}
    listening: dict[tuple[Port, str], tuple[str, list[str]]] = {}
    for protocol, listener in sockets:
        port = Port(listener.port, protocol)
        program = programs.get(listener.inode)
        if _is_inner(listener.address, inner) or (program and program.name == PROXY and port in published):
            continue
        who, close = _program(program, names)
        listening.setdefault((port, who), (close, []))[1].append(listener.address)
    for (port, who), (close, seen) in listening.items():
        found.append(OpenPort(port, tuple(dict.fromkeys(seen)), who, False, close))
    return tuple(found)


def _is_inner(address: str, inner: Sequence[str]) -> bool:
    plain = address.removeprefix("::ffff:")
    return plain.startswith("127.") or plain == "::1" or plain in inner


def _program(program: Program | None, containers: Mapping[str, Container]) -> tuple[str, str]:
    """Describe a program, and how to close its port."""
    if program is None:
        return "the kernel or an unknown program", "find out which program it is ('ss -lntup')"
    container = containers.get(program.container)
    if container:
        return f"{program.name} (pid {program.pid}) in {container}", "run that container without --network host"
    if program.unit:
        who = f"{program.name} (pid {program.pid}) of {program.unit}"
        return who, f"have it listen on 127.0.0.1, or 'systemctl disable --now {program.unit}'"
    return f"{program.name} (pid {program.pid})", "have it listen on 127.0.0.1, or stop it"


def check_containers(containers: Sequence[Container], trusted: Sequence[str]) -> list[Finding]:
    """Find containers with rights that are equivalent to root on the host."""
    findings = []
    for container in containers:
        if container.name in trusted:
            continue
        name, sockets, capabilities = str(container), ", ".join(container.sockets), ", ".join(container.capabilities)
        rights = [
            (sockets, FAIL, "has Docker's socket, which makes it root on the host", f"{name} mounts {sockets}",
             "that mount"),
            (container.privileged, FAIL, "is privileged, which makes it root on the host", name, "--privileged"),
            (capabilities, FAIL, "has capabilities that make it root on the host", f"{name}, --cap-add {capabilities}",
             "these capabilities"),
            (container.host_network, WARN, "shares the host's network, so that it can listen on any port", name,
             "--network host"),
            (container.host_processes, WARN, "sees the host's processes, and as the right user can read their secrets",
             name, "--pid host"),
        ]  # fmt: skip
        intended = f"or name {container.name} in audit_containers if this is intended"
        findings += [
            Finding(severity, f"a container {right}", who, f"run it without {option}, {intended}")
            for present, severity, right, who, option in rights
            if present
        ]
    return findings


def check_private(host: AuditedHost) -> tuple[list[Finding], str]:
    """Find secrets, keys and databases that others than their owner may access; return them and a note."""
    findings = []
    number = 0
    for path, forbidden in host.private():
        try:
            status = path.lstat()
        except FileNotFoundError:  # a release or a backup that was removed in between
            continue
        if stat.S_ISLNK(status.st_mode):
            continue
        number += 1
        mode = stat.S_IMODE(status.st_mode)
        if mode & forbidden:
            who = "others" if mode & OTHERS else "its group"
            do = f"chmod {mode & ~forbidden:04o} {host.host_path(path)}; then change the secrets in it"
            findings.append(Finding(FAIL, f"{who} may read or change what is secret", _mode(host, path, mode), do))
        elif status.st_uid not in OWNERS:
            what = f"a secret belongs to user {status.st_uid}"
            findings.append(Finding(FAIL, what, _mode(host, path, mode), f"chown root {host.host_path(path)}"))
    return findings, f"{number} files and directories"


def _mode(host: AuditedHost, path: Path, mode: int) -> str:
    return f"{host.host_path(path)} has mode {mode:04o}"


def check_certificates(host: AuditedHost) -> tuple[list[Finding], str]:
    """Find certificates that have expired or will soon; return the findings and a note."""
    findings: list[Finding] = []
    ends: list[str] = []
    for path in sorted(host.root.glob(CERTIFICATES)):
        end = host.expiry(path)
        where = host.host_path(path)
        if end is None:
            what = "the end date of a certificate cannot be read"
            findings.append(Finding(WARN, what, where, f"see 'openssl x509 -in {where} -noout -text' on the host"))
            continue
        day = time.strftime("%Y-%m-%d", time.gmtime(end))
        left = (end - host.now) / DAY
        ends.append(f"{path.parent.name} until {day}")
        do = "renew it, then deploy; with site_tls: acme, see in 'journalctl -t hostwright' why the renewal failed"
        if left <= 0:
            findings.append(Finding(FAIL, "a certificate has expired", f"{where}, on {day}", do))
        elif left < CERTIFICATE_DAYS:
            findings.append(Finding(WARN, f"a certificate expires in {left:.0f} days", f"{where}, on {day}", do))
    return findings, ", ".join(ends) or "none"


def check_sqlite(host: AuditedHost) -> tuple[list[Finding], str]:
    """Find live releases whose SQLite can corrupt databases, as the runtime in the image judges it."""
    findings: list[Finding] = []
    versions: list[str] = []
    for path in sorted(host.root.glob(RECORDS)):
        try:
            container = json.loads(path.read_text(encoding="utf-8"))["container"]
        except (OSError, ValueError, KeyError):
            continue
        question = "from hostwright.sqlite import require_safe; print(require_safe())"
        answer = host.run(["docker", "exec", container, "python3", "-c", question])
        said = (answer.said.splitlines() or ["no answer"])[-1]
        if answer.ok:
            versions.append(f"{said} in {container}")
        elif "HostwrightError" in said:
            what = said.partition(": ")[2]
            findings.append(
                Finding(FAIL, what, f"container {container}", "raise image_serial and the version, then deploy")
            )
        else:
            do = f"'docker logs {container}' on the host, or deploy"
            findings.append(Finding(WARN, "the live release's SQLite version is unknown", f"{container}: {said}", do))
    return findings, ", ".join(versions) or "no live release"


def check_ssh(settings: Mapping[str, Sequence[str]]) -> tuple[list[Finding], str]:
    """Find out whether SSH accepts passwords; return the findings and a note."""
    if not settings:
        return [], "no OpenSSH server"
    keyword = next((key for key in PASSWORDS if "yes" in settings.get(key, ())), "")
    root = " ".join(settings.get("permitrootlogin", ["unknown"]))
    note = f"port {', '.join(settings.get('port', []))}, password login {'yes' if keyword else 'no'}, root login {root}"
    if not keyword:
        return [], note
    what = "SSH accepts passwords" + (", for root too" if root == "yes" else "")
    do = "run playbooks/harden.yml, or set 'PasswordAuthentication no' in a file in /etc/ssh/sshd_config.d"
    return [Finding(WARN, what, f"sshd -T: {keyword} yes", do)], note


def check_upgrades(host: AuditedHost) -> tuple[list[Finding], str]:
    """Find pending security upgrades, and package lists that are too old to show them."""
    do = "'apt-get update && apt-get upgrade' on the host, or playbooks/harden.yml, which has it done every day"
    findings = []
    age = host.lists_age()
    days = "never refreshed" if age is None else f"refreshed {age / DAY:.1f} days ago"
    if age is None or age > LISTS_DAYS * DAY:
        what = "it is unknown whether security upgrades wait"
        findings.append(Finding(WARN, what, f"the package lists were {days}", do))
    packages = parse_upgrades(host.run(SIMULATE).stdout)
    if packages:
        some = ", ".join(packages[:5]) + (f" and {len(packages) - 5} more" if len(packages) > 5 else "")
        findings.append(Finding(WARN, f"{len(packages)} security upgrades wait", some, do))
    return findings, f"{len(packages)} wait; package lists {days}"


def parse_upgrades(simulated: str) -> list[str]:
    """Return the packages that ``apt-get --simulate`` would install from a security archive.

    A line looks like ``Inst openssl [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])``.
    """
    return re.findall(r"^Inst (\S+) .*\(\S+ [^)]*-security[^)]*\)", simulated, re.MULTILINE | re.IGNORECASE)


def check_version(host: AuditedHost, minimum: str) -> tuple[list[Finding], str]:
    """Compare the Engine's version with the minimum; whether it is still maintained, a host cannot know."""
    engine = host.engine()
    problems = check_engine(engine, host.systemd, Expectation(engine_minimum=minimum))
    note = f"Docker {engine.version}, at least {minimum} required" if engine.answers else "no Docker Engine answers"
    return [Finding(FAIL, problem.what, problem.where, problem.do) for problem in problems], note


def inspect(host: AuditedHost, engine_minimum: str, trusted: Sequence[str]) -> Inspection:
    """Inspect a host and judge everything but the ports: these need the scan from outside too.

    Args:
        host: the host to read.
        engine_minimum: the oldest accepted version of the Docker Engine.
        trusted: names of containers whose rights are intended.

    Raises:
        ValueError: ``engine_minimum`` is not a version.
    """
    containers = host.containers()
    addresses = parse_addresses(host.interfaces(), host.bridges())
    sockets = [("tcp", listener) for listener in host.listeners()] + [("udp", listener) for listener in host.udp()]
    programs = host.programs([listener for _, listener in sockets])
    inner = [address for address, outer in addresses.items() if not outer]
    held = find_open_ports(containers, sockets, programs, inner)
    ssh = host.sshd()
    checked = {
        "containers": (check_containers(containers, trusted), _containers(containers, held)),
        "engine": check_version(host, engine_minimum),
        "secrets": check_private(host),
        "certificates": check_certificates(host),
        "SQLite": check_sqlite(host),
        "SSH": check_ssh(ssh),
        "security upgrades": check_upgrades(host),
        "firewall": ([], host.firewall() or "none detected"),
        "UDP (not tried from outside)": ([], _udp(held)),
    }
    return Inspection(
        tuple(address for address, outer in addresses.items() if outer),
        tuple(int(port) for port in ssh.get("port", ())),
        held,
        tuple(finding for findings, _ in checked.values() for finding in findings),
        {label: note for label, (_, note) in checked.items()},
    )


def _containers(containers: Sequence[Container], ports: Sequence[OpenPort]) -> str:
    publishing = {one.who for one in ports if one.published}
    return f"{len(containers)} running, {len(publishing)} of them publish ports to others"


def _udp(ports: Sequence[OpenPort]) -> str:
    some = sorted({one.port.number for one in ports if one.port.protocol == "udp"})
    return f"{', '.join(map(str, some))} open to others" if some else "none open to others"

"""Firewall and SSH server of a host, changed without locking out the operator.

Rules and settings that would certainly lock out the operator are refused first. Then the dead man's switch (``undo``)
is armed, and the files are written and activated. The operator must confirm the change over a new connection.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..host.files import write_durably
from ..host.problems import Problem, ProblemError
from ..host.process import NOT_FOUND, Answer, Runner
from .ssh_server import Effective, Session, SshServer, drop_in_text
from .undo import Undo

FIREWALL_UNIT = "hostwright-firewall.service"
SSH_UNIT = "ssh.service"
TABLE = ("inet", "hostwright")
SSH_PORTS = "$ssh_ports"  # nftables variable with the ports of SSH
REFUSES = re.compile(r"^(?P<match>.*?)(?:\bcounter\b\s*)?(?:drop|reject(?:\s+with\s.*)?)$")
PORTS = re.compile(r"^tcp dport (?:\{(?P<set>[^}]*)\}|(?P<one>[\w-]+))$")


@dataclass(frozen=True)
class Change:
    """A file's text before and after; None: no file."""

    path: Path
    before: str | None
    after: str | None

    @property
    def real(self) -> bool:
        """Whether the texts differ."""
        return self.before != self.after


@dataclass(frozen=True)
class Outcome:
    """Result of ``apply``; in check mode, what it would be."""

    changed: bool
    ssh_ports: tuple[int, ...]
    changes: tuple[Change, ...]


class HostAccess:
    """Firewall and SSH server of a host; ``root`` is the directory of its files."""

    def __init__(self, run: Runner, session: Session | None, root: Path = Path("/")) -> None:
        self.run = run
        self.session = session
        self.root = root
        self.firewall = root / "etc/hostwright/firewall.nft"
        self.ssh = SshServer(run, root / "etc/ssh")
        self.undo = Undo(root / "etc/hostwright/undo", run)

    def apply(
        self,
        rules: str,
        inside: Sequence[str],
        settings: Mapping[str, str | int | bool],
        seconds: int,
        check: bool,
    ) -> Outcome:
        """Activate rules and settings; they are undone after a time unless ``confirm`` keeps them.

        Args:
            rules: the nftables table, which uses ``$ssh_ports``; empty: no firewall.
            inside: interfaces that the rules do not filter; a final ``*`` matches any ending.
            settings: keywords and values for the SSH server; empty: none.
            seconds: how long to wait for ``confirm``.
            check: whether to refuse and report only, without a change.

        Raises:
            ProblemError: the change is refused or failed; the host is as it was before.
        """
        unconfirmed = self.undo.armed
        if unconfirmed and not check:
            self.undo.undo()
        ports = self._ssh_ports()
        text = f"define ssh_ports = {{ {', '.join(map(str, ports))} }}\n{rules}" if rules else None
        changes = (
            Change(self.firewall, _read(self.firewall), text),
            Change(self.ssh.drop_in, _read(self.ssh.drop_in), drop_in_text(settings) if settings else None),
        )
        effective = self._refuse_settings(settings) if settings else {}
        if text:
            self._refuse_rules(text, ports, inside, check)
        lost = text is not None and not self._table_loaded()
        changed = unconfirmed or lost or any(change.real for change in changes)
        if changed and not check:
            self._commit(changes, lost, {key.lower(): effective.get(key.lower()) for key in settings}, seconds)
        return Outcome(changed, ports, changes)

    @property
    def _user(self) -> str:
        return self.session.user if self.session else "root"

    @property
    def _address(self) -> str:
        return self.session.address if self.session else "127.0.0.1"

    def confirm(self) -> None:
        """Keep the applied change.

        Raises:
            ProblemError: it was undone already.
        """
        self.undo.confirm()

    def _ssh_ports(self) -> tuple[int, ...]:
        """Return the ports that the server listens on, and the port of this run's connection."""
        ports = {self.session.port} if self.session else set()
        if self._has("sshd"):
            ports |= self.ssh.ports()
        if not ports:
            raise ProblemError(
                Problem(
                    "no SSH server was found, so the port that the firewall must keep open is unknown",
                    "sshd",
                    "install openssh-server, or turn the firewall off with hardening_firewall: false",
                )
            )
        return tuple(sorted(ports))

    def _refuse_settings(self, settings: Mapping[str, str | int | bool]) -> Effective:
        effective = self.ssh.refuse_overridden(settings, ["root", self._user], self._address)
        if not self.session:
            return effective
        if self.session.user == "root" and effective.get("permitrootlogin") == ["no"]:
            raise ProblemError(
                Problem(
                    "this run logged in as root, but PermitRootLogin: no would lock out root",
                    "hardening_ssh_settings",
                    "log in as a user with sudo, or allow root logins by key with PermitRootLogin: prohibit-password",
                )
            )
        self.ssh.refuse_keyless(effective, self.session.user)
        return effective

    def _refuse_rules(self, text: str, ports: Iterable[int], inside: Sequence[str], check: bool) -> None:
        if line := blocking_rule(text, ports):
            raise ProblemError(
                Problem(
                    "a rule of the firewall would cut SSH off",
                    line,
                    "correct hardening_extra_rules: they are evaluated before the rule for SSH; nothing was changed",
                )
            )
        for name in sorted(self._outside()):
            if pattern := next((pattern for pattern in inside if _fits(name, pattern)), None):
                raise ProblemError(
                    Problem(
                        f"the interface {name} leads out of the host, so the firewall must not treat it as inside",
                        f'hardening_inside_interfaces: "{pattern}"',
                        "list only Docker's bridges there ('docker network ls'); nothing was changed",
                    )
                )
        if check and not self._has("nft"):
            return
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".nft") as candidate:
            candidate.write(text)
            candidate.flush()
            answer = self.run(["nft", "--check", "--file", candidate.name])
            if not answer.ok:
                raise ProblemError(
                    Problem(
                        "nftables refuses the firewall's rules; nothing was changed",
                        answer.said.replace(candidate.name, str(self.firewall)),
                        "correct hardening_extra_rules; if no rule is named, the kernel has no nftables: turn the "
                        "firewall off with hardening_firewall: false",
                    )
                )

    def _outside(self) -> set[str]:
        """Return the interfaces that lead out: those with a default route, and bridges to more than containers."""
        names = {row[0] for row in self._rows("proc/net/route") if row[1:2] == row[7:8] == ["00000000"]}
        names |= {row[9] for row in self._rows("proc/net/ipv6_route") if row[:2] == ["0" * 32, "00"]}
        network = self.root / "sys/class/net"
        for port in network.glob("*/brif/*"):
            if any((network / port.name).glob("device")) or any((network / port.name).glob("lower_*")):
                names.add(port.parts[-3])
        return names - {"lo"}

    def _rows(self, table: str) -> list[list[str]]:
        try:
            return [line.split() for line in (self.root / table).read_text(encoding="ascii").splitlines()]
        except OSError:
            return []

    def _commit(
        self, changes: Iterable[Change], lost: bool, settings: Mapping[str, list[str] | None], seconds: int
    ) -> None:
        real = [change for change in changes if change.real]
        firewall = lost or any(change.path == self.firewall for change in real)
        ssh = any(change.path == self.ssh.drop_in for change in real)
        commands = [
            f"if [ -e {self.firewall} ]; then systemctl --no-block reload-or-restart {FIREWALL_UNIT}",
            f"else systemctl --no-block stop {FIREWALL_UNIT}; fi",
            f"systemctl --no-block try-reload-or-restart {SSH_UNIT}",
        ]
        self.undo.arm([change.path for change in real], commands, seconds)
        try:
            for change in real:
                _write(change)
            if firewall:
                present = self.firewall.exists()
                self._must(["systemctl", "reload-or-restart" if present else "stop", FIREWALL_UNIT])
                if present and not self._table_loaded():
                    raise _failed(f"systemctl reload-or-restart {FIREWALL_UNIT}", "the table is missing afterwards")
            if ssh:
                self._must(["sshd", "-t"])
                effective = self.ssh.effective(self._user, self._address)
                if wrong := [keyword for keyword, values in settings.items() if effective.get(keyword) != values]:
                    raise _failed("sshd -T", f"settings of {self.ssh.drop_in} are not in effect: {', '.join(wrong)}")
                self._must(["systemctl", "try-reload-or-restart", SSH_UNIT])
        except BaseException:
            self.undo.undo()
            raise

    def _must(self, command: list[str]) -> Answer:
        answer = self.run(command)
        if not answer.ok:
            raise _failed(" ".join(command), answer.said)
        return answer

    def _table_loaded(self) -> bool:
        return self.run(["nft", "list", "table", *TABLE]).ok

    def _has(self, program: str) -> bool:
        return self.run([program, "-V" if program == "sshd" else "--version"]).status != NOT_FOUND


def rules_before_ssh(text: str) -> list[str]:
    """Return the rules that are evaluated before the one that accepts SSH, without comments."""
    rules = []
    for line in text.splitlines()[1:]:
        if SSH_PORTS in line and line.rstrip().endswith("accept"):
            break
        rules += [rule.strip() for rule in line.partition("#")[0].split(";")]
    return [rule for rule in rules if rule]


def blocking_rule(text: str, ports: Iterable[int]) -> str | None:
    """Return the first rule that evidently refuses every new connection to one of the ports; None if there is none."""
    for rule in rules_before_ssh(text):
        found = REFUSES.match(rule)
        if not found:
            continue
        condition = found["match"].strip()
        if not condition or any(port in _named_ports(condition) for port in ports):
            return rule
    return None


def _named_ports(condition: str) -> set[int]:
    """Return the ports of a condition that tests TCP ports only; else the empty set."""
    found = PORTS.match(condition)
    if not found:
        return set()
    named: set[int] = set()
    for item in (found["set"] or found["one"]).split(","):
        first, _, last = item.strip().replace("ssh", "22").partition("-")
        if first.isdecimal() and (not last or last.isdecimal()):
            named.update(range(int(first), int(last or first) + 1))
    return named


def _fits(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _write(change: Change) -> None:
    if change.after is None:
        change.path.unlink()
        return
    change.path.parent.mkdir(mode=0o700, exist_ok=True)
    write_durably(change.path, change.after, 0o600, os.geteuid(), os.getegid())


def _failed(command: str, output: str) -> ProblemError:
    return ProblemError(
        Problem(
            f"'{command}' failed; the firewall and SSH are as they were before",
            output or command,
            f"see 'journalctl -u {FIREWALL_UNIT} -u {SSH_UNIT}' on the host",
        )
    )

"""Findings of an audit and their report; the judgement of ports by what was seen from inside and from outside."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .outside import Outcome

FAIL, WARN = "FAIL", "WARN"
# 80 columns, less the eight by which Ansible indents what it shows.
WIDTH = 72
LABEL = 6
# If more ports than this answer on one address, something on the way accepts every connection.
IMPLAUSIBLE = 200
BYPASS = "A rule for incoming packets (ufw, iptables INPUT) does not close it: Docker forwards it before"


@dataclass(frozen=True)
class Finding:
    """A fault (FAIL) or a possible one (WARN): what is wrong, where or in which program, and what to do."""

    severity: str
    what: str
    who: str
    do: str


@dataclass(frozen=True)
class Port:
    """A port of a host; ``protocol`` is tcp or udp."""

    number: int
    protocol: str = "tcp"

    def __str__(self) -> str:
        return f"{self.protocol.upper()} port {self.number}"

    @classmethod
    def read(cls, text: str) -> Port:
        """Parse ``5432`` or ``53/udp``.

        Raises:
            ValueError: the text is not a port.
        """
        number, _, protocol = text.strip().partition("/")
        if not number.isdecimal() or not 1 <= int(number) <= 65535 or protocol not in {"", "tcp", "udp"}:
            raise ValueError(f"'{text}' is not a port: write it like 8443 or 53/udp")
        return cls(int(number), protocol or "tcp")


@dataclass(frozen=True)
class OpenPort:
    """A port of the host that a container publishes or a program listens on; ``close`` says how to close it."""

    port: Port
    addresses: tuple[str, ...]
    who: str
    published: bool
    close: str

    @classmethod
    def read(cls, seen: Mapping[str, Any]) -> OpenPort:
        """Make it from an item of ``held``, a return value of the module ``audit``."""
        port = Port(seen["port"], seen["protocol"])
        return cls(port, tuple(seen["addresses"]), seen["who"], seen["published"], seen["close"])


def judge_ports(ports: Sequence[OpenPort], outcomes: Sequence[Outcome], declared: Iterable[Port]) -> list[Finding]:
    """Compare the ports that answer from outside, or could answer, with the declared ones.

    Args:
        ports: ports that can be reached from outside the host and its containers, as seen from inside.
        outcomes: the scan of every address.
        declared: the ports that should be open.
    """
    findings = _scan_failures(outcomes)
    answering: dict[Port, list[str]] = {}
    for outcome in outcomes:
        for number in outcome.open if not _is_implausible(outcome) else ():
            answering.setdefault(Port(number), []).append(outcome.address)
    users = {port: [one for one in ports if one.port == port] for port in {one.port for one in ports}}
    for port in sorted({*answering, *users} - set(declared), key=lambda port: (port.number, port.protocol)):
        seen = answering.get(port, [])
        if port not in users:
            findings.append(_unexplained(port, seen))
        # A program that listens on UDP is not judged: UDP is not scanned, and many of these programs are clients.
        judged = (one for one in users.get(port, ()) if one.published or port.protocol == "tcp")
        findings.extend(_undeclared(one, seen) for one in judged)
    return findings


def _undeclared(one: OpenPort, seen: Sequence[str]) -> Finding:
    do = f"{one.close}; or name {_name(one.port)} in audit_ports" + (f". {BYPASS}" if one.published else "")
    if seen:
        what = f"{one.port} answers from outside, and is not declared"
        return Finding(FAIL, what, f"{one.who}; seen on {', '.join(seen)}", do)
    where = f"on {', '.join(one.addresses)}"
    if one.published:
        what = f"{one.port} is published, and is not declared"
        tried = "it did not answer from here" if one.port.protocol == "tcp" else "UDP was not scanned"
        return Finding(FAIL, what, f"{one.who} {where}; {tried}", do)
    what = f"{one.port} is closed by a firewall only, and is not declared"
    return Finding(WARN, what, f"{one.who} {where}; it did not answer from here", do)


def _unexplained(port: Port, seen: Sequence[str]) -> Finding:
    return Finding(
        FAIL,
        f"{port} answers from outside, and is not declared",
        f"no program or container on the host was found to use it; seen on {', '.join(seen)}",
        "check for a forwarded port ('iptables-save -t nat', 'nft list ruleset') or a router that answers for the host",
    )


def _name(port: Port) -> str:
    return str(port.number) if port.protocol == "tcp" else f"{port.number}/{port.protocol}"


def _is_implausible(outcome: Outcome) -> bool:
    return len(outcome.open) > max(IMPLAUSIBLE, outcome.tried // 2)


def _scan_failures(outcomes: Sequence[Outcome]) -> list[Finding]:
    """Return the reasons why the scan from outside proves nothing."""
    findings = [
        Finding(
            FAIL,
            "the open ports of an address cannot be determined",
            f"{len(outcome.open)} of {outcome.tried} ports of {outcome.address} answer: a proxy or firewall on the way "
            "accepts every connection",
            "scan from another network: -e audit_from=HOST, a host of the inventory outside of this network",
        )
        for outcome in outcomes
        if _is_implausible(outcome)
    ]
    if not any(outcome.reached for outcome in outcomes):
        findings.append(
            Finding(
                FAIL,
                "nobody looked from outside",
                "; ".join(f"{outcome.address}: {_why(outcome)}" for outcome in outcomes) or "the host has no address",
                "scan from where the host can be reached: -e audit_from=HOST, a host of the inventory",
            )
        )
    return findings


def _why(outcome: Outcome) -> str:
    return outcome.skipped or f"nothing came back from {outcome.tried} ports"


def seen_from_outside(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each address: which ports answered, and how many were tried."""
    lines = []
    for outcome in outcomes:
        if not outcome.reached:
            lines.append(f"{outcome.address}: not judged, {_why(outcome)}")
            continue
        some = f"TCP {', '.join(map(str, outcome.open))}" if outcome.open else "nothing"
        answers = f"{len(outcome.open)} ports" if _is_implausible(outcome) else some
        silent = outcome.tried - len(outcome.open) - outcome.refused
        rest = f"of {outcome.tried} ports {outcome.refused} were refused, {silent} silent"
        lines.append(f"{outcome.address}: {answers} answered; {rest}")
    return lines


def page(host: str, findings: Sequence[Finding], outside: Sequence[str], notes: Mapping[str, str]) -> str:
    """Format the report of an audit: failures, warnings, the scan from outside, then the notes from inside."""
    ordered = sorted(findings, key=lambda finding: finding.severity != FAIL)
    lines = [f"{host}: {counted(ordered)}"]
    for finding in ordered:
        lines += _part(finding.severity, f"{finding.what}: {finding.who}")
        lines += _part("", f"-> {finding.do}", 3)
    for line in outside:
        lines += _part("out", line)
    for label, text in notes.items():
        lines += _part("in", f"{label}: {text}")
    return "\n".join(lines)


def counted(findings: Sequence[Finding]) -> str:
    """Return the number of failures and warnings in words."""
    count = {severity: sum(finding.severity == severity for finding in findings) for severity in (FAIL, WARN)}
    words = ((count[FAIL], "failure"), (count[WARN], "warning"))
    return ", ".join(f"{n} {word}{'s' * (n > 1)}" for n, word in words if n) or "nothing is wrong"


def _part(label: str, text: str, hang: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{label:<{LABEL}}",
        subsequent_indent=" " * (LABEL + hang),
        break_on_hyphens=False,
        break_long_words=False,
    )

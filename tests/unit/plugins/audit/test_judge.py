"""Ports judged by the inspection from inside and the scan from outside, and the report of an audit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.hostwright.django.plugins.filter.audit_report import audit_report
from ansible_collections.hostwright.django.plugins.module_utils.audit.judge import (
    FAIL,
    WARN,
    Finding,
    OpenPort,
    Port,
    counted,
    judge_ports,
    page,
    seen_from_outside,
)
from ansible_collections.hostwright.django.plugins.module_utils.audit.outside import Outcome

V4, V6 = "203.0.113.5", "2001:db8::5"
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 (seen, not bound)
DECLARED = [Port(22), Port(80)]
NGINX = OpenPort(Port(80), EVERYWHERE, "container hostwright-nginx (hostwright-nginx:13-1)", True, "")
DATABASE = OpenPort(Port(5432), EVERYWHERE, "container db (postgres:17)", True, "publish it on 127.0.0.1:5432")
REDIS = OpenPort(Port(6379), ("0.0.0.0",), "redis-server (pid 7) of redis.service", False, "stop it")  # noqa: S104


def outcome(*ports: int, address: str = V4) -> Outcome:
    """Some ports of an address answered, most were refused."""
    return Outcome(address, ports, 1000, 1000 + len(ports))


def judge(held: Sequence[OpenPort], *outcomes: Outcome) -> list[Finding]:
    return judge_ports(held, outcomes, DECLARED)


class TestPorts:
    def test_declared_ports_are_no_finding(self) -> None:
        assert judge([NGINX], outcome(22, 80), outcome(80, address=V6)) == []

    def test_published_port_that_answers_names_its_container_and_every_address(self) -> None:
        (finding,) = judge([NGINX, DATABASE], outcome(22, 80, 5432), outcome(80, 5432, address=V6))
        assert finding.severity == FAIL
        assert finding.what == "TCP port 5432 answers from outside, and is not declared"
        assert finding.who == f"container db (postgres:17); seen on {V4}, {V6}"
        assert finding.do.startswith("publish it on 127.0.0.1:5432; or name 5432 in audit_ports")
        assert "INPUT) does not close it" in finding.do

    def test_published_port_behind_a_firewall_is_a_failure_too(self) -> None:
        (finding,) = judge([NGINX, DATABASE], outcome(22, 80))
        assert finding.severity == FAIL
        assert finding.what == "TCP port 5432 is published, and is not declared"
        assert finding.who == "container db (postgres:17) on 0.0.0.0, ::; it did not answer from here"

    def test_program_that_answers_is_a_failure(self) -> None:
        (finding,) = judge([REDIS], outcome(22, 6379))
        assert (finding.severity, finding.who) == (FAIL, f"redis-server (pid 7) of redis.service; seen on {V4}")
        assert "Docker" not in finding.do

    def test_program_behind_a_firewall_is_a_warning(self) -> None:
        (finding,) = judge([REDIS], outcome(22))
        assert (finding.severity, finding.what.partition(",")[0]) == (
            WARN,
            "TCP port 6379 is closed by a firewall only",
        )

    def test_port_that_nothing_on_the_host_uses_is_a_failure(self) -> None:
        (finding,) = judge([], outcome(22, 4444))
        assert finding.severity == FAIL
        assert finding.who == f"no program or container on the host was found to use it; seen on {V4}"

    def test_both_users_of_one_port_are_named(self) -> None:
        other = OpenPort(Port(5432), ("10.0.0.5",), "postgres (pid 8)", False, "stop it")
        assert [finding.who.partition(";")[0] for finding in judge([DATABASE, other], outcome(22, 5432))] == [
            "container db (postgres:17)",
            "postgres (pid 8)",
        ]

    def test_udp_is_judged_if_a_container_publishes_it(self) -> None:
        program = OpenPort(Port(68, "udp"), ("0.0.0.0",), "systemd-network (pid 9)", False, "stop it")  # noqa: S104
        published = OpenPort(Port(53, "udp"), EVERYWHERE, "container dns (dns:1)", True, "publish it elsewhere")
        (finding,) = judge([program, published], outcome(22))
        assert finding.what == "UDP port 53 is published, and is not declared"
        assert finding.who == "container dns (dns:1) on 0.0.0.0, ::; UDP was not scanned"
        assert "name 53/udp in audit_ports" in finding.do
        assert judge_ports([published], [outcome(22)], [Port(22), Port(53, "udp")]) == []


class TestOutsideScan:
    def test_one_address_that_answers_is_enough(self) -> None:
        assert judge([], outcome(22), Outcome("10.0.0.5", tried=1000)) == []
        assert judge([], Outcome(V4, refused=3, tried=1000)) == []

    @pytest.mark.parametrize(
        ("outcomes", "why"),
        [
            ([Outcome(V4, tried=1132)], f"{V4}: nothing came back from 1132 ports"),
            ([Outcome("127.0.0.1", skipped="it is its own")], "127.0.0.1: it is its own"),
            ([], "the host has no address"),
        ],
    )
    def test_audit_without_a_scan_from_outside_fails(self, outcomes: list[Outcome], why: str) -> None:
        (finding,) = judge([], *outcomes)
        assert (finding.severity, finding.what, finding.who) == (FAIL, "nobody looked from outside", why)

    def test_proxy_that_accepts_every_connection_is_one_finding(self) -> None:
        (finding,) = judge([NGINX], Outcome(V4, tuple(range(1, 1133)), 0, 1132))
        assert (finding.severity, finding.what) == (FAIL, "the open ports of an address cannot be determined")
        assert "1132 of 1132 ports" in finding.who

    def test_lines_show_which_ports_answered(self) -> None:
        everything = Outcome(V4, tuple(range(1, 1133)), 0, 1132)
        lines = seen_from_outside(
            [outcome(22, 80), outcome(), everything, Outcome(V6, tried=9), Outcome("w", skipped="no name")]
        )
        assert lines == [
            f"{V4}: TCP 22, 80 answered; of 1002 ports 1000 were refused, 0 silent",
            f"{V4}: nothing answered; of 1000 ports 1000 were refused, 0 silent",
            f"{V4}: 1132 ports answered; of 1132 ports 0 were refused, 0 silent",
            f"{V6}: not judged, nothing came back from 9 ports",
            "w: not judged, no name",
        ]


class TestPort:
    @pytest.mark.parametrize(
        ("text", "port"),
        [("80", Port(80)), (" 53/udp", Port(53, "udp")), ("65535/tcp", Port(65535))],
    )
    def test_read(self, text: str, port: Port) -> None:
        assert Port.read(text) == port

    @pytest.mark.parametrize("text", ["", "0", "65536", "http", "53/sctp", "-1", "80-90"])
    def test_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a port"):
            Port.read(text)


class TestPage:
    def test_failures_come_first_and_fit_eighty_columns_with_indentation(self) -> None:
        findings = [
            Finding(WARN, "a warning", "someone", "do something"),
            *judge([DATABASE], outcome(22, 5432), outcome(5432, address=V6)),
        ]
        text = page("web1", findings, ["203.0.113.5: all"], {"containers": "2 running"})
        lines = text.splitlines()
        assert lines[0] == "web1: 1 failure, 1 warning"
        assert lines[1].startswith("FAIL  TCP port 5432 answers from outside")
        assert max(map(len, lines)) <= 72
        assert lines[-4:] == [
            "WARN  a warning: someone",
            "      -> do something",
            "out   203.0.113.5: all",
            "in    containers: 2 running",
        ]

    def test_long_paths_stay_whole(self) -> None:
        path = "/srv/hostwright/config/polls/secrets/7/" + "A" * 60
        assert path in page("web1", [Finding(FAIL, "open", path, "chmod")], [], {})

    def test_counts(self) -> None:
        fail, warn = Finding(FAIL, "", "", ""), Finding(WARN, "", "", "")
        assert [counted(found) for found in ([], [fail, fail], [warn])] == [
            "nothing is wrong",
            "2 failures",
            "1 warning",
        ]


class TestFilter:
    inside = {  # noqa: RUF012
        "held": [
            {
                "port": 5432,
                "protocol": "tcp",
                "addresses": ["::"],
                "who": "container db (x)",
                "published": True,
                "close": "",
            }
        ],
        "findings": [{"severity": "WARN", "what": "a", "who": "b", "do": "c"}],
        "notes": {"SSH": "port 22"},
    }
    outcomes = [{"address": V4, "open": [22, 5432], "refused": 5, "tried": 7, "skipped": ""}]  # noqa: RUF012

    def test_findings_of_both_sides_are_joined(self) -> None:
        report = audit_report(self.inside, self.outcomes, [22, "80"], "web1")
        assert (report["failures"], report["warnings"], report["counted"]) == (1, 1, "1 failure, 1 warning")
        assert "container db (x); seen on" in " ".join(report["page"].split())
        assert audit_report(self.inside, self.outcomes, ["22", "5432"], "web1")["failures"] == 0

    def test_wrong_port_is_refused(self) -> None:
        with pytest.raises(AnsibleFilterError, match="audit_ports: 'http' is not a port"):
            audit_report(self.inside, self.outcomes, ["http"], "web1")

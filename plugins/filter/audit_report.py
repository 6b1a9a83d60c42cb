"""The filter hostwright.django.audit_report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hostwright.django.plugins.module_utils.audit.judge import (
    FAIL,
    Finding,
    OpenPort,
    Port,
    counted,
    judge_ports,
    page,
    seen_from_outside,
)
from ansible_collections.hostwright.django.plugins.module_utils.audit.outside import Outcome

DOCUMENTATION = r"""
name: audit_report
author: Hostwright contributors
short_description: Make the report of an audit
description:
  - Compares the open ports that M(hostwright.django.audit) found with those that M(hostwright.django.scan_ports) found
    and with the declared ones, and formats all findings as a report.
positional: _input, outcomes, declared, host
options:
  _input:
    description: The return value of M(hostwright.django.audit).
    type: dict
    required: true
  outcomes:
    description: The outcomes that M(hostwright.django.scan_ports) returned.
    type: list
    elements: dict
    required: true
  declared:
    description: Ports that should be open, like V(443) or V(53/udp).
    type: list
    elements: str
    required: true
  host:
    description: Name of the host.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show the report
  ansible.builtin.debug:
    msg: "{{ (inside | hostwright.django.audit_report(outside.outcomes, [22, 80, 443], inventory_hostname)).page }}"
"""

RETURN = r"""
_value:
  description: The report, and the number of findings.
  type: dict
  contains:
    page: {description: The report in 72 columns., type: str}
    counted: {description: The number of failures and warnings in words., type: str}
    failures: {description: The number of failures., type: int}
    warnings: {description: The number of warnings., type: int}
"""


def audit_report(
    inside: Mapping[str, Any], outcomes: Sequence[Mapping[str, Any]], declared: Sequence[object], host: str
) -> dict[str, Any]:
    """Judge the ports and format the report.

    Raises:
        AnsibleFilterError: a declared port is not a port.
    """
    try:
        ports = [Port.read(str(port)) for port in declared]
    except ValueError as error:
        raise AnsibleFilterError(f"audit_ports: {error}") from error
    outside = [Outcome(**{**outcome, "open": tuple(outcome["open"])}) for outcome in outcomes]
    findings = judge_ports([OpenPort.read(one) for one in inside["held"]], outside, ports)
    findings += [Finding(**finding) for finding in inside["findings"]]
    failures = sum(finding.severity == FAIL for finding in findings)
    return {
        "page": page(host, findings, seen_from_outside(outside), inside["notes"]),
        "counted": counted(findings),
        "failures": failures,
        "warnings": len(findings) - failures,
    }


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"audit_report": audit_report}

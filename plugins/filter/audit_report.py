"""The filter hostwright.django.audit_report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hostwright.django.plugins.module_utils.audit.judge import (
    FAIL,
    Finding,
    Open,
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
short_description: Judge what was seen of a host from inside and from outside
description:
  - Takes what M(hostwright.django.audit) returned, compares the ports with what M(hostwright.django.scan_ports) saw and
    with those that are meant to be open, and lays all of it out for a reader.
positional: _input, outcomes, declared, host
options:
  _input:
    description: What M(hostwright.django.audit) returned.
    type: dict
    required: true
  outcomes:
    description: The outcomes that M(hostwright.django.scan_ports) returned.
    type: list
    elements: dict
    required: true
  declared:
    description: Ports that are meant to be open, like V(443) or V(53/udp).
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
  description: The page, how many findings there are in words, and whether any is a failure, or only a warning.
  type: dict
  contains:
    page: {description: The report in 72 columns., type: str}
    counted: {description: How many failures and warnings., type: str}
    failures: {description: How many failures., type: int}
    warnings: {description: How many warnings., type: int}
"""


def audit_report(
    inside: Mapping[str, Any], outcomes: Sequence[Mapping[str, Any]], declared: Sequence[object], host: str
) -> dict[str, Any]:
    """Judge and lay out.

    Raises:
        AnsibleFilterError: a declared port is none.
    """
    try:
        meant = [Port.read(str(port)) for port in declared]
    except ValueError as error:
        raise AnsibleFilterError(f"audit_ports: {error}") from error
    outside = [Outcome(**{**outcome, "open": tuple(outcome["open"])}) for outcome in outcomes]
    findings = [*judge_ports([Open.read(one) for one in inside["held"]], outside, meant)]
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

"""The filter hostwright.django.cron_problem."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.hostwright.django.plugins.module_utils import cron

DOCUMENTATION = r"""
name: cron_problem
author: The Hostwright developers
short_description: The fault of a cron expression
description:
  - Checks the five fields of a schedule as Debian's cron reads them.
  - A schedule that never occurs, such as the 30th of February, is a fault too.
positional: _input
options:
  _input:
    description: The cron expression.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Check the schedule
  ansible.builtin.assert:
    that: backup_schedule | hostwright.django.cron_problem == ""
    fail_msg: "{{ backup_schedule | hostwright.django.cron_problem }}"
"""

RETURN = r"""
_value:
  description: One sentence that names the field; empty if the expression is valid.
  type: str
"""


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[[object], str]]:
        """Return the filters by name."""
        return {"cron_problem": cron.problem}

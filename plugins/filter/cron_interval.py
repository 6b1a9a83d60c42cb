"""The filter hostwright.django.cron_interval."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.hostwright.django.plugins.module_utils import cron

DOCUMENTATION = r"""
name: cron_interval
author: The Hostwright developers
short_description: The longest time between two runs of a cron expression
description:
  - Computes it from the calendar; reads the five fields as Debian's cron does.
positional: _input
options:
  _input:
    description: The cron expression; it must be valid (P(hostwright.django.cron_problem#filter)).
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show the greatest age of a backup
  ansible.builtin.debug:
    msg: "{{ '17 6-22 * * *' | hostwright.django.cron_interval }}" # 28800: the eight hours of the night
"""

RETURN = r"""
_value:
  description: Seconds.
  type: int
"""


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[[str], int]]:
        """Return the filters by name."""
        return {"cron_interval": cron.longest_gap}

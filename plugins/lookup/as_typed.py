"""The lookup hostwright.django.as_typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.hostwright.django.plugins.module_utils import extra_vars

DOCUMENTATION = r"""
name: as_typed
author: The Hostwright developers
short_description: A variable as it was typed after -e
description:
  - Of C(-e manage="check --deploy") Ansible keeps C(check), because it splits what the shell leaves at its blanks.
    This lookup reads the whole value from the command line.
  - Where the variable comes from elsewhere, or is quoted for Ansible too, its value is the ordinary one.
options:
  _terms:
    description: Names of variables.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Say what was asked for
  ansible.builtin.debug:
    msg: "{{ lookup('hostwright.django.as_typed', 'manage') }}"
"""

RETURN = r"""
_list:
  description: The values; empty where a variable is not defined.
  type: list
  elements: str
"""


class LookupModule(LookupBase):  # type: ignore[misc]
    """Reads this process's own command line."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Look the variables up."""
        self.set_options(var_options=variables, direct=kwargs)
        words = command_line_words()
        try:
            return [extra_vars.as_typed(name, str((variables or {}).get(name, "")), words) for name in terms]
        except extra_vars.CommandLineError as error:
            raise AnsibleLookupError(str(error)) from error


def command_line_words() -> list[str]:
    """Return the words of this process's command line; none where the system does not show them."""
    try:
        return Path("/proc/self/cmdline").read_text(encoding="utf-8", errors="surrogateescape").split("\0")
    except OSError:
        return []

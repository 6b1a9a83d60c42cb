"""Lookup of extra variables as they were typed on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.hostwright.django.plugins.module_utils import extra_vars

DOCUMENTATION = r"""
name: as_typed
author: The Hostwright developers
short_description: Read a variable as it was typed after -e
description:
  - For C(-e manage="check --deploy"), the variable's value is C(check), because the shell removes the quotes and
    Ansible splits the rest at blanks. This lookup reads the whole value from the command line.
  - If the variable was set elsewhere, or is quoted for Ansible too, the lookup returns its ordinary value.
options:
  _terms:
    description: Names of variables.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show the requested management command
  ansible.builtin.debug:
    msg: "{{ lookup('hostwright.django.as_typed', 'manage') }}"
"""

RETURN = r"""
_list:
  description: The values; empty for a variable that is not defined.
  type: list
  elements: str
"""


class LookupModule(LookupBase):  # type: ignore[misc]
    """Reads the command line of this process."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return the values of the variables.

        Raises:
            AnsibleLookupError: the command line cannot be interpreted.
        """
        self.set_options(var_options=variables, direct=kwargs)
        words = command_line_words()
        try:
            return [extra_vars.as_typed(name, str((variables or {}).get(name, "")), words) for name in terms]
        except extra_vars.CommandLineError as error:
            raise AnsibleLookupError(str(error)) from error


def command_line_words() -> list[str]:
    """The words of this process's command line; empty if the system does not provide them."""
    try:
        return Path("/proc/self/cmdline").read_text(encoding="utf-8", errors="surrogateescape").split("\0")
    except OSError:
        return []

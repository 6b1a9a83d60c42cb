#!/usr/bin/python
"""Ansible module: change the firewall and the SSH server of a host without locking out the operator."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_access
short_description: Change the firewall and the SSH server of a host without locking out the operator
version_added: 0.1.0
description:
  - Writes the rules of the firewall and a drop-in for the SSH server, and activates both. After O(seconds) a systemd
    timer, or else the next boot, undoes the change unless it is confirmed with O(state=confirmed). Between the two
    calls, use C(reset_connection) of M(ansible.builtin.meta) and M(ansible.builtin.wait_for_connection), so that the
    confirmation uses a new connection.
  - Refuses, with the host unchanged, rules that nftables does not accept or that block SSH, settings that C(sshd) does
    not accept or that another line overrides, and a login user without an authorized key.
  - An unconfirmed change is undone before the next one is applied.
  - Needs the units C(hostwright-firewall.service) and C(hostwright-undo.service), which the role hardening installs.
options:
  state:
    description:
      - V(applied) activates rules and settings, V(confirmed) keeps them.
    type: str
    choices: [applied, confirmed]
    default: applied
  firewall:
    description:
      - The rules, a file for C(nft) that replaces the table C(inet hostwright) and nothing else. C($ssh_ports) is
        defined as the ports that C(sshd) listens on and the port of this connection. If empty, there is no firewall.
    type: str
    default: ""
  inside:
    description:
      - Interfaces that the rules do not filter; a final C(*) matches any ending. An interface that leads out of the
        host is refused.
    type: list
    elements: str
    default: []
  ssh:
    description:
      - Settings of the SSH server, keywords and values as in C(sshd_config). If empty, the drop-in is removed.
    type: dict
    default: {}
  seconds:
    description:
      - How long to wait for the confirmation.
    type: int
    default: 60
attributes:
  check_mode:
    description: Checks, refuses and reports the same, without a change.
    support: full
  diff_mode:
    description: Shows the changes of both files.
    support: full
author:
  - The Hostwright developers
"""

EXAMPLES = r"""
- name: Turn off passwords
  hostwright.django.host_access:
    ssh:
      PasswordAuthentication: "no"
  register: access

- name: Close the connection
  ansible.builtin.meta: reset_connection

- name: Open a new connection
  ansible.builtin.wait_for_connection:
    timeout: 90
  when: access is changed

- name: Confirm the change
  hostwright.django.host_access:
    state: confirmed
  when: access is changed
"""

RETURN = r"""
ssh_ports:
  description: The ports of SSH.
  returned: success, with O(state=applied)
  type: list
  elements: int
  sample: [22]
problem:
  description: What went wrong, where, and what to do.
  returned: failure
  type: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.access.access import HostAccess
from ansible_collections.hostwright.django.plugins.module_utils.access.ssh_server import session
from ansible_collections.hostwright.django.plugins.module_utils.host.problems import ProblemError
from ansible_collections.hostwright.django.plugins.module_utils.host.process import run

ARGUMENTS = {
    "state": {"type": "str", "choices": ["applied", "confirmed"], "default": "applied"},
    "firewall": {"type": "str", "default": ""},
    "inside": {"type": "list", "elements": "str", "default": []},
    "ssh": {"type": "dict", "default": {}},
    "seconds": {"type": "int", "default": 60},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    given = module.params
    access = HostAccess(run, session(os.getpid()))
    try:
        if given["state"] == "confirmed":
            if not module.check_mode:
                access.confirm()
            module.exit_json(changed=False)
        outcome = access.apply(given["firewall"], given["inside"], given["ssh"], given["seconds"], module.check_mode)
    except ProblemError as error:
        module.fail_json(msg=str(error), problem=error.problem.as_dict())
    except OSError as error:
        module.fail_json(msg=f"the firewall and SSH are as they were before: {error}")
    module.exit_json(
        changed=outcome.changed,
        ssh_ports=list(outcome.ssh_ports),
        diff=[
            {"before_header": path, "after_header": path, "before": change.before or "", "after": change.after or ""}
            for change in outcome.changes
            if change.real and (path := str(change.path))
        ],
    )


if __name__ == "__main__":
    main()

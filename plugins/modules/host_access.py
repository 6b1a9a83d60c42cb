#!/usr/bin/python
"""Ansible module: firewall and SSH of a host, changed without locking anybody out."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_access
short_description: Change the firewall and the SSH server of a host without locking anybody out
version_added: 0.1.0
description:
  - Writes the rules of the firewall and a drop-in for the SSH server, and puts both into effect, for some time. Then
    they are undone, by a timer of systemd or by the next boot, unless they are confirmed with O(state=confirmed).
    Between the two calls belong C(reset_connection) of M(ansible.builtin.meta) and
    M(ansible.builtin.wait_for_connection), so that the confirmation comes by a new connection.
  - Refuses what can be seen beforehand, with the host unchanged - rules that nftables does not take or that cut SSH,
    settings that C(sshd) does not take or that another line beats, a login user without an authorized key.
  - A change that nobody confirmed is undone before the next one.
  - Needs the units C(hostwright-firewall.service) and C(hostwright-undo.service), which the role hardening installs.
options:
  state:
    description:
      - V(applied) puts rules and settings into effect, V(confirmed) keeps them.
    type: str
    choices: [applied, confirmed]
    default: applied
  firewall:
    description:
      - The rules, a file for C(nft) that replaces the table C(inet hostwright) and nothing else. C($ssh_ports) stands
        for the ports of SSH, those that C(sshd) listens on and the one of this connection. Empty for no firewall.
    type: str
    default: ""
  inside:
    description:
      - Interfaces that the rules do not filter; a last C(*) stands for anything. One that leads out of the host is
        refused.
    type: list
    elements: str
    default: []
  ssh:
    description:
      - Settings of the SSH server, keywords and values as in C(sshd_config). Empty for none of ours.
    type: dict
    default: {}
  seconds:
    description:
      - How long to wait for the confirmation.
    type: int
    default: 60
attributes:
  check_mode:
    description: Decides and refuses as otherwise, and changes nothing.
    support: full
  diff_mode:
    description: Shows both files.
    support: full
author:
  - The Hostwright developers
"""

EXAMPLES = r"""
- name: Take no more passwords
  hostwright.django.host_access:
    ssh:
      PasswordAuthentication: "no"
  register: access

- name: Come back by a new connection
  ansible.builtin.meta: reset_connection

- name: Wait for it
  ansible.builtin.wait_for_connection:
    timeout: 90
  when: access is changed

- name: Keep the change
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
            {
                "before": change.before or "",
                "after": change.after or "",
                "before_header": str(change.path),
                "after_header": str(change.path),
            }
            for change in outcome.changes
            if change.real
        ],
    )


if __name__ == "__main__":
    main()

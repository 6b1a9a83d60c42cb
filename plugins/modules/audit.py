"""Inspect a host's security from inside."""

from __future__ import annotations

import os
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.audit.inside import AuditedHost, inspect

DOCUMENTATION = r"""
module: audit
short_description: Inspect a host's security from inside
description:
  - Lists the ports that can be reached from other machines, with the container or program behind each, and judges
    containers, file modes of secrets, certificates, the SQLite of the live releases, the Engine, the SSH server and
    pending security upgrades.
  - P(hostwright.django.audit_report#filter) judges the ports, together with the result of
    M(hostwright.django.scan_ports).
  - Changes nothing, in check mode or not. Package lists are not refreshed.
options:
  engine_minimum:
    description: The oldest accepted version of the Docker Engine.
    type: str
    default: "20.10"
  containers:
    description: Names of containers that may have Docker's socket, all privileges or the host's network.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Does the same in check mode, since it changes nothing.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
requirements:
  - Root, to name the programs that listen on ports and to query the Docker Engine.
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Inspect from inside
  hostwright.django.audit:
    containers: [traefik]
  register: inside
"""

RETURN = r"""
addresses:
  description: The host's addresses, without those of Docker's bridges.
  returned: success
  type: list
  elements: str
  sample: [203.0.113.5, "2001:db8::5"]
ssh_ports:
  description: The ports of the SSH server.
  returned: success
  type: list
  elements: int
  sample: [22]
held:
  description: Ports that containers publish, or that programs listen on, on addresses that other machines can reach.
  returned: success
  type: list
  elements: dict
  contains:
    port: {description: The number., type: int, returned: always}
    protocol: {description: tcp or udp., type: str, returned: always}
    addresses: {description: Addresses of the host that it is open on., type: list, elements: str, returned: always}
    who: {description: The container with its image; or the program with its service., type: str, returned: always}
    published: {description: Whether a container publishes it., type: bool, returned: always}
    close: {description: How to close it., type: str, returned: always}
findings:
  description: Faults (FAIL) and possible faults (WARN), without those of ports.
  returned: success
  type: list
  elements: dict
  contains:
    severity: {description: FAIL or WARN., type: str, returned: always}
    what: {description: What is wrong., type: str, returned: always}
    who: {description: Where it was found., type: str, returned: always}
    do: {description: What to do about it., type: str, returned: always}
notes:
  description: The state of each inspected topic, by its name.
  returned: success
  type: dict
"""


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "engine_minimum": {"type": "str", "default": "20.10"},
            "containers": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    if os.geteuid() != 0:
        module.fail_json(
            msg="only root can read the owners of sockets and the modes of secrets: set become: true for this host"
        )
    try:
        found = inspect(AuditedHost(), module.params["engine_minimum"], module.params["containers"])
    except ValueError as error:
        module.fail_json(msg=f"engine_minimum: {error}")
    held = [{**asdict(one), "port": one.port.number, "protocol": one.port.protocol} for one in found.held]
    module.exit_json(changed=False, **{**asdict(found), "held": held})


if __name__ == "__main__":
    main()

"""Scan the TCP ports of a host."""

from __future__ import annotations

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.audit import outside

DOCUMENTATION = r"""
module: scan_ports
short_description: Scan the TCP ports of a host
description:
  - Connects to ports of a host's addresses from the machine that the task runs on, and returns those that answer.
  - It only connects, so it needs neither a scanner nor root. UDP is not scanned.
  - With O(every=true), addresses where none of the first ports answered or refused are not scanned further.
  - Addresses of this machine are skipped, because this machine would answer there instead of the host; a host behind a
    forwarded port is scanned on its own addresses.
options:
  addresses:
    description: Names, IPv4 and IPv6 addresses of the host; a name stands for all its addresses.
    type: list
    elements: str
    required: true
  ports:
    description: Ports to try in addition to those below 1024 and those of well-known services.
    type: list
    elements: int
    default: []
  every:
    description: Try all 65535 ports. Takes a minute or more for each address, and a router on the way must track as
      many connections.
    type: bool
    default: false
  timeout:
    description: Seconds after which a port that does not answer counts as silent. In two seconds one packet may be lost
      and sent again.
    type: float
    default: 2
attributes:
  check_mode:
    description: Does the same in check mode, since it changes nothing.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Scan from outside
  hostwright.django.scan_ports:
    addresses: [www.example.org]
    ports: [5432]
  delegate_to: workstation
  register: outside
"""

RETURN = r"""
outcomes:
  description: The result for each address.
  returned: success
  type: list
  elements: dict
  contains:
    address: {description: The address; or a name without an address., type: str, returned: always}
    open: {description: Ports that answered., type: list, elements: int, returned: always}
    refused: {description: Number of ports that refused the connection., type: int, returned: always}
    tried: {description: Number of ports that were tried., type: int, returned: always}
    skipped: {description: Why the address was not scanned; empty if it was., type: str, returned: always}
"""


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "addresses": {"type": "list", "elements": "str", "required": True},
            "ports": {"type": "list", "elements": "int", "default": []},
            "every": {"type": "bool", "default": False},
            "timeout": {"type": "float", "default": 2},
        },
        supports_check_mode=True,
    )
    given = module.params
    for port in given["ports"]:
        if not 1 <= port <= 65535:
            module.fail_json(msg=f"ports: {port} is not a TCP port (1 to 65535)")
    addresses, outcomes = outside.resolve(given["addresses"])
    own = [address for address in addresses if outside.is_own(address)]
    outcomes += [outside.Outcome(address, skipped="it is an address of the scanning machine") for address in own]
    others = [address for address in addresses if address not in own]
    further = outside.EVERY if given["every"] else ()
    outcomes += outside.scan(others, (*outside.USUAL, *given["ports"]), further, given["timeout"])
    module.exit_json(changed=False, outcomes=[asdict(outcome) for outcome in outcomes])


if __name__ == "__main__":
    main()

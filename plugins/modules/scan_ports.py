"""See which TCP ports of a host answer from here."""

from __future__ import annotations

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.audit import outside

DOCUMENTATION = r"""
module: scan_ports
short_description: See which TCP ports of a host answer from here
description:
  - Connects to ports of a host's addresses from the machine that the task runs on, and says which of them answer.
  - A connect is all that it takes, so no scanner and no root is needed. UDP is not tried.
  - An address from which nothing at all comes back is tried no further. One that is this machine's own is left out,
    because what answers there is not the host; a host behind a forwarded port is seen on its own addresses.
options:
  addresses:
    description: Names, IPv4 and IPv6 addresses of the host; a name stands for all its addresses.
    type: list
    elements: str
    required: true
  ports:
    description: Ports to try besides those below 1024 and those of well-known services.
    type: list
    elements: int
    default: []
  every:
    description: Try all 65535 ports. Takes a minute or more for each address, and a router on the way must remember as
      many connections.
    type: bool
    default: false
  timeout:
    description: Seconds after which a port that says nothing is closed. One packet may be lost in two.
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
- name: Look from outside
  hostwright.django.scan_ports:
    addresses: [www.example.org]
    ports: [5432]
  delegate_to: workstation
  register: outside
"""

RETURN = r"""
outcomes:
  description: What came of each address.
  returned: success
  type: list
  elements: dict
  contains:
    address: {description: The address; or a name without any., type: str, returned: always}
    open: {description: Ports that answered., type: list, elements: int, returned: always}
    refused: {description: How many said that nobody listens., type: int, returned: always}
    tried: {description: How many were tried., type: int, returned: always}
    skipped: {description: Why the address was not tried; empty if it was., type: str, returned: always}
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
            module.fail_json(msg=f"ports: {port} is not a TCP port; ports go from 1 to 65535")
    addresses, outcomes = outside.resolve(given["addresses"])
    own = [address for address in addresses if outside.is_own(address)]
    outcomes += [outside.Outcome(address, skipped="it is an address of the machine that looks") for address in own]
    others = [address for address in addresses if address not in own]
    further = outside.EVERY if given["every"] else ()
    outcomes += outside.scan(others, (*outside.USUAL, *given["ports"]), further, given["timeout"])
    module.exit_json(changed=False, outcomes=[asdict(outcome) for outcome in outcomes])


if __name__ == "__main__":
    main()

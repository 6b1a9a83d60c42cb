"""Documentation of the action plugin ``certificate``; it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate
short_description: Judge certificates on the control node, before anything reaches a host
description:
  - Checks that each site's key matches its certificate, that the chain is in order and each certificate signed by the
    next, that it covers the site's host names, and that it is valid now. Warns in its last fourteen days.
  - Changes nothing, shows no key, asks no host. Uses the Python library cryptography, which ansible-core needs too.
options:
  sites:
    description: The sites to look at.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the site.
        type: str
        required: true
      domains:
        description: Host names that the certificate has to cover.
        type: list
        elements: str
        required: true
      certificate:
        description: Its full chain in PEM, the site's own first. Without it the task fails.
        type: str
        default: ''
      key:
        description: Its private key in PEM, without a passphrase. Without it the task fails.
        type: str
        default: ''
attributes:
  check_mode:
    description: Changes nothing in either mode.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Judge the certificate
  hostwright.django.certificate:
    sites:
      - name: polls
        domains: [polls.example.org]
        certificate: "{{ lookup('ansible.builtin.file', 'fullchain.pem') }}"
        key: "{{ vault_polls_key }}"
"""

RETURN = r"""
expires:
  description: When each site's certificate expires, by the site's name.
  type: dict
  returned: success
"""

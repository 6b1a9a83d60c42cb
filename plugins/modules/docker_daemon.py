#!/usr/bin/python
"""Ansible module: merge options into the Docker Engine's configuration and apply them safely."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: docker_daemon
short_description: Merge options into the Docker Engine's configuration and apply them
version_added: 0.1.0
description:
  - Merges options into the Engine's configuration file, lets the Engine validate the result (Engine 23.0 and newer),
    writes it, and reloads the Engine, or restarts it if a reload is not enough.
  - Never restarts an Engine that runs containers without the label C(hostwright) unless O(restart=always).
  - Refuses a configuration file that is not valid JSON, names the position of the error, and does not change the file.
  - If the Engine does not apply the new options, the previous configuration is restored and the module fails.
  - A stopped Engine is not started; it reads the file when it starts.
options:
  options:
    description:
      - The options, with the names that C(daemon.json) uses. Dictionaries are merged at any depth, a null removes a
        key, any other value, also a list, replaces the old one. Keys that are not given are not changed.
    type: dict
    required: true
  restart:
    description:
      - When the Engine may be restarted for options that it does not reload. V(auto) permits it only while no foreign
        container runs.
    type: str
    choices: [auto, always]
    default: auto
  path:
    description:
      - The configuration file.
    type: path
    default: /etc/docker/daemon.json
attributes:
  check_mode:
    description: Makes every check and reports the change without making it.
    support: full
  diff_mode:
    description: Shows the file; credentials in URLs are masked.
    support: full
author:
  - The Hostwright developers
"""

EXAMPLES = r"""
- name: Let containers survive a restart of the Engine
  hostwright.django.docker_daemon:
    options:
      live-restore: true
      log-opts:
        max-size: 10m

- name: Restore the default log level, and permit the restart that this needs
  hostwright.django.docker_daemon:
    options:
      log-level:
    restart: always
"""

RETURN = r"""
action:
  description: How the options were applied; V(none) if nothing changed or the Engine does not run.
  returned: success
  type: str
  choices: [none, reload, restart]
  sample: reload
keys:
  description: The top-level keys that changed.
  returned: success
  type: list
  elements: str
  sample: [live-restore]
problem:
  description: What is wrong, where, and what to do about it.
  returned: failure
  type: dict
"""

import functools
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.host.docker_daemon import Daemon, without_credentials
from ansible_collections.hostwright.django.plugins.module_utils.host.problems import ProblemError
from ansible_collections.hostwright.django.plugins.module_utils.host.process import run

ARGUMENTS = {
    "options": {"type": "dict", "required": True},
    "restart": {"type": "str", "choices": ["auto", "always"], "default": "auto"},
    "path": {"type": "path", "default": "/etc/docker/daemon.json"},
}
TIMEOUT = 180  # seconds for a restart: running containers get time to stop


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    given = module.params
    daemon = Daemon(Path(given["path"]), functools.partial(run, timeout=TIMEOUT))
    try:
        outcome = daemon.configure(given["options"], given["restart"], module.check_mode)
    except ProblemError as error:
        module.fail_json(msg=str(error), problem=error.problem.as_dict())
    module.exit_json(
        changed=outcome.changed,
        action=outcome.action,
        keys=list(outcome.keys),
        diff={
            "before": without_credentials(outcome.before),
            "after": without_credentials(outcome.after),
            "before_header": given["path"],
            "after_header": given["path"],
        },
    )


if __name__ == "__main__":
    main()

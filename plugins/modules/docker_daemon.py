#!/usr/bin/python
"""Ansible module: options of the Docker Engine, put into effect safely."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: docker_daemon
short_description: Options of the Docker Engine, merged into what the host has and put into effect
version_added: 0.1.0
description:
  - Merges options into the Engine's configuration file, has the Engine check the result where it can (23.0 and newer),
    writes it, and reloads the Engine, or restarts it where a reload is not enough.
  - Never restarts an Engine that runs containers without the label C(hostwright) unless O(restart=always).
  - Refuses a configuration file that is not valid JSON, naming the place, and leaves it as it is.
  - An Engine that does not take the new options gets its former configuration back, and the module fails.
  - An Engine that does not run is left so; it reads the file when it starts.
options:
  options:
    description:
      - The options, by the names of C(daemon.json). Dictionaries are merged at any depth, a null removes a key, any
        other value replaces (lists too). Keys that are not named stay as they are.
    type: dict
    required: true
  restart:
    description:
      - When the Engine may be restarted for options that it does not reload. V(auto) is only while no foreign container
        runs.
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
    description: Decides and refuses as otherwise, and changes nothing.
    support: full
  diff_mode:
    description: Shows the file; passwords in URLs are made unreadable.
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

- name: Go back to the default level of logging, and permit the restart that this needs
  hostwright.django.docker_daemon:
    options:
      log-level:
    restart: always
"""

RETURN = r"""
action:
  description: What made the Engine take the options; V(none) if nothing changed or the Engine does not run.
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
  description: What went wrong, where, and what to do.
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
PATIENCE = 180  # seconds for a restart: containers that run get time to stop


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    given = module.params
    daemon = Daemon(Path(given["path"]), functools.partial(run, timeout=PATIENCE))
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

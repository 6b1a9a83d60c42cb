"""Install Hostwright's own commands on a host."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.host.command import HostCommand

DOCUMENTATION = r"""
module: host_command
short_description: Install Hostwright's own commands on a host
description:
  - Writes the commands' Python package, then the launchers that refer to it, C(/usr/local/sbin/hostwright) and
    C(/usr/local/sbin/hostwright-certificates), and the systemd unit that runs C(hostwright secrets) at boot. A command
    that starts during the installation, for example from cron, uses either the old package or the new one as a whole.
  - Removes the files of earlier versions.
  - Needs one round trip, whether anything changes or not.
options:
  files:
    description: Text of each of the package's own modules, by file name. The modules that it shares with the
      collection are included in this module.
    type: dict
    required: true
attributes:
  check_mode:
    description: Reports the changes without making them.
    support: full
  diff_mode:
    description: Lists the files that change.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Install the commands
  hostwright.django.host_command:
    files: {__init__.py: "", __main__.py: "{{ lookup('ansible.builtin.file', 'main.py') }}"}
"""

RETURN = r"""
files:
  description: Paths that were written or removed.
  type: list
  elements: str
  returned: success
"""


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec={"files": {"type": "dict", "required": True}}, supports_check_mode=True)
    given: dict[str, Any] = module.params
    command = HostCommand(given["files"])
    try:
        changed, obsolete = command.differences(), command.obsolete()
        if (changed or obsolete) and not module.check_mode:
            command.install()
    except OSError as error:
        module.fail_json(msg=f"cannot install the command hostwright: {error}")
    before, after = ("".join(f"{path}\n" for path in paths) for paths in (obsolete, changed))
    paths = [str(path) for path in (*changed, *obsolete)]
    module.exit_json(changed=bool(paths), files=paths, diff={"before": before, "after": after})


if __name__ == "__main__":
    main()

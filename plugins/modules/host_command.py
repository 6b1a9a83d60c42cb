"""Install the command ``hostwright`` on a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.host_command import HostCommand

DOCUMENTATION = r"""
module: host_command
short_description: Install the command hostwright on a host
description:
  - Writes the command's Python package, then the launcher that names it. A run of the command that begins meanwhile, by
    cron for example, finds the old one or the new one as a whole.
  - One round trip, whether anything changes or not.
options:
  files:
    description: Text of each of the package's modules, by file name.
    type: dict
    required: true
  library:
    description: Directory that holds the package; it is the command's own.
    type: path
    default: /usr/local/lib/hostwright
  launcher:
    description: Path of the command.
    type: path
    default: /usr/local/sbin/hostwright
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: Names the files that change.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Install the host command
  hostwright.django.host_command:
    files: {__init__.py: "", __main__.py: "{{ lookup('ansible.builtin.file', 'main.py') }}"}
"""

RETURN = r"""
files:
  description: Paths that changed.
  type: list
  elements: str
  returned: success
"""


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "dict", "required": True},
            "library": {"type": "path", "default": "/usr/local/lib/hostwright"},
            "launcher": {"type": "path", "default": "/usr/local/sbin/hostwright"},
        },
        supports_check_mode=True,
    )
    given: dict[str, Any] = module.params
    command = HostCommand(Path(given["library"]), Path(given["launcher"]), given["files"])
    try:
        paths = [str(path) for path in command.differences()]
        if paths and not module.check_mode:
            command.install()
    except OSError as error:
        module.fail_json(msg=f"cannot install the command {command.launcher}: {error}")
    module.exit_json(changed=bool(paths), files=paths, diff={"before": "", "after": "".join(f"{p}\n" for p in paths)})


if __name__ == "__main__":
    main()

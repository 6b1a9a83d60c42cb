"""Put Nginx's configuration into its volume."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.engine import Engine, EngineError
from ansible_collections.hostwright.django.plugins.module_utils.nginx import (
    Change,
    ConfigurationRefusedError,
    change_of,
    check,
    read,
    unread,
    write,
)

DOCUMENTATION = r"""
module: nginx_configuration
short_description: Put Nginx's configuration into its volume
description:
  - Compares all configuration files with those in the directory that the volume is bound to. If they differ, has
    C(nginx -t) of the image that runs them judge the whole, and only then replaces them and tells the running Nginx.
  - A refused configuration changes nothing; the message shows the line.
options:
  directory:
    description: Directory on the host that the volume is bound to.
    type: path
    required: true
  files:
    description: Text of every configuration file, by its path in the directory.
      Files that are not named here go, but for those of other sites (below C(sites/)).
    type: dict
    required: true
  image:
    description: Image of the Nginx that runs the configuration.
    type: str
    required: true
  container:
    description: Container to tell about a change, if it runs.
    type: str
    required: true
attributes:
  check_mode:
    description: Says what would change. The check by C(nginx -t) is left out while the image is not on the host.
    support: full
  diff_mode:
    description: Shows the files that change.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Configure Nginx
  hostwright.django.nginx_configuration:
    directory: /srv/hostwright/nginx
    files:
      nginx.conf: "{{ lookup('ansible.builtin.template', 'nginx.conf.j2') }}"
    image: "{{ nginx_image }}"
    container: hostwright-nginx
"""

RETURN = r"""
files:
  description: Paths of the files that changed.
  type: list
  elements: str
  returned: success
"""


def difference(change: Change) -> list[dict[str, str]]:
    """The change as Ansible shows it, a part for each file."""
    return [
        {
            "before_header": name,
            "after_header": name,
            "before": change.before[name] or "",
            "after": change.after[name] or "",
        }
        for name in change.after
    ]


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "image": {"type": "str", "required": True},
            "container": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # Nginx, which is not root, reads what is made here
    parameters: dict[str, Any] = module.params
    directory = Path(parameters["directory"])
    engine = Engine()
    try:
        change = change_of(directory, parameters["files"])
        if not change and not unread(directory):
            module.exit_json(changed=False, files=[])
        if not module.check_mode:
            directory.mkdir(parents=True, exist_ok=True)
        if directory.is_dir() and shutil.which("docker") and engine.image(parameters["image"]):
            check(engine, parameters["image"], directory, parameters["files"])
        elif not module.check_mode:
            module.fail_json(
                msg=f"there is no image {parameters['image']} on the host to check the configuration: push it first"
            )
        if not module.check_mode:
            write(directory, change)
            read(engine, parameters["image"], parameters["container"], directory)
        module.exit_json(changed=True, files=list(change.after), diff=difference(change))
    except ConfigurationRefusedError as error:
        module.fail_json(msg=f"Nginx refuses this configuration; the old one stays in place and serves on:\n{error}")
    except EngineError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"cannot write Nginx's configuration below {directory}: {error}")


if __name__ == "__main__":
    main()

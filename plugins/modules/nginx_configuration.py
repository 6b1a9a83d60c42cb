"""Put Nginx's configuration into its volume."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine, EngineError
from ansible_collections.hostwright.django.plugins.module_utils.host.process import search_path
from ansible_collections.hostwright.django.plugins.module_utils.nginx.acme import Store
from ansible_collections.hostwright.django.plugins.module_utils.nginx.configuration import (
    ACME,
    Change,
    ConfigurationRefusedError,
    change_of,
    check,
    read,
    sites_of,
    unread,
    write,
)
from ansible_collections.hostwright.django.plugins.module_utils.nginx.tls_change import Certificates

DOCUMENTATION = r"""
module: nginx_configuration
short_description: Put Nginx's configuration into its volume
description:
  - Compares all configuration files with those in the directory that the volume is bound to. If they differ, has
    C(nginx -t) of the image that runs them judge the whole, and only then replaces them and tells the running Nginx.
  - Certificates take part in that. A site's pair of certificate and key is replaced by one rename.
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
  plain:
    description: Text of files in place of those in O(files), for a site that has no certificate yet; for files that
      are no site's, while no site has one.
    type: dict
    default: {}
  certificates:
    description: Certificates of sites, judged already (hostwright.django.certificate). Sites that are neither here nor
      in O(acme) have none, and what lies there of theirs goes.
    type: list
    elements: dict
    default: []
    suboptions:
      site:
        description: Name of the site.
        type: str
        required: true
      certificate:
        description: Its full chain in PEM.
        type: str
        required: true
      key:
        description: Its private key in PEM.
        type: str
        required: true
      names:
        description: Host names that it has to cover.
        type: list
        elements: str
        required: true
      expires:
        description: When it expires.
        type: str
        required: true
  acme:
    description: Settings of sites that get their certificate from a CA, by their names, for hostwright-certificates.
    type: dict
    default: {}
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
missing:
  description: Packages that sites in O(acme) need and the host lacks.
  type: list
  elements: str
  returned: success
"""

ACME_PACKAGES = {"certbot": "certbot", "cron": "cron", "openssl": "openssl"}  # each by its program


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


def _program(name: str) -> str | None:
    return shutil.which(name, path=search_path())


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "plain": {"type": "dict", "default": {}},
            "certificates": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "site": {"type": "str", "required": True},
                    "certificate": {"type": "str", "required": True},
                    "key": {"type": "str", "required": True, "no_log": True},
                    "names": {"type": "list", "elements": "str", "required": True},
                    "expires": {"type": "str", "required": True},
                },
            },
            "acme": {"type": "dict", "default": {}},
            "image": {"type": "str", "required": True},
            "container": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # Nginx, which is not root, reads what is made here
    parameters: dict[str, Any] = module.params
    directory, acme = Path(parameters["directory"]), parameters["acme"]
    engine = Engine()
    missing = [package for program, package in ACME_PACKAGES.items() if not _program(program)] if acme else []
    try:
        sites = sites_of(parameters["files"])
        certificates = Certificates.of(Store(directory / "tls"), sites, parameters["certificates"], acme)
        files = certificates.files(parameters["files"], parameters["plain"])
        asked = {f"{ACME}/{site}.json": json.dumps(acme[site], indent=1) + "\n" for site in acme}
        change = change_of(directory, files | asked, [f"{ACME}/{site}.json" for site in sites if site not in acme])
        if not change and not certificates and not unread(directory):
            module.exit_json(changed=False, files=[], missing=missing)
        if not module.check_mode:
            directory.mkdir(parents=True, exist_ok=True)
        if directory.is_dir() and shutil.which("docker") and engine.image(parameters["image"]):
            check(engine, parameters["image"], directory, files, certificates.new)
        elif not module.check_mode:
            module.fail_json(
                msg=f"there is no image {parameters['image']} on the host to check the configuration: push it first"
            )
        shown = difference(change) + certificates.difference()
        if not module.check_mode:
            if acme:
                (directory / "acme").mkdir(mode=0o700, exist_ok=True)
                (directory / "acme-challenge").mkdir(exist_ok=True)
            write(directory, change, certificates)
            read(engine, parameters["image"], parameters["container"], directory)
        changed = [part["after_header"] for part in shown]
        module.exit_json(changed=True, files=changed, missing=missing, diff=shown)
    except ConfigurationRefusedError as error:
        module.fail_json(msg=f"Nginx refuses this configuration; the old one stays in place and serves on:\n{error}")
    except EngineError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"cannot write Nginx's configuration below {directory}: {error}")


if __name__ == "__main__":
    main()

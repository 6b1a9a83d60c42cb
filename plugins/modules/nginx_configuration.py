"""Write Nginx's configuration to its volume."""

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
    ConfigurationRefusedError,
    change_of,
    check,
    reload,
    sites_of,
    unread,
    write,
)
from ansible_collections.hostwright.django.plugins.module_utils.nginx.tls_change import Certificates, diff

DOCUMENTATION = r"""
module: nginx_configuration
short_description: Check Nginx's settings, and write its configuration to its volume
description:
  - On the control node, checks the settings of the sites and their certificates, and reports all faults in one message.
    With O(state=checked) it stops there and does not contact the host.
  - Then renders the templates of the calling role (C(nginx.conf.j2), C(scripts/hold.js.j2),
    C(pages/unavailable.html.j2), and C(sites/site.conf.j2) for each site) with the role's variables. C(__nginx_site) is
    the site, C(__nginx_encrypted) whether it has a certificate.
  - On the host, compares these files with those in the directory that the volume is bound to. If they differ, checks
    the new configuration with C(nginx -t) of the image that will run it, then replaces the files and reloads Nginx.
  - Removes files without a template, except those of other sites.
  - Certificates are part of the change. One rename replaces a site's pair of certificate and key. A given certificate
    must match its key, be the first of a chain in which each is signed by the next, cover the site's host names, and be
    valid now. With O(state=checked) there is a warning in its last fourteen days.
  - A refused configuration changes nothing; the message shows the line.
options:
  state:
    description: V(checked) only checks all settings. V(present) checks sites and certificates, and changes the host.
    type: str
    choices: [checked, present]
    required: true
  sites:
    description: The sites to serve.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the site.
        type: str
        required: true
      domains:
        description: Host names of the site, which its certificate must cover.
        type: list
        elements: str
        required: true
      static_url:
        description: Path of the static files, with a slash at both ends.
        type: str
        default: /static/
      media_url:
        description: Path of uploaded files, with a slash at both ends. If empty, they are not served.
        type: str
        default: ''
      timeout:
        description: Seconds within which the site must answer.
        type: int
        default: 60
      certificate:
        description: Certificate for O(tls=files), the full chain in PEM, the site's own certificate first.
        type: str
        default: ''
      certificate_key:
        description: Its private key in PEM, without a passphrase.
        type: str
        default: ''
      login_path:
        description: Path that login forms are sent to, to which O(login_rate) applies; decoded, without a query.
        type: str
        default: ''
      extra:
        description: Lines to add to the site's server block.
        type: str
        default: ''
  tls:
    description: Source of certificates. With V(off) the sites are served by plain HTTP, and certificates on the host
      are removed; with V(files) they are given in O(sites); with V(acme) M(hostwright.django.acme_certificates) obtains
      them from a CA, and until then a site is served by plain HTTP.
    type: str
    choices: ['off', files, acme]
    required: true
  acme:
    description: The CA for O(tls=acme).
    type: dict
    required: true
    suboptions:
      directory:
        description: URL of its directory.
        type: str
        required: true
      email:
        description: E-mail address for the CA's notices. If empty, the CA gets none.
        type: str
        required: true
      ca:
        description: Root certificate (PEM) to verify the CA's directory. If empty, the host's trusted CAs are used.
        type: str
        required: true
  http_port:
    description: Port of the host for HTTP. Required with O(state=checked).
    type: int
  https_port:
    description: Port of the host for HTTPS. Required with O(state=checked).
    type: int
  addresses:
    description: Addresses of the host that the ports are published on, those of IPv6 in brackets. Required
      with O(state=checked).
    type: list
    elements: str
  tmp:
    description: Size of /tmp of the container, in Docker's notation. Required with O(state=checked).
    type: str
  tls_hsts:
    description: Seconds for which browsers use HTTPS only (HSTS). Required with O(state=checked).
    type: int
  login_rate:
    description: Rate of login attempts from one address, for example V(10r/m). If empty, there is no limit.
      Required with O(state=checked).
    type: str
  directory:
    description: Directory on the host that the volume is bound to. Required with O(state=present).
    type: path
  image:
    description: Image of Nginx. Required with O(state=present).
    type: str
  container:
    description: Container of Nginx, which is reloaded after a change if it runs. Required with O(state=present).
    type: str
attributes:
  check_mode:
    description: Reports the changes without making them. Skips C(nginx -t) while the image is not on the host.
    support: full
  diff_mode:
    description: Shows the files that change, and the SHA-256 of keys.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Configure Nginx
  hostwright.django.nginx_configuration:
    state: present
    sites:
      - name: polls
        domains: [polls.example.org]
    tls: acme
    acme:
      directory: https://acme-v02.api.letsencrypt.org/directory
      email: admin@example.org
      ca: ""
    directory: /srv/hostwright/nginx
    image: hostwright-nginx:13-1
    container: hostwright-nginx
"""

RETURN = r"""
files:
  description: Paths of the files that changed.
  type: list
  elements: str
  returned: success with O(state=present)
missing:
  description: Packages that certificates from a CA need and that the host lacks.
  type: list
  elements: str
  returned: success with O(state=present)
acme:
  description: Settings for the CA by site, for O(hostwright.django.acme_certificates#module:acme).
  type: dict
  returned: success with O(state=present)
"""

ACME_PACKAGES = {"certbot": "certbot", "cron": "cron", "openssl": "openssl"}  # package by program


def _program(name: str) -> str | None:
    return shutil.which(name, path=search_path())


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        # Passed by the action plugin: texts by path, and checked certificates.
        argument_spec={
            "directory": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "plain": {"type": "dict", "required": True},  # replace those in files for sites without a certificate
            "certificates": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "site": {"type": "str", "required": True},
                    "certificate": {"type": "str", "required": True},
                    "key": {"type": "str", "required": True, "no_log": True},
                    "names": {"type": "list", "elements": "str", "required": True},
                    "expires": {"type": "str", "required": True},
                },
            },
            "acme": {"type": "dict", "required": True},
            "image": {"type": "str", "required": True},
            "container": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # Nginx, which does not run as root, reads these files
    parameters: dict[str, Any] = module.params
    directory, acme = Path(parameters["directory"]), parameters["acme"]
    engine = Engine()
    missing = [package for program, package in ACME_PACKAGES.items() if not _program(program)] if acme else []
    try:
        sites = sites_of(parameters["files"])
        certificates = Certificates.of(Store(directory / "tls"), sites, parameters["certificates"], acme)
        files = certificates.files(parameters["files"], parameters["plain"])
        settings = {f"{ACME}/{site}.json": json.dumps(acme[site], indent=1) + "\n" for site in acme}
        change = change_of(directory, files | settings, [f"{ACME}/{site}.json" for site in sites if site not in acme])
        if not change and not certificates and not unread(directory):
            module.exit_json(changed=False, files=[], missing=missing)
        if not module.check_mode:
            directory.mkdir(parents=True, exist_ok=True)
        if directory.is_dir() and shutil.which("docker") and engine.image(parameters["image"]):
            check(engine, parameters["image"], directory, files, certificates.new)
        elif not module.check_mode:
            module.fail_json(
                msg=f"the image {parameters['image']}, needed to check the configuration, is missing: push it first"
            )
        parts = [diff(name, change.before[name], change.after[name]) for name in change.after]
        parts += certificates.difference()
        if not module.check_mode:
            if acme:
                (directory / "acme").mkdir(mode=0o700, exist_ok=True)
                (directory / "acme-challenge").mkdir(exist_ok=True)
            write(directory, change, certificates)
            reload(engine, parameters["image"], parameters["container"], directory)
        changed = [part["after_header"] for part in parts]
        module.exit_json(changed=True, files=changed, missing=missing, diff=parts)
    except ConfigurationRefusedError as error:
        module.fail_json(msg=f"Nginx refuses this configuration; the old one stays in place and in use:\n{error}")
    except EngineError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"cannot write Nginx's configuration below {directory}: {error}")


if __name__ == "__main__":
    main()

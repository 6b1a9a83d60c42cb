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
short_description: Judge what Nginx is to serve, and put its configuration into its volume
description:
  - On the control node, judges all that is said about the sites and their certificates, and says everything that cannot
    work in one message. With O(state=checked) that is all, and no host is asked.
  - Then renders the templates of the role that calls it (C(nginx.conf.j2), C(scripts/hold.js.j2),
    C(pages/unavailable.html.j2), and C(sites/site.conf.j2) for each site) with the role's variables. C(__nginx_site) is
    the site, C(__nginx_encrypted) says whether it has a certificate.
  - On the host, compares these files with those in the directory that the volume is bound to. If they differ, has
    C(nginx -t) of the image that runs them judge the whole, and only then replaces them and tells the running Nginx.
  - Files that the templates do not make go, but for those of other sites.
  - Certificates take part in that. A site's pair of certificate and key is replaced by one rename. A given certificate
    must match its key, be the first of a chain in which each is signed by the next, cover the site's host names, and be
    valid now. With O(state=checked) there is a warning in its last fourteen days.
  - A refused configuration changes nothing; the message shows the line.
options:
  state:
    description: V(checked) judges and changes nothing. V(present) judges sites and certificates, and changes the host.
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
        description: Host names that the site answers to, and that its certificate has to cover.
        type: list
        elements: str
        required: true
      static_url:
        description: Path of the static files, with a slash at both ends.
        type: str
        default: /static/
      media_url:
        description: Path of uploaded files, with a slash at both ends. Empty serves none.
        type: str
        default: ''
      timeout:
        description: Seconds the site has to answer.
        type: int
        default: 60
      certificate:
        description: Certificate for O(tls=files), the full chain in PEM, the site's own first.
        type: str
        default: ''
      certificate_key:
        description: Its private key in PEM, without a passphrase.
        type: str
        default: ''
      login_path:
        description: Path that passwords are sent to, which O(login_rate) is for; decoded, and without a query.
        type: str
        default: ''
      extra:
        description: Lines to add to the site's server block.
        type: str
        default: ''
  tls:
    description: Where certificates come from. With V(off) the sites are served by plain HTTP, and certificates that are
      on the host go; with V(files) they are given in O(sites); with V(acme) M(hostwright.django.acme_certificates) gets
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
        description: Address that it writes to. Empty gives none.
        type: str
        required: true
      ca:
        description: Root certificate (PEM) by which the host knows the CA. Empty trusts those that the host knows.
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
    description: Size of /tmp of the container, as Docker writes sizes. Required with O(state=checked).
    type: str
  tls_hsts:
    description: Seconds for which browsers remember that the sites are to be asked by HTTPS only. Required with
      O(state=checked).
    type: int
  login_rate:
    description: How often one address may try to log in, for example V(10r/m). Empty sets no limit.
      Required with O(state=checked).
    type: str
  directory:
    description: Directory on the host that the volume is bound to. Required with O(state=present).
    type: path
  image:
    description: Image of the Nginx that runs the configuration. Required with O(state=present).
    type: str
  container:
    description: Container to tell about a change, if it runs. Required with O(state=present).
    type: str
attributes:
  check_mode:
    description: Says what would change. The check by C(nginx -t) is left out while the image is not on the host.
    support: full
  diff_mode:
    description: Shows the files that change, of keys their SHA-256 only.
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
  description: Packages that certificates from a CA need and the host lacks.
  type: list
  elements: str
  returned: success with O(state=present)
acme:
  description: What is asked of the CA for each site, by its name, as M(hostwright.django.acme_certificates) takes it.
  type: dict
  returned: success with O(state=present)
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
        # What the action plugin hands over: texts by path, and what has been judged.
        argument_spec={
            "directory": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "plain": {"type": "dict", "required": True},  # in place of those in files, for sites without a certificate
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

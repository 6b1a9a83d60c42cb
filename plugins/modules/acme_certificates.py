"""Obtain the first certificates, and schedule renewals by cron."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.host.command import is_as_wanted
from ansible_collections.hostwright.django.plugins.module_utils.host.files import write_durably
from ansible_collections.hostwright.django.plugins.module_utils.host.process import run
from ansible_collections.hostwright.django.plugins.module_utils.nginx.acme import Store, pending

DOCUMENTATION = r"""
module: acme_certificates
short_description: Obtain the first certificates, and schedule renewals by cron
description:
  - Writes the cron file for the command hostwright-certificates (M(hostwright.django.host_command)), then runs the
    command for the sites without a certificate from their CA for their names. It takes one round trip, whether there is
    something to do or not.
  - The command reads each site's settings, which M(hostwright.django.nginx_configuration) has written.
options:
  cron:
    description: Text of the cron file.
    type: str
    required: true
  directory:
    description: Directory on the host that the configuration's volume is bound to.
    type: path
    required: true
  acme:
    description: Settings for the CA by site, as M(hostwright.django.nginx_configuration) returns them.
    type: dict
    required: true
attributes:
  check_mode:
    description: Reports the sites for which a certificate would be obtained, without contacting a CA.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Obtain the certificates
  hostwright.django.acme_certificates:
    directory: /srv/hostwright/nginx
    acme:
      polls:
        names: [polls.example.org]
        directory: https://acme-v02.api.letsencrypt.org/directory
        email: admin@example.org
        ca: ""
    cron: "17 4,16 * * * root /usr/local/sbin/hostwright-certificates"
"""

RETURN = r"""
obtained:
  description: Names of the sites for which a certificate was obtained.
  type: list
  elements: str
  returned: success
"""

PROGRAM = Path("/usr/local/sbin/hostwright-certificates")
CRON = Path("/etc/cron.d/hostwright-certificates")
TIME_LIMIT = 1800.0  # seconds for all sites; each site has its own limit


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "acme": {"type": "dict", "required": True},
            "cron": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    given: dict[str, Any] = module.params
    store = Store(Path(given["directory"]) / "tls")
    if not PROGRAM.exists() and not module.check_mode:
        module.fail_json(msg=f"{PROGRAM} is missing on this host: run the role hostwright.django.host before this one")
    try:
        scheduled = is_as_wanted(CRON, given["cron"], 0o644)
        sites = [site for site, settings in given["acme"].items() if pending(store, site, settings)]
        if not scheduled and not module.check_mode:
            write_durably(CRON, given["cron"], 0o644)
    except OSError as error:
        module.fail_json(msg=f"cannot write {CRON}: {error}")
    shown = ("" if scheduled else f"{CRON}\n") + "".join(f"certificate of {site}\n" for site in sites)
    if sites and not module.check_mode:
        done = run([str(PROGRAM), *sites], TIME_LIMIT)
        if not done.ok:
            module.fail_json(msg=f"{done.said}\nCorrect this, then deploy again or run {PROGRAM} on the host.")
    module.exit_json(changed=bool(sites) or not scheduled, obtained=sites, diff={"before": "", "after": shown})


if __name__ == "__main__":
    main()

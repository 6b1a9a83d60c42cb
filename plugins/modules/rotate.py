"""Give a site on its host a new secret key."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine
from ansible_collections.hostwright.django.plugins.module_utils.release.errors import ReleaseError
from ansible_collections.hostwright.django.plugins.module_utils.release.module import ARGUMENTS, perform, site_of, told
from ansible_collections.hostwright.django.plugins.module_utils.release.transaction import Outcome, Releaser

DOCUMENTATION = r"""
module: rotate
short_description: Give a Django site a new secret key
description:
  - Makes a new secret key on the host, and a new release of the live one's image and configuration with it, by the same
    transaction as M(hostwright.django.release). No request fails, and whatever goes wrong leaves the live release
    serving, with the key it has.
  - What older keys have signed, sessions for example, is accepted for O(days) more (Django's C(SECRET_KEY_FALLBACKS)).
options:
  site:
    description: Name of the site.
    type: str
    required: true
  root:
    description: Directory on the host that holds all sites.
    type: path
    default: /srv/hostwright
  days:
    description: Days that older keys are accepted. V(0) ends what they have signed at once, as after a theft.
    type: int
    default: 14
  by:
    description: Who rotates it, for the audit log.
    type: str
    default: ''
attributes:
  check_mode:
    description: Says which release it would make.
    support: full
  diff_mode:
    description: Shows the release; the key does not show.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Give the site a new secret key
  hostwright.django.rotate:
    site: polls

- name: End all sessions, the key was stolen
  hostwright.django.rotate:
    site: polls
    days: 0
"""

RETURN = r"""
release:
  description: Number of the new live release.
  type: int
  returned: success
previous:
  description: Number of the release that was live before.
  type: int
  returned: success
step:
  description: Step that failed.
  type: str
  returned: failure
"""

DAY = 24 * 60 * 60


def seconds_of(days: int) -> int:
    """How long older keys are accepted.

    Raises:
        ReleaseError: there is no such time.
    """
    if days < 0:
        raise ReleaseError("read the settings", f"{days} days will not do: app_secret_key_days is 0 or more")
    return days * DAY


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={**ARGUMENTS, "days": {"type": "int", "default": 14}}, supports_check_mode=True
    )
    releaser = Releaser(site_of(module), Engine(), audit={"by": module.params["by"], "what": "rotate"})

    def rotate() -> dict[str, Any]:
        seconds = seconds_of(module.params["days"])
        current = releaser.site.live_record("look at the live release")
        if module.check_mode:
            outcome = Outcome("released", releaser.site.next_number(), current)
        else:
            outcome = releaser.rotate(seconds)
        before, after = (f"release: {number}\n" for number in (current.release, outcome.release))
        return {**told(module, outcome), "diff": {"before": before, "after": after}}

    perform(module, releaser, rotate)


if __name__ == "__main__":
    main()

"""Give a site on its host a new secret key."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine
from ansible_collections.hostwright.django.plugins.module_utils.release.errors import ReleaseError
from ansible_collections.hostwright.django.plugins.module_utils.release.module import (
    ARGUMENTS,
    perform,
    result_of,
    site_of,
)
from ansible_collections.hostwright.django.plugins.module_utils.release.outcome import Outcome
from ansible_collections.hostwright.django.plugins.module_utils.release.releases import Releases
from ansible_collections.hostwright.django.plugins.module_utils.release.steps import Step

DOCUMENTATION = r"""
module: rotate
short_description: Give a Django site a new secret key
description:
  - Makes a new secret key on the host and a new release with it, of the live release's image and configuration, by the
    same transaction as M(hostwright.django.release). No request fails. If the rotation fails, the live release still
    serves with its present key.
  - Data signed with older keys, such as sessions, is accepted for O(days) more (Django's C(SECRET_KEY_FALLBACKS)).
options:
  days:
    description: Days that older keys are accepted. With V(0) their signatures become invalid at once, as after a theft.
    type: int
    default: 14
extends_documentation_fragment: hostwright.django.release
attributes:
  check_mode:
    description: Names the release that the module would make.
    support: full
  diff_mode:
    description: Shows the release, without the key.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Give the site a new secret key
  hostwright.django.rotate:
    site: polls

- name: End all sessions after the theft of a key
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
    """Return the seconds that older keys are accepted.

    Raises:
        ReleaseError: ``days`` is negative.
    """
    if days < 0:
        raise ReleaseError(Step.READ_SETTINGS, f"app_secret_key_days: {days} is negative: use 0 or more days")
    return days * DAY


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={**ARGUMENTS, "days": {"type": "int", "default": 14}}, supports_check_mode=True
    )
    releases = Releases(site_of(module), Engine(), audit={"by": module.params["by"], "what": "rotate"})

    def rotate() -> dict[str, Any]:
        seconds = seconds_of(module.params["days"])
        current = releases.site.live_record(Step.READ_LIVE)
        if module.check_mode:
            outcome = Outcome("released", releases.site.next_number(), current)
        else:
            outcome = releases.rotate(seconds)
        before, after = (f"release: {number}\n" for number in (current.release, outcome.release))
        return {**result_of(module, outcome), "diff": {"before": before, "after": after}}

    perform(module, releases, rotate)


if __name__ == "__main__":
    main()

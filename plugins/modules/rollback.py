"""Go back to an older release of a site on its host."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine
from ansible_collections.hostwright.django.plugins.module_utils.release.module import (
    ARGUMENTS,
    HOLD_ARGUMENTS,
    perform,
    result_of,
    site_of,
)
from ansible_collections.hostwright.django.plugins.module_utils.release.outcome import Outcome
from ansible_collections.hostwright.django.plugins.module_utils.release.releases import Releases
from ansible_collections.hostwright.django.plugins.module_utils.release.rollback import RollbackRequest

DOCUMENTATION = r"""
module: rollback
short_description: Go back to an older release of a Django site
description:
  - Makes a new release of the image and the configuration of an older release, by the same transaction as
    M(hostwright.django.release). No request fails. If the rollback fails, the live release still serves.
  - Media files are not part of a release and stay as they are.
options:
  to:
    description: Number of a kept release. The default is the release that was live before the current one.
    type: int
  schema:
    description:
      - What to do with migrations that the live database has and the older release lacks.
      - V(refuse) changes nothing and names them, with an estimate of the rows that were written since then.
      - V(reverse) reverses them on a copy of the database, with the newer image.
      - V(keep) runs the older code on the newer schema.
      - V(generation) takes the database as it was before them. Data written since then is lost.
    type: str
    choices: [refuse, reverse, keep, generation]
    default: refuse
extends_documentation_fragment: [hostwright.django.release, hostwright.django.release.hold]
attributes:
  check_mode:
    description: Names the release that the module would go back to, without a check of the schema.
    support: partial
  diff_mode:
    description: Shows release and image.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Go back to the previous release
  hostwright.django.rollback:
    site: polls

- name: Go back further, on the newer schema
  hostwright.django.rollback:
    site: polls
    to: 3
    schema: keep
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
image:
  description: Image that runs now.
  type: str
  returned: success
migrations:
  description: Migrations that were reversed or applied.
  type: list
  elements: str
  returned: success
held:
  description: Seconds during which requests waited.
  type: float
  returned: success
step:
  description: Step that failed.
  type: str
  returned: failure
"""


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            **HOLD_ARGUMENTS,
            "to": {"type": "int"},
            "schema": {"type": "str", "choices": ["refuse", "reverse", "keep", "generation"], "default": "refuse"},
        },
        supports_check_mode=True,
    )
    given: dict[str, Any] = module.params
    request = RollbackRequest(given["to"], given["schema"], given["hold_seconds"], given["maintenance"])
    releases = Releases(site_of(module), Engine(), audit={"by": given["by"]})

    def roll_back() -> dict[str, Any]:
        current, target = releases.rollback_target(request)
        if module.check_mode:
            outcome = Outcome("released", releases.site.next_number(), current)
        else:
            outcome = releases.rollback(request)
        diff = {
            "before": f"release: {current.release}\nimage: {current.image}\n",
            "after": f"release: {outcome.release} (as {target.release})\nimage: {target.image}\n",
        }
        return {**result_of(module, outcome), "image": target.image, "diff": diff}

    perform(module, releases, roll_back)


if __name__ == "__main__":
    main()

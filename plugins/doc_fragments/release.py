"""Documentation of the options that the modules of releases share."""

from __future__ import annotations


class ModuleDocFragment:
    """``DOCUMENTATION`` has the options of all of them, ``HOLD`` those of the modules that may hold requests."""

    DOCUMENTATION = r"""
options:
  site:
    description: Name of the site; container, volume and directory names begin with it.
    type: str
    required: true
  root:
    description: Directory on the host that holds all sites.
    type: path
    default: /srv/hostwright
  by:
    description: Who calls the module, for the audit log.
    type: str
    default: ''
"""

    HOLD = r"""
options:
  hold_seconds:
    description: Seconds that requests may wait while the database is changed.
    type: float
    default: 10
  maintenance:
    description: Answer 503 with a plain page, for as long as that takes, instead of having requests wait.
    type: bool
    default: false
"""

"""Documentation of the options that the modules of releases share."""

from __future__ import annotations


class ModuleDocFragment:
    """``DOCUMENTATION`` has the options of all these modules, ``HOLD`` those of the modules that may hold requests."""

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
    description: Name of the caller, for the audit log.
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
    description: Answer requests with 503 and a plain page during that time, instead of holding them.
    type: bool
    default: false
"""

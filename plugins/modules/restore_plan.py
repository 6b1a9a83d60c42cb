"""Documentation of the action plugin ``restore_plan``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restore_plan
short_description: Decide whether backups are listed, a live site is restored, or a bare host is rebuilt
description:
  - Checks what the user of C(playbooks/restore.yml) said, and looks whether the host that would change has a live
    release of the site. Changes nothing.
  - Delegate it to O(target) where that is given.
options:
  site:
    description: Name of the site.
    type: str
    required: true
  backup:
    description: V(latest), a backup's id or a time; or, with a C(/), the path of a database on the control node.
    type: str
    default: ''
  source:
    description: Directory of the control node that holds the backups. Without it they are on the host.
    type: str
    default: ''
  target:
    description: Host that gets the backup, if it is not the one whose backup it is.
    type: str
    default: ''
  group:
    description: Inventory group that O(target) must belong to.
    type: str
    required: true
  backup_directory:
    description: Directory on a host without the site that holds the backups of all sites.
    type: str
    default: /var/backups/hostwright
attributes:
  check_mode:
    description: Changes nothing in either mode.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Decide what is done
  hostwright.django.restore_plan:
    site: polls
    backup: latest
    group: prod
  register: restore_plan
"""

RETURN = r"""
began:
  description: When the task began, in seconds since the epoch.
  type: float
  returned: success
does:
  description: V(list) without O(backup); V(restore) over a live release; V(rebuild) on a host without one.
  type: str
  returned: success
host:
  description: Host that changes.
  type: str
  returned: success
backup:
  description: The backup that is asked for; empty for a file.
  type: str
  returned: success
file:
  description: Absolute path of the database to import; empty for a backup.
  type: str
  returned: success
control_node:
  description: Whether the backup or the file is on the control node.
  type: bool
  returned: success
directory:
  description: Directory of the backups; empty for the one that the role backup has set up.
  type: str
  returned: success
host_directory:
  description: Directory of the site's backups on a host without the site.
  type: str
  returned: success
says:
  description: For the user - which site and host are meant, or how to restore one of the listed backups.
  type: str
  returned: success
"""

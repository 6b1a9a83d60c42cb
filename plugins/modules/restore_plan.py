"""Documentation of the action plugin ``restore_plan``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restore_plan
short_description: Decide whether backups are listed, a live site is restored, or a bare host is rebuilt
description:
  - Checks the variables of C(playbooks/restore.yml), and whether the host that would change has a live release of the
    site. Changes nothing.
  - If O(target) is given, delegate the task to it.
options:
  site:
    description: Name of the site.
    type: str
    required: true
  backup:
    description: V(latest), a backup's id or a time. A value with a C(/) is the path of a database on the control node.
    type: str
    default: ''
  source:
    description: Directory on the control node with the backups. By default the backups are on the host.
    type: str
    default: ''
  target:
    description: Host to restore to, if it is not the host that made the backup.
    type: str
    default: ''
  group:
    description: Inventory group that O(target) must belong to.
    type: str
    required: true
  backup_directory:
    description: Directory with the backups of all sites, on a host that does not have the site.
    type: str
    default: /var/backups/hostwright
attributes:
  check_mode:
    description: The action changes nothing in either mode.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Decide between list, restore and rebuild
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
  description: Host that is changed.
  type: str
  returned: success
backup:
  description: The requested backup; empty for a file.
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
  description: Directory of the backups; empty for the directory that the role backup has set up.
  type: str
  returned: success
host_directory:
  description: Directory of the site's backups on a host that does not have the site.
  type: str
  returned: success
says:
  description: Text for the user - the site and the host, or how to restore one of the listed backups.
  type: str
  returned: success
"""

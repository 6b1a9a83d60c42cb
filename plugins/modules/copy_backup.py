"""Documentation of the action plugin ``copy_backup``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: copy_backup
short_description: Copy a backup from the control node to a host, or the other way
description:
  - With O(source), copies a backup from the control node into a directory on the host.
  - Without O(source), fetches a backup from the host into an archive. Ansible removes the archive when the playbook
    ends, also after a failure.
  - In both cases the free space is checked first, and no other copy remains.
options:
  directory:
    description: Directory of the site's backups on the host. With O(source) it is created if it is missing.
    type: str
    required: true
  names:
    description: Names of the backup's files, as M(hostwright.django.restore) returns them.
    type: list
    elements: str
    required: true
  source:
    description: Directory on the control node with the files.
    type: path
    default: ''
attributes:
  check_mode:
    description: Copies nothing.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Fetch a backup
  hostwright.django.copy_backup:
    directory: "{{ found.chosen.directory }}"
    names: "{{ found.chosen.names }}"
"""

RETURN = r"""
archive:
  description: The archive on the control node, for O(hostwright.django.restore#module:directory); empty with O(source).
  type: str
  returned: success
"""

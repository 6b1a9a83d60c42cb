"""Documentation of the action plugin ``project``; it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: project
short_description: Read a Django project on the control node
description:
  - Checks that a directory of the control node contains a Django project that can be built, and detects its version,
    settings module, WSGI callable and requirements. Changes nothing.
options:
  source:
    description: Directory that contains C(manage.py).
    type: path
    required: true
  version:
    description: The image's tag. Empty means the first line of the file C(VERSION) in O(source).
    type: str
    default: ''
  settings:
    description: Dotted name of the settings module. Empty means the default in C(manage.py).
    type: str
    default: ''
  wsgi:
    description: Dotted name of the WSGI callable. Empty means C(WSGI_APPLICATION) of the settings, or C(application) in
      the nearest module C(wsgi).
    type: str
    default: ''
  requirements:
    description: Requirements file or C(pyproject.toml), relative to O(source).
    type: str
    default: requirements.txt
attributes:
  check_mode:
    description: Changes nothing in either mode.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Read the site's project
  hostwright.django.project:
    source: ../app
  register: project
"""

RETURN = r"""
source:
  description: Absolute path of the project.
  type: str
  returned: success
version:
  description: The image's tag.
  type: str
  returned: success
settings:
  description: Dotted name of the settings module.
  type: str
  returned: success
wsgi:
  description: Dotted name of the WSGI callable.
  type: str
  returned: success
requirements:
  description: Text of one flat requirements file.
  type: str
  returned: success
digest:
  description: SHA-256 of the source and the requirements.
  type: str
  returned: success
revision:
  description: Git commit of the source, with C(-dirty) if files differ from it; empty outside Git.
  type: str
  returned: success
"""

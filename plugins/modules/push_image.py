"""Bring an image to a host without a registry. All of it is in the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: push_image
short_description: Bring an image to a host without a registry
description:
  - Asks the host in one round trip whether it has the image, and does nothing if so.
  - Otherwise sends the layers that the host lacks, compressed, through Ansible's own connection and loads them. The tag
    is moved only when the image arrived whole and a container can be created of it. If the Engine does not take the
    layers alone, the whole image is tried once. On any failure the tag is as it was.
  - A push that is cut is continued by the next one. What has arrived is kept for a day.
  - Host and control node need nothing but the Docker Engine and Python. Both image stores of Docker are supported.
  - An image whose version a release of the host already names is never replaced by one of another source.
options:
  image:
    description: Full name of the image.
    type: str
    required: true
  archive:
    description:
      - Description of the exported image on the control node, as M(hostwright.django.build_image) returns it; empty in
        check mode where the image would be built first.
    type: path
    required: true
  layers:
    description: Diff ids of the image's layers, bottom up.
    type: list
    elements: str
    required: true
  digest:
    description: Digest of all that decides the image's content.
    type: str
    required: true
  source_digest:
    description: Digest of the site's source alone, which O(records) name.
    type: str
    default: ''
  platform:
    description: Machine the image runs on, for example C(x86_64). Empty leaves it unchecked.
    type: str
    default: ''
  records:
    description: Directory on the host with the site's release records. A version that one of them names is immutable.
    type: path
    default: ''
attributes:
  check_mode:
    description: Says whether the image would be sent.
    support: full
  diff_mode:
    description: Shows layers and bytes.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Push the site's image
  hostwright.django.push_image:
    image: "{{ built.image }}"
    archive: "{{ built.archive }}"
    layers: "{{ built.layers }}"
    digest: "{{ built.digest }}"
"""

RETURN = r"""
image:
  description: Full name of the image.
  type: str
  returned: success
bytes:
  description: Compressed size of the layers that were sent.
  type: int
  returned: success
layers:
  description: Number of layers that were sent.
  type: int
  returned: success
way:
  description: C(none) if the host had the image, C(layers) if the ones it lacked were sent, C(whole) if all of them.
  type: str
  returned: success
"""

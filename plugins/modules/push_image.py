"""Documentation of the action plugin ``push_image``; it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: push_image
short_description: Send an image to a host without a registry
description:
  - Asks the host in one round trip whether it has the image, and does nothing if so.
  - Otherwise sends the layers that the host lacks, compressed, through Ansible's own connection, and loads them. The
    tag is set only when the image has arrived completely and a container can be created from it. If the Engine cannot
    load these layers alone, all layers are sent, once. On any failure the tag is as before.
  - A push that was interrupted is continued by the next one. Pieces that have arrived are kept for a day.
  - Host and control node need only the Docker Engine and Python. Both image stores of Docker are supported.
  - An image whose version is deployed on the host is never replaced by one built from another source.
options:
  image:
    description: Full name of the image.
    type: str
    required: true
  archive:
    description:
      - Path on the control node of the exported image's description, as M(hostwright.django.build_image) returns it;
        empty in check mode if the image would be built first.
    type: path
    required: true
  layers:
    description: Diff ids of the image's layers, bottom up.
    type: list
    elements: str
    required: true
  digest:
    description: Digest of everything that determines the image's content.
    type: str
    required: true
  source_digest:
    description: Digest of the site's source alone, which the release records in O(records) contain.
    type: str
    default: ''
  platform:
    description: Processor that the image is for, for example C(x86_64). An empty value skips the check.
    type: str
    default: ''
  records:
    description: Directory on the host with the site's release records. A version that a record names is immutable.
    type: path
    default: ''
attributes:
  check_mode:
    description: Reports whether the image would be sent.
    support: full
  diff_mode:
    description: Shows the number of layers and bytes to send.
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
  description: C(none) if the host had the image, C(layers) if the missing layers were sent, C(whole) if all were.
  type: str
  returned: success
"""

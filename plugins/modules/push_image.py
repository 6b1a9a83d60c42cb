"""Bring an image to a host without a registry."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.engine import Engine, EngineError

DOCUMENTATION = r"""
module: push_image
short_description: Bring an image to a host without a registry
description:
  - Asks the host in one round trip whether it has the image, and does nothing if so.
  - Otherwise sends the image's archive through Ansible's own connection and loads it. The tag is moved only when the
    image arrived whole and a container can be created of it.
  - An image whose version a release of the host already names is never replaced by one of another source.
options:
  image:
    description: Full name of the image.
    type: str
    required: true
  archive:
    description: Archive of the image on the control node, as M(hostwright.django.build_image) returns it.
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
  size:
    description: Uncompressed size of the image in bytes; that much and the archive must fit on the host.
    type: int
    default: 0
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
  description: Size of what was sent.
  type: int
  returned: success
way:
  description: C(none) if the host had the image, C(whole) if all of it was sent.
  type: str
  returned: success
"""

DIGEST_LABEL = "org.hostwright.build-digest"


def deployed_digests(records: Path, reference: str) -> dict[str, int]:
    """Digests of the sources that releases of a host were made of under one image name, each with its last release."""
    found: dict[str, int] = {}
    for path in sorted(records.glob("*/release.json")):
        try:
            record = json.loads(path.read_text())
            image, digest, release = record["image"], record["source_digest"], int(record["release"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise EngineError(f"the release record {path} cannot be read: {error}") from error
        if image == reference:
            found[digest] = max(found.get(digest, 0), release)
    return found


def refusal(records: Path, reference: str, digest: str) -> str:
    """Why the host may not take an image under that name; empty if it may."""
    for known, release in deployed_digests(records, reference).items():
        if known != digest:
            return (
                f"{reference} is deployed here already (release {release}, source {known[:12]}) and the source to "
                f"deploy now is another one ({digest[:12]}): a version is immutable. Raise the number in VERSION, or "
                "give another one with -e site_version=…"
            )
    return ""


def load(engine: Engine, image: str, layers: list[str], archive: Path, sha256: str) -> None:
    """Load an archive so that on any failure the tag is as it was.

    Raises:
        EngineError: the archive did not arrive whole, or the Engine did not take it.
    """
    with archive.open("rb") as content:
        arrived = hashlib.file_digest(content, "sha256").hexdigest()
    if arrived != sha256:
        raise EngineError(
            f"the archive of {image} arrived damaged (SHA-256 {arrived[:12]}, sent {sha256[:12]}): run again"
        )
    before = engine.image(image)
    try:
        engine("load", "--input", str(archive))
        loaded = engine.image(image)
        if loaded is None or list(loaded.layers) != layers:
            raise EngineError(f"the Engine loaded something else than {image}")
        engine("rm", "--volumes", engine("create", "--label", "hostwright=check", "--pull=never", image))
    except EngineError:
        if before:
            engine.run(["tag", before.id, image])
        else:
            engine.run(["image", "rm", "--force", image])
        raise


def main() -> None:
    """Entry point of the module; the phases are chosen by the action plugin of the same name."""
    module = AnsibleModule(
        argument_spec={
            "phase": {"type": "str", "required": True, "choices": ["query", "load"]},
            "image": {"type": "str", "required": True},
            "layers": {"type": "list", "elements": "str", "required": True},
            "digest": {"type": "str", "required": True},
            "source_digest": {"type": "str", "default": ""},
            "size": {"type": "int", "default": 0},
            "platform": {"type": "str", "default": ""},
            "records": {"type": "path", "default": ""},
            "archive": {"type": "path"},
            "sha256": {"type": "str"},
        },
        supports_check_mode=True,
    )
    parameters: dict[str, Any] = module.params
    engine = Engine()
    reference = parameters["image"]
    try:
        if parameters["phase"] == "load":
            load(engine, reference, parameters["layers"], Path(parameters["archive"]), parameters["sha256"])
            module.exit_json(changed=True)
        if parameters["platform"] not in ("", platform.machine()):
            module.fail_json(
                msg=f"{reference} is for {parameters['platform']}, this host is {platform.machine()}: name a "
                "builder of that kind with image_builder"
            )
        records, source = parameters["records"], parameters["source_digest"]
        reason = refusal(Path(records), reference, source) if records else ""
        if reason:
            module.fail_json(msg=reason)
        if module.check_mode and shutil.which("docker") is None:
            module.exit_json(changed=False, present=False)
        image = engine.image(reference)
        present = (
            image is not None
            and list(image.layers) == parameters["layers"]
            and image.labels.get(DIGEST_LABEL) == parameters["digest"]
        )
        if not present:
            root = engine("info", "--format", "{{.DockerRootDir}}")
            free = shutil.disk_usage(root).free
            if free < 2 * parameters["size"]:
                module.fail_json(
                    msg=f"no room for {reference}: {2 * parameters['size'] / 1e6:.0f} MB are needed on {root}, "
                    f"{free / 1e6:.0f} MB are free; make room and run again"
                )
        module.exit_json(changed=False, present=present)
    except (EngineError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()

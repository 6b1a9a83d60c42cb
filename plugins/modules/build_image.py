"""The steps of building a site's or a service's image that run on the builder."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.contract import SOURCE_LABEL
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine, EngineError
from ansible_collections.hostwright.django.plugins.module_utils.image.bootstrap import Base, BootstrapError, ensure_base
from ansible_collections.hostwright.django.plugins.module_utils.image.store import ImageStore, StoreError

DOCUMENTATION = r"""
module: build_image
short_description: Build an image from files of the control node, only if they have changed
description:
  - Collects a build context on the control node. The machine that the task is delegated to (the builder) bootstraps the
    base image from Debian's packages with mmdebstrap and builds the image.
  - A label of the image contains the digest of everything that determines its content. While that is unchanged, nothing
    is built, and Docker's builder is not called.
  - The image is exported once to the control node, which serves all hosts. A layer is compressed once, even if several
    images share it.
  - pip's usual environment variables (C(PIP_INDEX_URL), C(PIP_CERT) and so on) and the proxy variables of the control
    node apply to the build stages and leave no trace in the image.
options:
  name:
    description: Name of the image.
    type: str
    required: true
  tag:
    description: Tag of the image; for a site its version.
    type: str
    required: true
  dockerfile:
    description: Text of the Dockerfile. The build arguments C(BASE) and C(BUILD_BASE) name the base images.
    type: str
    required: true
  directories:
    description: Directories of the control node to copy into the context, by their names there.
    type: dict
    default: {}
  texts:
    description: Text files to write into the context, by their names there.
    type: dict
    default: {}
  pip:
    description: Whether to add a directory C(build/) to the context, with pip and the control node's settings for it.
    type: bool
    default: false
  debian:
    description: Debian release of the bootstrapped base.
    type: str
    choices: ['12', '13']
    default: '13'
  packages:
    description: Debian packages of the bootstrapped base.
    type: list
    elements: str
    default: []
  build_packages:
    description: Additional Debian packages of the build stages, for example a compiler.
    type: list
    elements: str
    default: []
  mirror:
    description: Debian mirror. With an empty value, mmdebstrap chooses one.
    type: str
    default: ''
  serial:
    description: Raise it to bootstrap the base again, with today's packages.
    type: int
    default: 1
  base:
    description: A registry image to use as the base instead of a bootstrapped one.
    type: str
    default: ''
  platform:
    description: Processor (C(x86_64), C(aarch64)) that the image must be for. Empty means the builder's.
    type: str
    default: ''
  labels:
    description: Labels of the image.
    type: dict
    default: {}
  export:
    description: Whether to export the image to the control node; not needed if only the builder runs it.
    type: bool
    default: true
  source_digest:
    description: Digest of the source alone, stored as a label. The content of a tag may change for other reasons too.
    type: str
    default: ''
  predict:
    description: Build and export in check mode too, so that the push and the migrations can be predicted.
    type: bool
    default: false
  archive_directory:
    description: Directory of the control node for exported images.
    type: path
    required: true
attributes:
  check_mode:
    description: Reports whether the image would be built; with O(predict) it is built, and hosts are not changed.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Build the site's image
  hostwright.django.build_image:
    name: polls
    tag: "1.0"
    dockerfile: "{{ lookup('ansible.builtin.template', 'Dockerfile.j2') }}"
    directories:
      source: ../app
    packages: [python3]
    archive_directory: ~/.cache/hostwright
  delegate_to: workstation
  run_once: true
"""

RETURN = r"""
image:
  description: The image's full name.
  type: str
  returned: success
image_id:
  description: The builder's id of the image; empty if check mode predicts that it would be built.
  type: str
  returned: success
digest:
  description: SHA-256 of everything that determines the image's content.
  type: str
  returned: success
source_digest:
  description: The option O(source_digest).
  type: str
  returned: success
layers:
  description: Diff ids of the layers, bottom up.
  type: list
  returned: success
archive:
  description: Path on the control node of the exported image's description; empty if it was not exported.
  type: str
  returned: success
size:
  description: Uncompressed size in bytes.
  type: int
  returned: success
platform:
  description: Processor that the image is for.
  type: str
  returned: success
"""

DIGEST_LABEL = "org.hostwright.build-digest"
BUILDER_LINE = re.compile(
    r"\s*---> |Step \d+/\d+ |Removing intermediate container|DEPRECATED: |\s+Install the buildx|\s+https://docs.docker.com/go/buildx"
    r"|Sending build context|The command '/bin/sh"
)


def query(engine: Engine, parameters: dict[str, Any]) -> dict[str, Any]:
    """Report whether the builder has the image with that digest, and the base images to build it."""
    image = engine.image(parameters["reference"])
    found = image.labels.get(DIGEST_LABEL, "") if image else ""
    bases = [base for base in bases_of(parameters).values() if isinstance(base, Base)]
    return {
        "reference": parameters["reference"],
        "present": found == parameters["digest"],
        "digest": found,
        "base_present": all(engine.image(base.tag) for base in bases),
        "image_id": image.id if image else "",
        "layers": list(image.layers) if image else [],
        "size": image.size if image else 0,
        "platform": platform.machine(),
    }


def bases_of(parameters: dict[str, Any]) -> dict[str, Base | str]:
    """The base images by build argument: both the named one, or two to bootstrap."""
    if parameters["base"]:
        return {"BASE": parameters["base"], "BUILD_BASE": parameters["base"]}

    def base(packages: list[str]) -> Base:
        return Base(parameters["debian"], tuple(sorted(set(packages))), parameters["mirror"], parameters["serial"])

    packages = parameters["packages"]
    return {"BASE": base(packages), "BUILD_BASE": base([*packages, *parameters["build_packages"]])}


def build(parameters: dict[str, Any]) -> None:
    """Run Docker's builder on the context.

    Raises:
        EngineError: the build failed; the message contains the last lines of its output.
    """
    with tempfile.TemporaryDirectory(prefix="hostwright-build-") as directory:
        shutil.unpack_archive(parameters["context"], directory, "tar")
        with (Path(directory) / "Dockerfile").open("a") as dockerfile:
            dockerfile.write(f"\n{label(parameters)}\n")
        command = ["docker", "build", "--force-rm", "--network", "host", "--tag", parameters["reference"]]
        for name, base in bases_of(parameters).items():
            command += ["--build-arg", f"{name}={base.tag if isinstance(base, Base) else base}"]
        environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "BUILDKIT_PROGRESS": "plain"}
        done = subprocess.run(
            [*command, directory],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            tail = "\n".join(command_output(done.stdout.decode(errors="replace"))[-20:])
            raise EngineError(f"the build of {parameters['reference']} failed; its last lines of output:\n{tail}")


def label(parameters: dict[str, Any]) -> str:
    """One LABEL instruction for all labels: the classic builder needs 55 ms for each instruction."""
    labels = {"hostwright": "image", DIGEST_LABEL: parameters["digest"], **parameters["labels"]}
    if parameters["source_digest"]:
        labels[SOURCE_LABEL] = parameters["source_digest"]
    return "LABEL " + " ".join(f"{name}={_quoted(value)}" for name, value in labels.items())


def _quoted(value: str) -> str:
    """Quote a value for a Dockerfile.

    Raises:
        EngineError: the value contains a line break, which a Dockerfile cannot express.
    """
    if "\n" in value:
        raise EngineError(f"an image's label cannot contain a line break: {value!r}")
    return '"' + re.sub(r'([\\"$])', r"\\\1", value) + '"'


def command_output(output: str) -> list[str]:
    """Output of a build's commands, without colours and without the builder's own lines."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in output.splitlines()]
    return [line for line in lines if line and not BUILDER_LINE.match(line)]


def ensure_exported(engine: Engine, store: ImageStore, image: dict[str, Any]) -> None:
    """Export a built image into the store on this machine, unless it is there."""
    if image["present"] and not store.has_image(store.description(image["reference"], image["image_id"])):
        store.export(engine, image["reference"])


def pack(engine: Engine, parameters: dict[str, Any]) -> None:
    """Pack the layers of the image that the control node's store lacks, for the login user to fetch."""
    packed = Path(parameters["archive"])
    with tempfile.TemporaryDirectory(prefix="hostwright-export-") as directory:
        ImageStore(Path(directory)).export(engine, parameters["reference"], parameters["known"])
        with tarfile.open(packed, "w") as tar:
            tar.add(directory, arcname=".")
    owner = packed.parent.stat()  # the login user, who fetches it
    os.chown(packed, owner.st_uid, owner.st_gid)


def main() -> None:
    """Entry point of the module; the action plugin of the same name chooses the phase."""
    module = AnsibleModule(
        argument_spec={
            "phase": {"type": "str", "required": True, "choices": ["query", "bootstrap", "build", "export"]},
            "reference": {"type": "str", "required": True},
            "digest": {"type": "str", "required": True},
            "debian": {"type": "str", "required": True},
            "packages": {"type": "list", "elements": "str", "required": True},
            "build_packages": {"type": "list", "elements": "str", "required": True},
            "mirror": {"type": "str", "required": True},
            "serial": {"type": "int", "required": True},
            "base": {"type": "str", "required": True},
            "platform": {"type": "str", "required": True},
            "labels": {"type": "dict", "default": {}},
            "source_digest": {"type": "str", "default": ""},
            "context": {"type": "path"},
            "store": {"type": "path"},
            "archive": {"type": "path"},
            "known": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    engine = Engine()
    try:
        machine = platform.machine()
        if parameters["platform"] and parameters["platform"] != machine:
            module.fail_json(
                msg=f"the image must be for {parameters['platform']}, but the builder is {machine}: set image_builder "
                "to a builder with that processor"
            )
        if parameters["phase"] == "bootstrap":
            for base in bases_of(parameters).values():
                if isinstance(base, Base):
                    ensure_base(engine, base)
        elif parameters["phase"] == "build":
            build(parameters)
        elif parameters["phase"] == "export":
            pack(engine, parameters)
        image = query(engine, parameters)
        if parameters["store"]:
            ensure_exported(engine, ImageStore(Path(parameters["store"])), image)
        module.exit_json(changed=False, **image)
    except (EngineError, BootstrapError, StoreError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()

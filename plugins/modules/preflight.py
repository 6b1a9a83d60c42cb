#!/usr/bin/python
"""Ansible module: check a host before anything is changed on it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: preflight
short_description: Check a host before anything is changed on it
version_added: 0.1.0
description:
  - Checks in one round trip that a host meets the requirements, and reports all problems at once, each with what is
    wrong, where, and what to do. Fails if there is a problem.
  - Changes nothing, in check mode or not.
  - Returns the facts that the roles of this collection need, so that they need not gather all facts.
options:
  distributions:
    description:
      - The allowed distributions, each as C(ID VERSION_ID) of its os-release file. An empty list allows any.
    type: list
    elements: str
    default: [debian 12, debian 13, ubuntu 24.04, ubuntu 26.04]
  platform:
    description:
      - The processor that the image is for, like V(x86_64) or V(aarch64); V(amd64), V(arm64) and V(linux/amd64) are
        accepted too. An empty value skips the check.
    type: str
    default: ""
  engine:
    description:
      - Whether a running Docker Engine is required. With V(optional) it may be missing, or stopped if systemd can start
        it.
    type: str
    choices: [optional, required]
    default: optional
  engine_minimum:
    description:
      - The oldest version that a running Docker Engine may have. An empty value skips the check.
    type: str
    default: "20.10"
  space:
    description:
      - Disk space that is needed. Needs on the same file system are added up.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - An absolute path, which need not exist yet; or V(engine) for the directory of the Engine's images.
        type: str
        required: true
      megabytes:
        description: Megabytes (of 1000000 bytes) that are needed there.
        type: int
        required: true
  ports:
    description:
      - TCP ports of the host that must be free, or published by O(container).
    type: list
    elements: int
    default: []
  container:
    description:
      - The container that may already publish the ports.
    type: str
    default: hostwright-nginx
  users:
    description:
      - Accounts that must exist on the host.
    type: list
    elements: str
    default: []
  os_release:
    description:
      - The os-release file; set another one for a host whose own file does not name the real distribution.
    type: path
    default: /etc/os-release
  daemon_configuration:
    description:
      - The Engine's configuration file, which must be valid if it exists.
    type: path
    default: /etc/docker/daemon.json
attributes:
  check_mode:
    description: Works the same in check mode, because it changes nothing.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
requirements:
  - Root privileges, to find the programs that listen on ports and to query the Docker Engine.
author:
  - The Hostwright developers
"""

EXAMPLES = r"""
- name: Check that the host can run the site
  hostwright.django.preflight:
    platform: x86_64
    space:
      - path: engine
        megabytes: 1000
      - path: /srv/hostwright
        megabytes: 500
    ports: [80, 443]
  register: host

- name: Require a running Engine
  hostwright.django.preflight:
    engine: required
    engine_minimum: "23.0"
"""

RETURN = r"""
problems:
  description: What is wrong, where, and what to do about it; empty if the host meets all requirements.
  returned: always
  type: list
  elements: dict
  contains:
    what: {description: What is wrong., type: str, returned: always}
    where: {description: Where it was found., type: str, returned: always}
    do: {description: What to do about it., type: str, returned: always}
  sample:
    - what: TCP port 80 is taken
      where: apache2 (pid 812) listening on 0.0.0.0:80
      do: stop it ('systemctl status 812' names its service), or deploy on another port
distribution: {description: The distribution's ID., returned: success, type: str, sample: debian}
distribution_version: {description: Its version; empty for Debian testing., returned: success, type: str, sample: "13"}
codename: {description: Its code name., returned: success, type: str, sample: trixie}
machine: {description: The processor., returned: success, type: str, sample: x86_64}
python_version: {description: The host's Python., returned: success, type: str, sample: 3.13.5}
systemd: {description: Whether systemd runs the host., returned: success, type: bool}
requests: {description: Whether the host's Python has requests., returned: success, type: bool}
package_interrupted: {description: Whether dpkg was interrupted., returned: success, type: bool}
engine_present: {description: Whether the host has a Docker Engine., returned: success, type: bool}
engine_answers: {description: Whether it answers., returned: success, type: bool}
engine_client: {description: Whether the docker program is installed., returned: success, type: bool}
engine_version: {description: Its version; empty if it does not answer., returned: success, type: str, sample: 26.1.5}
engine_package:
  description: The Debian package that installed it; empty if none did.
  returned: success
  type: str
  sample: docker.io
engine_unit: {description: Whether systemd has docker.service., returned: success, type: bool}
engine_enabled: {description: Whether docker.service is enabled., returned: success, type: bool}
storage_driver: {description: Its storage driver., returned: success, type: str, sample: overlay2}
data_root: {description: Its data root., returned: success, type: str, sample: /var/lib/docker}
image_root: {description: The directory of its images., returned: success, type: str, sample: /var/lib/docker}
free_megabytes:
  description: Free megabytes by the paths of O(space).
  returned: success
  type: dict
  sample: {engine: 41200}
users_outside_docker:
  description: The accounts in O(users) that are not in the group docker.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.host import preflight, problems

ARGUMENTS = {
    "distributions": {
        "type": "list",
        "elements": "str",
        "default": ["debian 12", "debian 13", "ubuntu 24.04", "ubuntu 26.04"],
    },
    "platform": {"type": "str", "default": ""},
    "engine": {"type": "str", "choices": ["optional", "required"], "default": "optional"},
    "engine_minimum": {"type": "str", "default": "20.10"},
    "space": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"path": {"type": "str", "required": True}, "megabytes": {"type": "int", "required": True}},
    },
    "ports": {"type": "list", "elements": "int", "default": []},
    "container": {"type": "str", "default": "hostwright-nginx"},
    "users": {"type": "list", "elements": "str", "default": []},
    "os_release": {"type": "path", "default": "/etc/os-release"},
    "daemon_configuration": {"type": "path", "default": "/etc/docker/daemon.json"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    given = module.params
    for space in given["space"]:
        if space["path"] != preflight.ENGINE_SPACE and not Path(space["path"]).is_absolute():
            module.fail_json(msg=f"space: path '{space['path']}' is neither absolute nor '{preflight.ENGINE_SPACE}'")
    for port in given["ports"]:
        if not 1 <= port <= 65535:
            module.fail_json(msg=f"ports: {port} is not a TCP port; ports go from 1 to 65535")
    expected = preflight.Expectation(
        distributions=tuple(given["distributions"]),
        platform=given["platform"],
        engine=given["engine"],
        engine_minimum=given["engine_minimum"],
        space=tuple(preflight.Space(space["path"], space["megabytes"]) for space in given["space"]),
        ports=tuple(given["ports"]),
        container=given["container"],
        users=tuple(given["users"]),
    )
    host = preflight.Host(os_release=given["os_release"], daemon_configuration=given["daemon_configuration"])
    try:
        findings = preflight.examine(host, expected)
    except ValueError as error:
        module.fail_json(msg=f"engine_minimum: {error}")
    found = [problem.as_dict() for problem in findings.problems]
    if found:
        module.fail_json(msg=problems.report(findings.problems, preflight.name()), problems=found)
    module.exit_json(changed=False, problems=found, **findings.facts)


if __name__ == "__main__":
    main()

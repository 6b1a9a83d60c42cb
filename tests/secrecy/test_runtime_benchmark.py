"""Section 5, Container Runtime, of the CIS Docker Benchmark 1.6.0, as docker-bench-security checks it.

Every container that Hostwright starts is checked, short-lived ones too. ``WANTED`` lists the intended warnings, with
the reason; no other warning may occur.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.site import NAME, Site
from tests.secrecy.story import Container, Story

Check = Callable[[Container], bool]
OURS = ("/srv/hostwright/", "/run/hostwright/secrets/", "/var/backups/hostwright/", "/var/lib/docker/volumes/")
ALWAYS = "a reboot or a restart of the Engine must bring the site back, which on-failure does not"
# Kinds of containers by their name, for any number of the release.
KINDS = {
    rf"{NAME}-\d+": "web",
    rf"{NAME}-\d+-writer": "worker",
    rf"{NAME}-\d+-job-note": "job",
    rf"{NAME}-release": "migrator",
    rf"{NAME}-release-hook": "hook",
    rf"{NAME}-(backup|verify|drill)": "backup",
    "hostwright-nginx": "nginx",
}
WANTED: dict[tuple[str, str], str] = {
    ("5.8", "nginx"): "it serves the public, at the ports that browsers use",
    ("5.9", "nginx"): "it needs these ports",
    ("5.14", "nginx"): "it serves the public, at every address; nginx_addresses can limit them",
    ("5.15", "nginx"): ALWAYS,
    ("5.15", "web"): ALWAYS,
    ("5.15", "worker"): ALWAYS,
    ("5.27", "worker"): "it serves no requests; its container ends with its command, and the Engine starts it again",
    ("5.27", "job"): "its exit status is its health",
    ("5.27", "migrator"): "its exit status is its health",
    ("5.27", "hook"): "its exit status is its health",
    ("5.27", "backup"): "its exit status is its health, and it has a time limit",
}


def host(container: Container, name: str) -> Any:
    return container["HostConfig"][name]


def bindings(container: Container) -> list[dict[str, str]]:
    return [one for several in (host(container, "PortBindings") or {}).values() for one in several or []]


def sources(container: Container) -> list[str]:
    return [mount["Source"] for mount in container["Mounts"] if mount["Type"] != "tmpfs"]


def security(container: Container, word: str) -> bool:
    return any(word in option for option in host(container, "SecurityOpt") or [])


CHECKS: dict[str, tuple[str, Check]] = {
    "5.2": ("an AppArmor profile is enabled", lambda c: not security(c, "apparmor=unconfined")),
    "5.3": ("SELinux security options are set", lambda c: bool(host(c, "SecurityOpt"))),
    "5.4": (
        "Linux kernel capabilities are restricted",
        lambda c: host(c, "CapDrop") == ["ALL"] and not host(c, "CapAdd"),
    ),
    "5.5": ("privileged containers are not used", lambda c: not host(c, "Privileged")),
    "5.6": ("sensitive host directories are not mounted", lambda c: all(path.startswith(OURS) for path in sources(c))),
    "5.8": ("privileged ports are not mapped", lambda c: all(int(one["HostPort"]) > 1023 for one in bindings(c))),
    "5.9": ("only needed ports are open", lambda c: not bindings(c) and not host(c, "PublishAllPorts")),
    "5.10": ("the host's network namespace is not shared", lambda c: host(c, "NetworkMode") != "host"),
    "5.11": ("memory is limited", lambda c: host(c, "Memory") > 0),
    "5.12": ("CPU priority is set", lambda c: host(c, "CpuShares") > 0),
    "5.13": ("the root file system is read-only", lambda c: host(c, "ReadonlyRootfs")),
    "5.14": (
        "traffic is bound to a specific interface",
        lambda c: all(one["HostIp"] not in ("", "0.0.0.0", "::") for one in bindings(c)),  # noqa: S104
    ),
    "5.15": ("restarts are limited", lambda c: host(c, "RestartPolicy")["Name"] in ("", "no")),
    "5.16": ("the host's process namespace is not shared", lambda c: host(c, "PidMode") == ""),
    "5.17": ("the host's IPC namespace is not shared", lambda c: host(c, "IpcMode") == "private"),
    "5.18": ("host devices are not exposed", lambda c: not host(c, "Devices") and not host(c, "DeviceCgroupRules")),
    "5.19": ("ulimits are set", lambda c: bool(host(c, "Ulimits"))),
    "5.20": (
        "mount propagation is not shared",
        lambda c: all(mount["Propagation"] in ("", "rprivate") for mount in c["Mounts"]),
    ),
    "5.21": ("the host's UTS namespace is not shared", lambda c: host(c, "UTSMode") == ""),
    "5.22": ("the default seccomp profile is not disabled", lambda c: not security(c, "seccomp")),
    "5.25": ("cgroup usage is as the Engine sets it", lambda c: host(c, "CgroupParent") == ""),
    "5.26": ("no additional privileges can be acquired", lambda c: security(c, "no-new-privileges")),
    "5.27": ("health is checked", lambda c: (c["Config"].get("Healthcheck") or {"Test": ["NONE"]})["Test"] != ["NONE"]),
    "5.28": (
        "commands use a version of their image",
        lambda c: ":" in c["Config"]["Image"] and not c["Config"]["Image"].endswith(":latest"),
    ),
    "5.29": ("the PIDs cgroup limit is used", lambda c: (host(c, "PidsLimit") or 0) > 0),
    "5.30": ("the default bridge is not used", lambda c: host(c, "NetworkMode") not in ("default", "bridge")),
    "5.31": ("the host's user namespaces are not shared", lambda c: host(c, "UsernsMode") == ""),
    "5.32": ("the Docker socket is not mounted", lambda c: not any("docker.sock" in path for path in sources(c))),
    "4.1": ("it runs as a user", lambda c: c["Config"]["User"].partition(":")[0] not in ("", "0", "root")),
}


def kind(container: Container) -> str:
    """Return the kind of a container."""
    name = container["Name"].lstrip("/")
    return next((what for pattern, what in KINDS.items() if re.fullmatch(pattern, name)), name)


def test_every_kind_is_checked(story: Story) -> None:
    assert {kind(container) for container in story.containers} == set(KINDS.values())
    verbs = {word for container in story.containers for word in container["Args"]}
    assert {"serve", "work", "migrator", "restore", "backup", "verify", "drill"} <= verbs


@pytest.mark.parametrize("number", CHECKS, ids=[f"{number} {title}" for number, (title, _) in CHECKS.items()])
def test_item(story: Story, number: str) -> None:
    _, holds = CHECKS[number]
    warned = {kind(container) for container in story.containers if not holds(container)}
    assert warned == {what for item, what in WANTED if item == number}


def test_5_1_swarm_mode_is_not_enabled(site: Site) -> None:
    assert site.on_host("docker", "info", "--format", "{{.Swarm.LocalNodeState}}") == "inactive\n"


def test_5_2_the_profile_is_docker_s_where_the_kernel_has_apparmor(story: Story) -> None:
    has = "name=apparmor" in story.site.on_host("docker", "info", "--format", "{{.SecurityOptions}}")
    assert {container["AppArmorProfile"] for container in story.containers} == {"docker-default" if has else ""}


def test_5_7_ssh_does_not_run_in_containers(site: Site) -> None:
    running = site.on_host("docker", "ps", "--format", "{{.Names}}").split()
    assert len(running) > 2
    assert all("sshd" not in site.on_host("docker", "top", name) for name in running)


def test_containers_with_a_network_do_not_reach_each_other(story: Story) -> None:
    joined = {host(container, "NetworkMode") for container in story.containers}
    assert joined == {"none", "hostwright-egress", "hostwright-nginx"}
    for name in joined - {"none"}:
        network = described(story.site, name)
        assert network["Options"]["com.docker.network.bridge.enable_icc"] == "false"
        assert "hostwright" in network["Labels"]


def described(site: Site, network: str) -> dict[str, Any]:
    (found,) = json.loads(site.on_host("docker", "network", "inspect", network))
    return dict(found)


def test_the_egress_network_reaches_other_machines(story: Story) -> None:
    site = story.site
    nginx = described(site, "hostwright-egress")["IPAM"]["Config"][0]["Gateway"]
    connect = f"import socket; socket.create_connection(('{nginx}', 80), 9)"
    words = ["docker", "run", "--rm", "--entrypoint", "python3", "--network"]
    for network, problem in (("hostwright-egress", ""), ("none", "Network is unreachable")):
        command = [*words, network, site.record["image_id"], "-c", f"try: {connect}\nexcept OSError as e: print(e)"]
        assert re.sub(r"\[.*?\] ", "", site.on_host(*command)).strip() == problem


BAD: dict[str, dict[str, Any]] = {
    "5.2": {"SecurityOpt": ["no-new-privileges", "apparmor=unconfined"]},
    "5.3": {"SecurityOpt": None},
    "5.4": {"CapAdd": ["NET_ADMIN"]},
    "5.5": {"Privileged": True},
    "5.6": {"Mounts": [{"Type": "bind", "Source": "/etc", "Propagation": ""}]},
    "5.8": {"PortBindings": {"5432/tcp": [{"HostIp": "127.0.0.1", "HostPort": "543"}]}},
    "5.9": {"PortBindings": {"5432/tcp": [{"HostIp": "127.0.0.1", "HostPort": "5432"}]}},
    "5.10": {"NetworkMode": "host"},
    "5.11": {"Memory": 0},
    "5.12": {"CpuShares": 0},
    "5.13": {"ReadonlyRootfs": False},
    "5.14": {"PortBindings": {"5432/tcp": [{"HostIp": "", "HostPort": "5432"}]}},
    "5.15": {"RestartPolicy": {"Name": "always"}},
    "5.16": {"PidMode": "host"},
    "5.17": {"IpcMode": "host"},
    "5.18": {"Devices": [{"PathOnHost": "/dev/sda"}]},
    "5.19": {"Ulimits": None},
    "5.20": {"Mounts": [{"Type": "bind", "Source": "/srv/hostwright/x", "Propagation": "shared"}]},
    "5.21": {"UTSMode": "host"},
    "5.22": {"SecurityOpt": ["seccomp=unconfined"]},
    "5.25": {"CgroupParent": "/other"},
    "5.26": {"SecurityOpt": ["label=type:x"]},
    "5.27": {"Config": {}},
    "5.28": {"Config": {"Image": f"{NAME}:latest"}},
    "5.29": {"PidsLimit": None},
    "5.30": {"NetworkMode": "bridge"},
    "5.31": {"UsernsMode": "host"},
    "5.32": {"Mounts": [{"Type": "bind", "Source": "/run/docker.sock", "Propagation": ""}]},
    "4.1": {"Config": {"User": "0:10001"}},
}


@pytest.mark.parametrize("number", CHECKS)
def test_each_item_detects_its_fault(story: Story, number: str) -> None:
    _, holds = CHECKS[number]
    good = next(container for container in story.containers if holds(container))
    bad = copy.deepcopy(good)
    for name, value in BAD[number].items():
        (bad if name in bad else bad["HostConfig"])[name] = value
    assert not holds(bad)

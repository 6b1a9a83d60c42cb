"""A secret's value is in the allowed places only; each search finds a planted one."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator

import pytest
import zstandard

from tests.faults.site import NAME, ROOT, Run, Site
from tests.secrecy import places
from tests.secrecy.story import CANARY, Story, watched

PLANTED = "planted"


def test_every_command_ended_as_expected(story: Story) -> None:
    assert {name: run.status for name, run in story.runs.items()} == {
        "deploy": 0, "fail": 2, "backup": 0, "rollback": 0, "restore": 0
    }, "\n".join(run.output[-3000:] for run in story.runs.values())  # fmt: skip
    assert "could not run 'check --database nowhere' before the release" in story.runs["fail"].one_line
    assert all(CANARY in story.site.on_host("cat", path) for path in at_rest(story.site))


def at_rest(site: Site) -> list[str]:
    """Return the secret's files on the host, for the live release."""
    number = site.record["release"]
    return [f"{ROOT}/config/{NAME}/secrets/{number}/CANARY", f"/run/hostwright/secrets/{NAME}/{number}/CANARY"]


def test_only_the_site_and_root_can_read_the_secret(story: Story) -> None:
    site = story.site
    for path in at_rest(site):
        assert site.on_host("stat", "--format", "%a %u", path) == "600 10001\n"
        assert site.on_host("stat", "--format", "%a %u", path.rpartition("/")[0]) == "700 10001\n"
    inside = ["docker", "exec", site.record["container"]]
    asked = "import os; print(os.environ['CANARY'], end='')"
    assert site.on_host(*inside, "python3", "manage.py", "shell", "-v0", "-c", asked) == CANARY
    mounts = [line.split() for line in site.on_host(*inside, "cat", "/proc/mounts").splitlines()]
    kinds = {place: (kind, "ro" in options.split(",")) for _, place, kind, options, *_ in mounts}
    assert kinds["/run/secrets"] == kinds["/site/config/secrets"] == ("tmpfs", True)
    assert site.on_host(*inside[:2], "--user", "0", *inside[2:], "ls", "-A", "/site/config/secrets") == ""
    shown = site.on_host(*inside, "ls", "-A", "/run/secrets").split()
    assert shown == ["CANARY", "secret_key", "secret_key_fallbacks"]  # the scenario has rotated the key
    for path in site.on_host("sh", "-c", f"ls /var/backups/hostwright/{NAME}/*.config.tar").split():
        assert site.on_host("stat", "--format", "%a", path) == "600\n"


def test_no_container_description_contains_the_secret(story: Story) -> None:
    names = {container["Name"] for container in story.containers}
    assert {f"/{NAME}-{kind}" for kind in ("release", "release-hook", "backup", "verify", "drill")} <= names
    assert places.in_containers(story.containers) == []


def test_no_image_contains_the_secret(story: Story) -> None:
    images = story.site.on_host("docker", "image", "ls", "--quiet", "--no-trunc").split()
    assert len(set(images)) > 1
    assert places.in_images(story.site, sorted(set(images))) == []


def test_no_command_line_or_environment_contains_the_secret(story: Story) -> None:
    assert story.seen.processes == []


@pytest.mark.parametrize("name", ["deploy", "fail", "backup", "rollback", "restore"])
def test_ansible_does_not_print_the_secret(story: Story, name: str) -> None:
    assert places.in_text(story.runs[name].output) == []


def test_no_status_or_log_contains_the_secret(story: Story) -> None:
    asked = [
        ["hostwright", "status", NAME],
        ["hostwright", "status", NAME, "--page"],
        ["hostwright", "backups", NAME, "--json"],
        ["journalctl", "--no-pager"],
        *(["docker", "logs", name] for name in story.site.containers()),
    ]
    answers = [story.site.on_host(*words, check=False) for words in asked]
    assert all(answers[:4])
    assert places.in_text("\n".join(answers)) == []


def test_no_other_file_of_the_host_contains_the_secret(story: Story) -> None:
    assert places.in_files(story.site, "/") == []


# Each search finds a planted secret.


@pytest.fixture
def image(site: Site) -> str:
    """The live release's image."""
    image: str = site.record["image_id"]
    return image


@pytest.fixture
def planted(site: Site) -> Iterator[str]:
    """The name of a container, which is removed afterwards."""
    yield PLANTED
    site.on_host("docker", "rm", "--force", PLANTED)


# containerd's own notes of a container that has run, with its command and its environment, outlast it.
def test_a_container_that_tells_is_found(site: Site, image: str, planted: str) -> None:
    site.on_host("docker", "create", "--name", planted, "--env", f"TOKEN={CANARY}", image)
    found = json.loads(site.on_host("docker", "container", "inspect", planted))
    assert places.in_containers(found) == [f"/{planted}"]


@pytest.mark.parametrize("where", ["here", "host"])
def test_a_process_that_tells_is_found(site: Site, where: str) -> None:
    inside = ["docker", "exec", "--interactive", site.container] if where == "host" else []
    with watched(site) as seen:
        script = 'read -r token; TOKEN="$token" sleep 1'
        subprocess.run([*inside, "sh", "-c", script], input=f"{CANARY}\n", text=True, check=True)
    assert f"{where}: sleep 1 " in seen.processes


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("kind", [*PACKED, "history"])
def test_a_secret_in_an_image_is_found(site: Site, kind: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        data = PACKED[kind](CANARY.encode()) if kind in PACKED else b""
        member = tarfile.TarInfo("notes")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    change = ["--change", f"LABEL note={CANARY}"] if kind == "history" else []
    command = ["docker", "exec", "--interactive", site.container, "docker", "import", *change, "-", PLANTED]
    subprocess.run(command, input=buffer.getvalue(), check=True, capture_output=True)
    try:
        assert places.in_images(site, [PLANTED]) != []
    finally:
        site.on_host("docker", "image", "rm", PLANTED)


@pytest.mark.parametrize(
    "path",
    [
        f"{ROOT}/config/{NAME}/planted",
        f"{ROOT}/web/{NAME}/run/releases/planted",
        f"/var/backups/hostwright/{NAME}/planted.sqlite3.zst",
        f"{ROOT}/config/{NAME}/secrets/planted.gz",
        "/var/log/planted",
        "/root/.ansible/planted",
    ],
)
def test_a_secret_in_a_file_is_found(site: Site, path: str) -> None:
    data = PACKED.get(path.rpartition(".")[2], bytes)(CANARY.encode())
    script = 'mkdir -p "${1%/*}"; cat > "$1"'
    command = ["docker", "exec", "--interactive", site.container, "sh", "-c", script, "sh", path]
    subprocess.run(command, input=data, check=True)
    try:
        assert places.in_files(site, path.rpartition("/")[0]) == [path]
    finally:
        site.on_host("rm", path)


def test_a_secret_in_a_log_is_found(site: Site, image: str, planted: str) -> None:
    run = ["docker", "run", "--interactive", "--network", "none", "--name", planted, "--entrypoint", "cat", image]
    command = ["docker", "exec", "--interactive", site.container, *run]
    subprocess.run(command, input=f"{CANARY}\n", text=True, check=True, capture_output=True)
    assert places.in_text(site.on_host("docker", "logs", planted)) == ["…"]


def test_a_secret_in_output_is_found(site: Site) -> None:
    run = Run(0, site.on_host("echo", f'"CANARY": "{CANARY}"'))
    assert places.in_text(run.output) == ['"CANARY": "…"']

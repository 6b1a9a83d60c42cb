"""A push from end to end: the action and the host's script, with a pretended docker program."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.hostwright.django.plugins.action import push_image
from ansible_collections.hostwright.django.plugins.module_utils.image import receiver
from ansible_collections.hostwright.django.plugins.module_utils.image.receiver import HostError
from ansible_collections.hostwright.django.plugins.module_utils.image.store import ImageStore

HERE = Path(__file__).parent
IMAGE = "polls:1.0"
LAYERS = [[b"debian" * 5000], [os.urandom(4000), os.urandom(3000), os.urandom(2000)], [b"code"]]


class Host:
    """A host with this machine's Python and a pretended ``docker``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spool = directory / "spool"
        self.cut_at: int | None = None  # number of bytes after which the next request with pieces is cut
        self.flip_at: int | None = None  # position of a byte that is changed in the next request with pieces
        self.before_load: Callable[[], None] = lambda: None
        self.requests: list[dict[str, Any]] = []
        self.received = 0
        (directory / "bin").mkdir(parents=True)
        (directory / "bin" / "python3").symlink_to(sys.executable)
        program = directory / "bin" / "docker"
        program.write_text(f'#!/bin/sh\nexec python3 -IS {HERE}/pretended_docker.py "$@"\n')
        program.chmod(0o755)

    def run(self, command: str, data: bytes) -> dict[str, Any]:
        stream = io.BytesIO(data)
        stream.seek(int(stream.readline()), os.SEEK_CUR)
        request = json.loads(zlib.decompress(stream.read(int(stream.readline()))))
        start = stream.tell()
        self.requests.append(request)
        self.received += len(data) - start
        if request["do"] == "load":
            self.before_load()
        if request["pieces"] and self.flip_at is not None:
            at, self.flip_at = start + self.flip_at % (len(data) - start), None
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        cut = None
        if request["pieces"] and self.cut_at is not None:
            cut, self.cut_at = start + min(self.cut_at, len(data) - start), None
        environment = {
            "PATH": f"{self.directory}/bin",
            "PRETENDED": str(self.directory),
            "HOSTWRIGHT_SPOOL": str(self.spool),
        }
        done = subprocess.run(
            ["/bin/sh", "-c", command], input=data[:cut], capture_output=True, env=environment, check=False
        )
        if cut is not None:
            raise AnsibleConnectionFailure("cut")
        return {"rc": done.returncode, "stdout": done.stdout.decode(), "stderr": done.stderr.decode()}

    def fails(self, how: str) -> None:
        (self.directory / "fault").write_text(how)

    @property
    def state(self) -> dict[str, Any]:
        path = self.directory / "store.json"
        return json.loads(path.read_text()) if path.exists() else {"images": {}, "containers": []}

    @property
    def names(self) -> dict[str, int]:
        """Numbers of layers of the images, by name."""
        return {name: len(image["RootFS"]["Layers"]) for name, image in self.state["images"].items()}

    @property
    def calls(self) -> list[str]:
        return (self.directory / "calls").read_text().splitlines()

    @property
    def spooled(self) -> int:
        return len(list(self.spool.glob("*.zst")))

    def is_tidy(self) -> bool:
        left = {path.name for path in self.spool.iterdir() if path.suffix != ".zst"} if self.spool.exists() else set()
        return (
            not (left - {"lock"}) and not self.state["containers"] and not any("staging" in name for name in self.names)
        )


class Push(push_image.ActionModule):
    """The action, with a host instead of a connection."""

    def __init__(self, host: Host, arguments: dict[str, Any], check: bool = False) -> None:
        task = MagicMock(args=arguments, check_mode=check, delegate_to=None, async_val=0)
        connection = MagicMock(has_pipelining=True, become=None)
        templar = MagicMock(template=lambda value: value)
        super().__init__(task, connection, MagicMock(), MagicMock(), templar, MagicMock())
        self.host = host

    def _low_level_execute_command(self, cmd: str, in_data: bytes = b"") -> dict[str, Any]:
        return self.host.run(cmd, in_data)


class Site:
    """Versions of a site in the control node's store."""

    def __init__(self, root: Path) -> None:
        self.store = ImageStore(root)

    def build(self, image: str, layers: list[list[bytes]]) -> dict[str, Any]:
        """Store an image with layers, each a list of pieces; return the arguments for its push."""
        with self.store.locked():
            digests = [self.store.add(iter(pieces)).digest for pieces in layers]
        config = {
            "architecture": "amd64",
            "config": {"Labels": {receiver.DIGEST_LABEL: f"digest of {image}"}},
            "rootfs": {"diff_ids": [f"sha256:{digest}" for digest in digests]},
        }
        description = self.store.description(image, "sha256:1")
        self.store.describe(description, json.dumps(config), digests)
        return {
            "image": image,
            "archive": str(description),
            "layers": [f"sha256:{digest}" for digest in digests],
            "digest": f"digest of {image}",
        }


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's script, with a spool in a directory of the test."""
    source = zlib.decompress(push_image._script()).decode()
    source = re.sub(r"os.environ\['PATH'\] \+= .*", "", source)
    begin, main = source.split("\nif __name__")
    begin += "\nSPOOL = Path(os.environ['HOSTWRIGHT_SPOOL'])"
    monkeypatch.setattr(push_image, "_script", lambda: zlib.compress(f"{begin}\nif __name__{main}".encode()))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "store")


@pytest.fixture
def arguments(site: Site) -> dict[str, Any]:
    return site.build(IMAGE, LAYERS)


def push(
    host: Host, arguments: dict[str, Any], check: bool = False, variables: dict[str, Any] | None = None
) -> dict[str, Any]:
    host.requests.clear()
    host.received = 0
    task_vars = {"inventory_hostname": "web", **(variables or {})}
    result: dict[str, Any] = Push(host, arguments, check).run(task_vars=task_vars)
    return result


def sent(result: dict[str, Any]) -> tuple[str, int]:
    return result["way"], result["layers"]


def test_only_missing_layers_are_sent(host: Host, site: Site, arguments: dict[str, Any]) -> None:
    first = push(host, arguments)
    assert (sent(first), host.names) == (("whole", 3), {IMAGE: 3})
    assert first["bytes"] == host.received

    again = push(host, arguments)
    assert (sent(again), again["bytes"], again["changed"]) == (("none", 0), 0, False)
    assert [request["do"] for request in host.requests] == ["query"]

    second = push(host, site.build("polls:1.1", [*LAYERS[:2], [b"changed code"]]))
    assert (sent(second), host.names) == (("layers", 1), {IMAGE: 3, "polls:1.1": 3})
    assert second["bytes"] == host.received < 200
    assert [request["do"] for request in host.requests] == ["query", "load"]
    assert (host.spooled, host.is_tidy()) == (0, True)


def test_nothing_changed_is_one_docker_command_and_few_bytes(host: Host, arguments: dict[str, Any]) -> None:
    push(host, arguments)
    before = len(host.calls)
    push(host, arguments)
    assert host.calls[before:] == [f"image inspect {IMAGE}"]
    assert len(push_image._script()) < 5400


def test_a_layer_above_another_one_is_sent_again(host: Host, site: Site, arguments: dict[str, Any]) -> None:
    push(host, arguments)
    assert sent(push(host, site.build("polls:1.1", [LAYERS[0], [b"new"], LAYERS[2]]))) == ("layers", 2)


def test_a_layer_that_an_image_has_twice(host: Host, site: Site) -> None:
    result = push(host, site.build("twice:1", [LAYERS[2], LAYERS[2]]))
    assert (sent(result), host.names) == (("whole", 1), {"twice:1": 2})


def test_check_mode_predicts_the_layers_and_bytes(host: Host, arguments: dict[str, Any]) -> None:
    predicted = push(host, arguments, check=True)
    assert (host.names, host.spooled) == ({}, 0)
    assert predicted == push(host, arguments)
    assert predicted["diff"]["after"] == f"{IMAGE}: 3 layers, {predicted['bytes']} bytes\n"
    assert not push(host, arguments, check=True)["changed"]
    assert push(host, {**arguments, "image": "polls:2", "archive": ""}, check=True)["changed"]


def test_a_large_image_needs_several_requests(
    host: Host, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_image, "BATCH", 5000)
    push(host, arguments)
    assert [request["do"] for request in host.requests] == ["query", "take", "take", "load"]
    assert all(sum(length for _, length in request["pieces"]) < 6000 for request in host.requests[1:])
    assert host.names == {IMAGE: 3}


def test_requests_to_many_hosts_at_once_are_smaller(
    host: Host, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_image, "BATCH", 15000)
    push(host, arguments, variables={"ansible_play_batch": ["a", "b", "c"], "ansible_forks": 20})
    assert [request["do"] for request in host.requests] == ["query", "take", "take", "load"]
    assert host.names == {IMAGE: 3}


# Failures during the push


def test_a_push_that_is_cut_anywhere_is_continued(tmp_path: Path, arguments: dict[str, Any]) -> None:
    whole = push(Host(tmp_path / "whole"), arguments)["bytes"]
    for number, cut in enumerate(range(0, whole, whole // 5)):
        host = Host(tmp_path / f"host{number}")
        host.cut_at = cut
        with pytest.raises(AnsibleConnectionFailure):
            push(host, arguments)
        assert host.is_tidy()
        assert host.names == {}
        kept = sum(path.stat().st_size for path in host.spool.glob("*.zst"))
        assert kept <= cut
        assert push(host, arguments)["bytes"] == host.received == whole - kept
        assert (host.names, host.spooled, host.is_tidy()) == ({IMAGE: 3}, 0, True)


@pytest.mark.parametrize("at", [0, 300, 4000, -1])
def test_a_damaged_piece_is_sent_again(host: Host, arguments: dict[str, Any], at: int) -> None:
    host.flip_at = at
    result = push(host, arguments)
    assert (sent(result), host.names, host.is_tidy()) == (("whole", 3), {IMAGE: 3}, True)
    assert [request["do"] for request in host.requests] == ["query", "load", "load"]
    assert 0 < sum(length for _, length in host.requests[2]["pieces"]) < result["bytes"] / 2


def test_a_piece_that_is_damaged_in_the_spool_is_sent_again(host: Host, arguments: dict[str, Any]) -> None:
    host.cut_at = 5000
    with pytest.raises(AnsibleConnectionFailure):
        push(host, arguments)
    for path in host.spool.glob("*.zst"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    push(host, arguments)
    assert (host.names, host.spooled, host.is_tidy()) == ({IMAGE: 3}, 0, True)


def test_a_damaged_layer_is_reported_if_the_engine_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexec <&-\nsleep 0.2\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(receiver, "SPOOL", tmp_path)
    write = receiver.write_archive

    def late(out: IO[bytes], request: dict[str, Any], staging: str) -> None:
        time.sleep(0.1)  # the reader has closed the pipe, and written bytes stay in the buffer
        write(out, request, staging)

    monkeypatch.setattr(receiver, "write_archive", late)
    sent = {"a" * 64: {"size": 10, "pieces": [("missing.zst", 5)]}}
    with pytest.raises(receiver.LoadError, match="is damaged"):
        receiver.run_load({"config": "{}", "manifest": "{}", "sent": sent, "layers": ["a" * 64]}, "staging:1")


def test_a_piece_that_is_damaged_on_the_control_node(host: Host, site: Site, arguments: dict[str, Any]) -> None:
    path = next(path for path in site.store.layers.glob("*.zst") if path.stat().st_size > 9000)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(AnsibleActionFail, match="pieces are still damaged after 3 attempts"):
        push(host, arguments)
    assert (host.names, host.is_tidy()) == ({}, True)


@pytest.mark.parametrize("before", [{}, {IMAGE: 2}])
@pytest.mark.parametrize("fault", ["load", "quiet", "other", "create", "tag"])
def test_on_any_failure_the_tag_is_as_before(
    host: Host, site: Site, arguments: dict[str, Any], before: dict[str, int], fault: str
) -> None:
    if before:
        push(host, site.build(IMAGE, LAYERS[:2]))
        arguments = site.build(IMAGE, LAYERS)
    host.fails(fault)
    with pytest.raises(AnsibleActionFail, match="even with all its layers"):
        push(host, arguments)
    assert (host.names, host.is_tidy()) == (before, True)
    loads = [request for request in host.requests if request["do"] == "load"]
    assert len(loads) == (2 if before else 1)
    host.fails("")
    assert host.spooled
    assert push(host, arguments)["bytes"] < 200  # the pieces are in the spool
    assert (host.names, host.is_tidy()) == ({IMAGE: 3}, True)


def test_all_layers_are_sent_if_the_missing_ones_cannot_be_loaded(
    host: Host, site: Site, arguments: dict[str, Any]
) -> None:
    push(host, arguments)
    host.fails("partly")
    result = push(host, site.build("polls:1.1", [*LAYERS[:2], [b"changed code"]]))
    assert (sent(result), host.names) == (("whole", 3), {IMAGE: 3, "polls:1.1": 3})
    assert result["bytes"] == host.received
    assert (host.spooled, host.is_tidy()) == (0, True)


def test_an_image_deleted_between_query_and_load(host: Host, site: Site, arguments: dict[str, Any]) -> None:
    push(host, arguments)
    host.before_load = lambda: (host.directory / "store.json").unlink(missing_ok=True)
    result = push(host, site.build("polls:1.1", [*LAYERS[:2], [b"changed code"]]))
    assert (sent(result), host.names, host.is_tidy()) == (("whole", 3), {"polls:1.1": 3}, True)


def test_a_concurrent_push_that_is_faster(host: Host, arguments: dict[str, Any]) -> None:
    def overtake() -> None:
        host.before_load = lambda: None
        Push(host, arguments).run(task_vars={})

    host.before_load = overtake
    push(host, arguments)
    assert (host.names, host.is_tidy()) == ({IMAGE: 3}, True)
    assert sum(call.startswith("load") for call in host.calls) == 1


def test_a_concurrent_push_that_removes_the_pieces(host: Host, site: Site) -> None:
    first, second = site.build("a:1", LAYERS), site.build("b:1", [*LAYERS[:2], [b"other"]])
    host.cut_at = 5000
    with pytest.raises(AnsibleConnectionFailure):
        push(host, first)

    def overtake() -> None:
        host.before_load = lambda: None
        Push(host, second).run(task_vars={})

    host.before_load = overtake
    push(host, first)
    assert (host.names, host.is_tidy()) == ({"a:1": 3, "b:1": 3}, True)


def test_two_pushes_at_once(host: Host, site: Site, arguments: dict[str, Any]) -> None:
    other = site.build("blog:1.0", [*LAYERS[:2], [b"blog"]])
    with ThreadPoolExecutor() as pool:
        results = list(
            pool.map(lambda wanted: Push(host, wanted).run(task_vars={}), [arguments, arguments, other, other])
        )
    assert all("way" in result for result in results)
    assert (host.names, host.is_tidy()) == ({IMAGE: 3, "blog:1.0": 3}, True)


def test_leftovers_of_a_killed_push_are_removed(host: Host, site: Site, arguments: dict[str, Any]) -> None:
    push(host, arguments)
    state = host.state
    state["images"]["hostwright-staging:7-1"] = state["images"][IMAGE]
    state["containers"].append("hostwright-staging-7-1")
    (host.directory / "store.json").write_text(json.dumps(state))
    (host.spool / "staging").write_text("hostwright-staging:7-1")
    old, recent = host.spool / "old.zst.7.part", host.spool / "recent.zst.8.part"
    for path in (old, recent):
        path.write_text("part")
    os.utime(old, (time.time() - 90000,) * 2)
    push(host, site.build("polls:1.1", [*LAYERS[:2], [b"changed code"]]))
    assert {path.name for path in host.spool.iterdir()} == {"lock", recent.name}
    recent.unlink()
    assert (host.names, host.is_tidy()) == ({IMAGE: 3, "polls:1.1": 3}, True)


def test_a_connection_without_pipelining(host: Host, arguments: dict[str, Any], tmp_path: Path) -> None:
    action = Push(host, arguments)
    run = host.run
    # A method is replaced, on this one object.
    host.run = lambda command, data: run(command, data or (tmp_path / "request").read_bytes())  # type: ignore[method-assign]
    action._connection.has_pipelining = False
    action._connection._shell.join_path = lambda *parts: "/".join(parts)
    action._make_tmp_path = lambda: str(tmp_path)
    action._transfer_data = lambda path, data: Path(path).write_bytes(data)
    action._fixup_perms2 = MagicMock()
    action._remove_tmp_path = MagicMock(side_effect=lambda *_, **__: (tmp_path / "request").unlink())
    assert sent(action.run(task_vars={})) == ("whole", 3)
    assert not (tmp_path / "request").exists()


# Bad input


@pytest.mark.parametrize("fault", ["down", "hang"])
def test_an_engine_that_does_not_answer(
    host: Host, arguments: dict[str, Any], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = zlib.decompress(push_image._script()).replace(b"ASK_SECONDS = 30.0", b"ASK_SECONDS = 1.0")
    assert b"ASK_SECONDS = 1.0" in source
    monkeypatch.setattr(push_image, "_script", lambda: zlib.compress(source))
    host.fails(fault)
    with pytest.raises(AnsibleActionFail, match="the Docker Engine of the host does not answer"):
        push(host, arguments)


def test_a_host_without_docker(host: Host, arguments: dict[str, Any]) -> None:
    (host.directory / "bin" / "docker").unlink()
    with pytest.raises(AnsibleActionFail, match="install the Docker Engine first"):
        push(host, arguments)
    assert push(host, arguments, check=True)["changed"]


def test_a_host_without_zstd(host: Host, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    source = zlib.decompress(push_image._script()).replace(b"libzstd.so.1'", b"libnone.so.1'")
    monkeypatch.setattr(push_image, "_script", lambda: zlib.compress(source))
    with pytest.raises(AnsibleActionFail, match="package libzstd1"):
        push(host, arguments)
    assert [request["do"] for request in host.requests] == ["query"]


def test_another_platform(host: Host, arguments: dict[str, Any]) -> None:
    with pytest.raises(AnsibleActionFail, match=r"polls:1\.0 is for riscv64, this host is .*image_builder"):
        push(host, {**arguments, "platform": "riscv64"})


def test_an_image_that_was_never_built(host: Host, arguments: dict[str, Any]) -> None:
    with pytest.raises(AnsibleActionFail, match="build the image first"):
        push(host, {**arguments, "archive": arguments["archive"] + "x"})


@pytest.mark.parametrize("place", ["spool", "data root"])
def test_disk_space_is_checked_before_anything_is_sent(
    host: Host, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    ask = Push._ask

    def answer(self: Push, *request: Any) -> dict[str, Any]:
        state = ask(self, *request)
        number = 0 if place == "data root" else 1
        state["room"][number] |= {"free": push_image.RESERVE + 50, "device": -1, "path": f"/{place}"}
        return state

    monkeypatch.setattr(Push, "_ask", answer)
    message = f"not enough disk space for polls:1.0: 17 MB needed on /{place}, 17 MB free"
    with pytest.raises(AnsibleActionFail, match=message):
        push(host, arguments)
    assert [request["do"] for request in host.requests] == ["query"]


def test_a_spool_that_cannot_be_written(host: Host, arguments: dict[str, Any]) -> None:
    host.spool.write_text("a file in its place")
    with pytest.raises(AnsibleActionFail, match=f"cannot push to the host: .* {host.spool}"):
        push(host, arguments)


def test_a_host_without_python(host: Host, arguments: dict[str, Any]) -> None:
    action = Push(host, arguments)
    with pytest.raises(AnsibleActionFail, match=r"the push of polls:1.0 failed on the host \(127\): .*no-python"):
        action.run(task_vars={"ansible_python_interpreter": "/no-python"})


# Versions are immutable


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Path]:
    def write(**releases: tuple[str, str]) -> Path:
        for name, (image, digest) in releases.items():
            path = tmp_path / "releases" / name.strip("r") / "release.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"release": int(path.parent.name), "image": image, "source_digest": digest}))
        return tmp_path / "releases"

    return write


def test_the_last_release_of_a_version_is_named(recorded: Callable[..., Path]) -> None:
    records = recorded(r2=(IMAGE, "a"), r10=(IMAGE, "a"), r3=("polls:0.9", "b"), r11=("blog:1.0", "c"))
    assert "(release 10, source a)" in receiver.refusal(records, IMAGE, "b")


def test_the_same_source_is_accepted_again_and_another_one_refused(recorded: Callable[..., Path]) -> None:
    records = recorded(r1=(IMAGE, "a" * 64), r2=("polls:0.9", "b" * 64))
    assert receiver.refusal(records, IMAGE, "a" * 64) == ""
    assert receiver.refusal(records, "polls:1.1", "c" * 64) == ""
    reason = receiver.refusal(records, IMAGE, "c" * 64)
    for part in (IMAGE, "release 1", "a" * 12, "c" * 12, "VERSION", "site_version"):
        assert part in reason


@pytest.mark.parametrize("plant", [lambda path: path.symlink_to("/dev/null"), Path.mkdir, os.mkfifo])
def test_only_a_regular_file_is_a_record(recorded: Callable[..., Path], plant: Callable[[Path], None]) -> None:
    records = recorded(r1=(IMAGE, "a"))
    (records / "2").mkdir()
    plant(records / "2" / "release.json")
    assert receiver.refusal(records, IMAGE, "a") == ""


def test_a_file_of_another_user_is_not_a_record(recorded: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    records = recorded(r1=(IMAGE, "a"))
    lstat = Path.lstat

    def somebody_s(path: Path) -> os.stat_result:
        status = list(lstat(path))
        status[4] = 10001
        return os.stat_result(status)

    monkeypatch.setattr(Path, "lstat", somebody_s)
    assert receiver.refusal(records, IMAGE, "b") == ""


def test_a_host_without_releases_accepts_any_image(tmp_path: Path) -> None:
    assert receiver.refusal(tmp_path / "nothing", IMAGE, "a") == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_an_unreadable_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "1" / "release.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(HostError, match=str(path)):
        receiver.refusal(tmp_path, IMAGE, "a")

"""An image arrives whole under its name, or the name keeps what it had."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.commands import Answer
from ansible_collections.hostwright.django.plugins.module_utils.engine import Engine, EngineError
from ansible_collections.hostwright.django.plugins.modules.push_image import deployed_digests, load, refusal

IMAGE = "polls:1.0"
LAYERS = ["sha256:a", "sha256:b"]


class Store(Engine):
    """Names of images with their layers; ``archive`` is what the next load brings."""

    def __init__(self, archive: dict[str, list[str]], failing: str = "") -> None:
        super().__init__()
        self.names: dict[str, list[str]] = {}
        self.archive = archive
        self.failing = failing
        self.containers: list[str] = []

    def run(self, arguments: Sequence[str], timeout: float = 300) -> Answer:  # noqa: ARG002
        words = list(arguments)
        if words[0] == "load":
            self.names |= self.archive
        if words[0] == self.failing:
            return Answer(1, stderr="unexpected EOF")
        if words[:2] == ["image", "inspect"]:
            layers = self.names.get(words[2])
            if layers is None:
                return Answer(1, stderr="Error: No such image")
            image = {"Id": "id of " + ",".join(layers), "RootFS": {"Layers": layers}, "Architecture": "amd64"}
            return Answer(0, json.dumps([image]))
        if words[:2] == ["image", "rm"]:
            self.names.pop(words[-1], None)
        if words[0] == "tag":
            self.names[words[2]] = words[1].removeprefix("id of ").split(",")
        if words[0] == "create":
            self.containers.append("c1")
            return Answer(0, "c1\n")
        if words[0] == "rm":
            self.containers.remove(words[-1])
        return Answer(0)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "image.tar.gz"
    path.write_bytes(b"content")
    return path


def arrive(engine: Store, archive: Path) -> None:
    load(engine, IMAGE, LAYERS, archive, hashlib.sha256(b"content").hexdigest())


def test_an_image_arrives(archive: Path) -> None:
    engine = Store({IMAGE: LAYERS})
    arrive(engine, archive)
    assert engine.names == {IMAGE: LAYERS}
    assert engine.containers == []


@pytest.mark.parametrize("before", [{}, {IMAGE: ["sha256:old"]}])
@pytest.mark.parametrize(
    ("brings", "failing"),
    [
        ({IMAGE: LAYERS}, "load"),
        ({IMAGE: LAYERS}, "create"),
        ({IMAGE: LAYERS}, "rm"),
        ({IMAGE: [*LAYERS, "sha256:c"]}, ""),
        ({IMAGE: LAYERS[:1]}, ""),
        ({IMAGE: LAYERS[::-1]}, ""),
    ],
)
def test_on_any_failure_the_name_is_as_it_was(
    archive: Path, before: dict[str, list[str]], brings: dict[str, list[str]], failing: str
) -> None:
    engine = Store(brings, failing)
    engine.names = dict(before)
    with pytest.raises(EngineError):
        arrive(engine, archive)
    assert engine.names == before


def test_an_archive_without_the_image(archive: Path) -> None:
    engine = Store({"other:1": LAYERS})
    with pytest.raises(EngineError, match=r"something else than polls:1\.0"):
        arrive(engine, archive)


def test_a_damaged_archive_is_not_loaded(archive: Path) -> None:
    engine = Store({IMAGE: LAYERS})
    archive.write_bytes(b"conten")
    with pytest.raises(EngineError, match="arrived damaged"):
        arrive(engine, archive)
    assert engine.names == {}


def test_a_tag_that_cannot_be_restored_does_not_hide_the_reason(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Store({IMAGE: LAYERS[:1]})
    engine.names = {IMAGE: ["sha256:old"]}
    run = engine.run
    monkeypatch.setattr(
        engine, "run", lambda words, timeout=300: Answer(1) if words[0] == "tag" else run(words, timeout)
    )
    with pytest.raises(EngineError, match="something else"):
        arrive(engine, archive)


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


def test_digests_by_their_last_release(recorded: Callable[..., Path]) -> None:
    records = recorded(r2=(IMAGE, "a"), r10=(IMAGE, "a"), r3=("polls:0.9", "b"), r4=("blog:1.0", "c"))
    assert deployed_digests(records, IMAGE) == {"a": 10}


def test_the_same_source_may_come_again_and_another_one_not(recorded: Callable[..., Path]) -> None:
    records = recorded(r1=(IMAGE, "a" * 64), r2=("polls:0.9", "b" * 64))
    assert refusal(records, IMAGE, "a" * 64) == ""
    assert refusal(records, "polls:1.1", "c" * 64) == ""
    reason = refusal(records, IMAGE, "c" * 64)
    for part in (IMAGE, "release 1", "a" * 12, "c" * 12, "VERSION", "site_version"):
        assert part in reason


def test_a_host_without_releases_takes_anything(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing", IMAGE, "a") == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_an_unreadable_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "1" / "release.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(EngineError, match=str(path)):
        refusal(tmp_path, IMAGE, "a")

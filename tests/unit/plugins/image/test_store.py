"""Exports of archives that real Engines have saved: one small image, saved by four Engines."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine, EngineError
from ansible_collections.hostwright.django.plugins.module_utils.image import store as image_store
from ansible_collections.hostwright.django.plugins.module_utils.image.receiver import decompress
from ansible_collections.hostwright.django.plugins.module_utils.image.store import ImageStore, StoreError

HERE = Path(__file__).parent
CONFIG = "167a2f2fd8f6e4867d510d2da669d5af3d38d09e65fe7db8c83fd3e3401fe308"
LAYERS = [
    "ec565c214fed4ed596237d1c8936f80cc9e98616d08aa7ff542804ed84b11b34",
    "d954474479287e3237b8f36b2d417d42b2d170ed3bdff9bfefc461318284b925",
    "d954474479287e3237b8f36b2d417d42b2d170ed3bdff9bfefc461318284b925",
]
ARCHIVES = ["20.10", "26.1-classic", "26.1-containerd", "26.1-pulled"]


class Builder(Engine):
    """The pretended Engine, whose `docker save` writes one of the archives in images/."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        program = directory / "docker"
        program.write_text(f'#!/bin/sh\nPRETENDED={directory} exec python3 {HERE}/pretended_docker.py "$@"\n')
        program.chmod(0o755)
        super().__init__(str(program))
        self.has("tiny:1", "20.10")

    def has(self, reference: str, archive: str, layers: list[str] = LAYERS, identity: str = CONFIG) -> None:
        shutil.copyfile(HERE / "images" / f"{archive}.tar", self.directory / "saved.tar")
        image = {
            "Id": f"sha256:{identity}",
            "Architecture": "amd64",
            "RootFS": {"Layers": [f"sha256:{layer}" for layer in layers]},
        }
        (self.directory / "store.json").write_text(json.dumps({"images": {reference: image}, "containers": []}))

    def fails(self, how: str) -> None:
        (self.directory / "fault").write_text(how)


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    directory = tmp_path / "builder"
    directory.mkdir()
    return Builder(directory)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store")


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the layers that were compressed."""
    found: list[str] = []
    add = ImageStore.add

    def recorded(self: ImageStore, chunks: Iterator[bytes]) -> image_store.Layer:
        layer = add(self, chunks)
        found.append(layer.digest)
        return layer

    monkeypatch.setattr(ImageStore, "add", recorded)
    return found


@pytest.mark.parametrize("archive", ARCHIVES)
def test_an_image_of_any_engine(builder: Builder, store: ImageStore, compressed: list[str], archive: str) -> None:
    builder.has("tiny:1", archive)
    description = store.export(builder, "tiny:1")
    image = store.image(description)
    assert hashlib.sha256(image.config.encode()).hexdigest() == CONFIG
    assert [layer.digest for layer in image.layers] == LAYERS
    for layer in image.layers:
        content = b"".join(decompress(part) for part in store.pieces(layer, layer.pieces))
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (layer.digest, layer.size)
    assert [layer["digest"] for layer in json.loads(image.manifest)["layers"]] == [f"sha256:{d}" for d in LAYERS]
    assert sorted(compressed) == sorted(set(LAYERS))


def test_all_engines_give_the_same_image(builder: Builder, tmp_path: Path) -> None:
    found = set()
    for archive in ARCHIVES:
        builder.has("tiny:1", archive)
        store = ImageStore(tmp_path / archive)
        found.add(store.image(store.export(builder, "tiny:1")))
    assert len(found) == 1


@pytest.mark.parametrize("archive", ARCHIVES)
def test_a_known_layer_is_not_compressed_again(
    builder: Builder, store: ImageStore, compressed: list[str], archive: str
) -> None:
    builder.has("tiny:1", archive)
    first = store.export(builder, "tiny:1")
    compressed.clear()
    builder.has("tiny:2", archive, identity="f" * 64)
    assert store.image(store.export(builder, "tiny:2")) == store.image(first)
    assert compressed == []


def test_pieces_of_a_large_layer(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_store, "PIECE", 1000)
    content = bytes(range(256)) * 20
    with store.locked():
        layer = store.add(content[i : i + 1000] for i in range(0, len(content), 1000))
    assert (len(layer.pieces), layer.size) == (6, 5120)
    assert b"".join(decompress(part) for part in store.pieces(layer, layer.pieces)) == content
    parts = list(store.pieces(layer, layer.pieces))
    assert [piece.name for piece in layer.pieces] == [f"{hashlib.sha256(part).hexdigest()}.zst" for part in parts]
    assert list(store.pieces(layer, layer.pieces[2:4])) == parts[2:4]
    assert store.layer(layer.digest) == layer


@pytest.mark.parametrize("archive", ARCHIVES)
def test_a_damaged_layer_is_detected(builder: Builder, store: ImageStore, archive: str) -> None:
    builder.has("tiny:1", archive)
    saved = builder.directory / "saved.tar"
    with tarfile.open(saved) as tar:
        sizes = {1: 2048, 0: 2048}
        member = next(
            m for m in tar if m.size == sizes[0] or (archive.endswith("pulled") and m.size < 200 and m.size > 90)
        )
    content = bytearray(saved.read_bytes())
    content[member.offset_data + 60] ^= 1
    saved.write_bytes(content)
    with pytest.raises((StoreError, EngineError)):
        store.export(builder, "tiny:1")
    assert not store.has_image(store.description("tiny:1", CONFIG))


@pytest.mark.parametrize("kept", [0, 700, 6000, 12000])
def test_a_truncated_archive(builder: Builder, store: ImageStore, kept: int) -> None:
    saved = builder.directory / "saved.tar"
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises((StoreError, EngineError), match="tiny:1"):
        store.export(builder, "tiny:1")
    assert not store.has_image(store.description("tiny:1", CONFIG))


@pytest.mark.parametrize(
    ("fault", "says"), [("save-fails", "'docker save tiny:1' failed.*EOF"), ("down", "Cannot connect")]
)
def test_an_engine_that_fails(builder: Builder, store: ImageStore, fault: str, says: str) -> None:
    builder.fails(fault)
    with pytest.raises(EngineError, match=says):
        store.export(builder, "tiny:1")


def test_an_image_that_does_not_exist(builder: Builder, store: ImageStore) -> None:
    with pytest.raises(EngineError, match="no image other:1"):
        store.export(builder, "other:1")


def test_an_image_that_changes_during_the_export(builder: Builder, store: ImageStore) -> None:
    builder.has("tiny:1", "20.10", layers=LAYERS[:2])
    with pytest.raises(StoreError, match="changed while it was exported"):
        store.export(builder, "tiny:1")


def test_a_layer_compressed_with_zstd(builder: Builder, store: ImageStore) -> None:
    saved = builder.directory / "saved.tar"
    content = saved.read_bytes()
    with tarfile.open(saved) as tar:
        member = next(m for m in tar if m.size == 2048)
    at = member.offset_data
    saved.write_bytes(content[:at] + image_store.ZSTD + content[at + 4 :])
    with pytest.raises(StoreError, match="zstd, which is not supported"):
        store.export(builder, "tiny:1")


def test_unused_images_and_layers_are_removed(builder: Builder, store: ImageStore) -> None:
    store.layers.mkdir(parents=True)
    (store.layers / ".killed.part").write_text("")
    for number in range(5):
        builder.has(f"tiny:{number}", "20.10")
        store.export(builder, f"tiny:{number}")
    assert sorted(path.name[0] for path in (store.root / "tiny").iterdir()) == ["2", "3", "4"]
    builder.has("other:1", "20.10")
    store.export(builder, "other:1")
    shutil.rmtree(store.root / "tiny")
    assert {path.stem for path in store.layers.glob("*.zst")} == set(LAYERS)
    assert not list(store.layers.glob(".*.part"))


def test_an_export_of_another_machine(builder: Builder, store: ImageStore, tmp_path: Path) -> None:
    theirs = ImageStore(tmp_path / "theirs")
    description = theirs.export(builder, "tiny:1")
    with tarfile.open(tmp_path / "export.tar", "w") as tar:
        tar.add(theirs.root, arcname=".")
    ours = store.description("tiny:1", CONFIG)
    store.unpack(tmp_path / "export.tar", ours)
    assert store.image(ours) == theirs.image(description)
    assert [list(store.pieces(layer, layer.pieces)) for layer in store.image(ours).layers] == [
        list(theirs.pieces(layer, layer.pieces)) for layer in theirs.image(description).layers
    ]


def test_an_export_of_another_machine_without_known_layers(builder: Builder, store: ImageStore, tmp_path: Path) -> None:
    known = store.image(store.export(builder, "tiny:1"))
    theirs = ImageStore(tmp_path / "theirs")
    theirs.export(builder, "tiny:1", {**store.names(), **{layer: layer for layer in LAYERS}})
    assert not list(theirs.layers.glob("*.zst"))
    with tarfile.open(tmp_path / "export.tar", "w") as tar:
        tar.add(theirs.root, arcname=".")
    store.unpack(tmp_path / "export.tar", store.description("tiny:1", CONFIG))
    assert store.image(store.description("tiny:1", CONFIG)) == known
    with pytest.raises(StoreError, match="did not send all layers"):
        ImageStore(tmp_path / "empty").unpack(tmp_path / "export.tar", store.description("tiny:1", CONFIG))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "tiny/../../outside", ".layers/x.zst"])
def test_an_export_with_other_files_is_refused(store: ImageStore, tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "export.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(StoreError, match="which does not belong to"):
        store.unpack(tmp_path / "export.tar", store.description("tiny:1", CONFIG))
    assert not (tmp_path / "outside").exists()


def test_a_missing_description(store: ImageStore) -> None:
    with pytest.raises(StoreError, match="build the image first"):
        store.image(store.description("tiny:1", CONFIG))

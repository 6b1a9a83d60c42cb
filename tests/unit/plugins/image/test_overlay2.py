"""Layers read from Docker's classic store are those of `docker save`, which is used if they cannot be read."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine
from ansible_collections.hostwright.django.plugins.module_utils.image import store as image_store
from ansible_collections.hostwright.django.plugins.module_utils.image.overlay2 import DataRoot, UnreadableError
from ansible_collections.hostwright.django.plugins.module_utils.image.receiver import decompress
from ansible_collections.hostwright.django.plugins.module_utils.image.store import ImageStore

HERE = Path(__file__).parent


def archive(*files: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", errors="surrogateescape") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


LAYERS = [
    archive(("lib/one", bytes(range(256)) * 12), ("lib/empty", b"")),
    archive(("app/.wh.gone", b""), ("app/code", b"print()")),
    archive(("app/n\udcffme", b"not UTF-8"), ("app/code", b"print(1)")),
]
DIGESTS = [hashlib.sha256(layer).hexdigest() for layer in LAYERS]
CONFIG = json.dumps({"architecture": "amd64", "rootfs": {"diff_ids": [f"sha256:{digest}" for digest in DIGESTS]}})
IMAGE = f"sha256:{hashlib.sha256(CONFIG.encode()).hexdigest()}"


def keep(root: Path) -> None:
    """Store the image as Docker does: the files decompress, and the rest of their archives separately."""
    described = root / "image" / "overlay2" / "imagedb" / "content" / IMAGE.replace(":", "/")
    described.parent.mkdir(parents=True)
    described.write_text(CONFIG)
    chain = ""
    for digest, layer in zip(DIGESTS, LAYERS, strict=True):
        chain = hashlib.sha256(f"sha256:{chain} sha256:{digest}".encode()).hexdigest() if chain else digest
        at = root / "image" / "overlay2" / "layerdb" / "sha256" / chain
        at.mkdir(parents=True)
        (at / "cache-id").write_text(f"files-{digest}")
        entries, end = [], 0
        with tarfile.open(fileobj=io.BytesIO(layer), errors="surrogateescape") as tar:
            for member in tar:
                entries.append({"type": 2, "payload": base64.b64encode(layer[end : member.offset_data]).decode()})
                end = member.offset_data + member.size
                name = member.name.encode(errors="surrogateescape")
                path = root / "overlay2" / f"files-{digest}" / "diff" / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(layer[member.offset_data : end])
                raw = {"name_raw": base64.b64encode(name).decode()} if b"\xff" in name else {"name": member.name}
                entries.append({"type": 1, **raw, **({"size": member.size} if member.size else {})})
        entries.append({"type": 2, "payload": base64.b64encode(layer[end:]).decode()})
        with gzip.open(at / "tar-split.json.gz", "wt") as out:
            out.writelines(json.dumps(entry) + "\n" for entry in entries)


class Builder(Engine):
    """An Engine that has the image in its data root and for `docker save`; a test may remove the former."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        program = directory / "docker"
        program.write_text(
            f'#!/bin/sh\n[ "$1" = info ] && exec cat {directory}/info\n'
            f'PRETENDED={directory} exec python3 {HERE}/pretended_docker.py "$@"\n'
        )
        program.chmod(0o755)
        super().__init__(str(program))
        self.set_info(Driver="overlay2")
        layers = {"RootFS": {"Layers": [f"sha256:{digest}" for digest in DIGESTS]}}
        image = {"Id": IMAGE, "Architecture": "amd64", **layers}
        (directory / "store.json").write_text(json.dumps({"images": {"polls:1": image}, "containers": []}))
        names = [f"{digest}/layer.tar" for digest in DIGESTS]
        manifest = [{"Config": "config.json", "RepoTags": ["polls:1"], "Layers": names}]
        files = [*zip(names, LAYERS, strict=True), ("config.json", CONFIG.encode())]
        saved = archive(*files, ("manifest.json", json.dumps(manifest).encode()))
        (directory / "saved.tar").write_bytes(saved)

    def set_info(self, **more: str) -> None:
        (self.root / "info").write_text(json.dumps({"DockerRootDir": str(self.root), **more}))

    @property
    def saves(self) -> int:
        return (self.root / "calls").read_text().count("save ")


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    directory = tmp_path / "docker"
    directory.mkdir()
    keep(directory)
    return Builder(directory)


def check(store: ImageStore, description: Path) -> None:
    image = store.image(description)
    assert image.config == CONFIG
    for layer, content in zip(image.layers, LAYERS, strict=True):
        parts = dict(zip(dict.fromkeys(layer.pieces), store.pieces(layer, layer.pieces), strict=True))
        assert b"".join(decompress(parts[piece]) for piece in layer.pieces) == content


def test_an_image_is_read_without_a_save(builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_store, "PIECE", 1000)
    store = ImageStore(tmp_path / "store")
    check(store, store.export(builder, "polls:1"))
    assert builder.saves == 0


@pytest.mark.parametrize("fault", ["driver", "away", "changed", "gone", "broken", "config"])
def test_an_unreadable_image_is_exported_with_a_save(builder: Builder, tmp_path: Path, fault: str) -> None:
    code = builder.root / "overlay2" / f"files-{DIGESTS[1]}" / "diff" / "app" / "code"
    match fault:
        case "driver":
            builder.set_info(Driver="overlayfs")
        case "away":
            shutil.rmtree(builder.root / "image")
        case "changed":
            code.write_text("import")
        case "gone":
            code.unlink()
        case "broken":
            next(builder.root.glob(f"image/overlay2/layerdb/sha256/{DIGESTS[0]}/tar-split*")).write_bytes(b"\x1f\x8bno")
        case "config":
            (builder.root / "image/overlay2/imagedb/content" / IMAGE.replace(":", "/")).write_text("{}")
    store = ImageStore(tmp_path / "store")
    check(store, store.export(builder, "polls:1"))
    assert builder.saves == 1
    assert {path.name for path in store.layers.glob("*.zst")} == {f"{digest}.zst" for digest in DIGESTS}


def test_a_layer_s_path_depends_on_the_layers_below(builder: Builder) -> None:
    kept = DataRoot(builder.root)
    assert b"".join(kept.layer(DIGESTS)) == LAYERS[2]
    with pytest.raises(UnreadableError):
        list(kept.layer(DIGESTS[1:]))

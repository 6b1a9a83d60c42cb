"""Store of exported images on the control node: each layer is stored and compressed once, for all images and hosts.

A layer is stored in pieces, each a complete zstd frame of 1 MiB of the layer. Pieces are compressed in parallel and
sent one by one, and an interrupted push continues with the next piece. Every Debian has libzstd, because dpkg and
systemd need it. LEVEL compresses better than the default of the program zstd.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gzip
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from ..host.engine import Engine, EngineError, Image
from ..host.files import write_durably
from .overlay2 import DataRoot, UnreadableError

PIECE = 1 << 20  # uncompressed bytes
LEVEL = 5
THREADS = min(os.cpu_count() or 1, 4)
KEPT_IMAGES = 3
LARGEST_JSON = 8 << 20
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class StoreError(Exception):
    """An image that cannot be exported or is missing in the store; the message says what to do."""


@dataclass(frozen=True)
class Piece:
    """A compressed part of a layer: ``name`` is the SHA-256 of its bytes with ``.zst``, ``length`` their number."""

    name: str
    length: int


@dataclass(frozen=True)
class Layer:
    """A layer in the store: ``digest`` (hex) and ``size`` (bytes) describe the uncompressed tar archive."""

    digest: str
    size: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class ExportedImage:
    """An image in the store. ``config`` is its configuration byte for byte, ``layers`` bottom up."""

    config: str
    layers: tuple[Layer, ...]

    @property
    def manifest(self) -> str:
        """The OCI manifest with all layers uncompressed: its digest is the image's id in containerd's store."""
        kind = "application/vnd.oci.image"
        config = self.config.encode()
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{kind}.manifest.v1+json",
                "config": {
                    "mediaType": f"{kind}.config.v1+json",
                    "digest": f"sha256:{hashlib.sha256(config).hexdigest()}",
                    "size": len(config),
                },
                "layers": [
                    {"mediaType": f"{kind}.layer.v1.tar", "digest": f"sha256:{layer.digest}", "size": layer.size}
                    for layer in self.layers
                ],
            }
        )


class ImageStore:
    """A directory with ``.layers/<digest>.zst`` (pieces) and ``.json``, and ``<image>/<tag>-<id>.json``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layers = root / ".layers"  # not a valid image name

    def description(self, reference: str, image_id: str) -> Path:
        """Path of an image's description."""
        name, _, tag = reference.rpartition(":")
        identity = image_id.removeprefix("sha256:")[:12]
        return self.root / re.sub(r"[^A-Za-z0-9._-]", "_", name) / f"{tag}-{identity}.json"

    def has(self, digest: str) -> bool:
        """Whether a layer is in the store."""
        return all((self.layers / f"{digest}{suffix}").exists() for suffix in (".json", ".zst"))

    def layer(self, digest: str) -> Layer:
        """A layer of the store.

        Raises:
            StoreError: the layer is missing.
        """
        try:
            data = json.loads((self.layers / f"{digest}.json").read_text())
            (self.layers / f"{digest}.zst").stat()
            return Layer(digest, data["size"], tuple(Piece(**piece) for piece in data["pieces"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"layer {digest[:12]} is not in {self.root}: remove that directory and run again"
            ) from error

    def pieces(self, layer: Layer, wanted: Container[Piece]) -> Iterator[bytes]:
        """Yield the compressed contents of the wanted pieces of a layer, in order, each once."""
        with (self.layers / f"{layer.digest}.zst").open("rb") as content:
            seen: set[Piece] = set()
            for piece in layer.pieces:
                if piece in wanted and piece not in seen:
                    yield content.read(piece.length)
                else:
                    content.seek(piece.length, os.SEEK_CUR)
                seen.add(piece)

    def image(self, description: Path) -> ExportedImage:
        """The image with that description.

        Raises:
            StoreError: the description or a layer is missing.
        """
        try:
            data = json.loads(description.read_text())
            config, digests = data["config"], data["layers"]
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(f"no exported image {description}: build the image first") from error
        return ExportedImage(config, tuple(self.layer(digest) for digest in digests))

    def has_image(self, description: Path) -> bool:
        """Whether an image's description and all its layers are in the store."""
        with contextlib.suppress(StoreError):
            return bool(self.image(description))
        return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the store, so that one export runs at a time."""
        self.layers.mkdir(parents=True, exist_ok=True)
        with (self.layers / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def add(self, chunks: Iterable[bytes]) -> Layer:
        """Compress a layer into the store and compute its digest.

        Args:
            chunks: the uncompressed tar archive in parts of ``PIECE`` bytes, the last one shorter.
        """
        digest, size = hashlib.sha256(), 0
        pieces: list[Piece] = []
        with tempfile.NamedTemporaryFile(dir=self.layers, prefix=".", suffix=".part") as out:
            for chunk, compressed in _compressed(chunks):
                digest.update(chunk)
                size += len(chunk)
                pieces.append(Piece(f"{hashlib.sha256(compressed).hexdigest()}.zst", len(compressed)))
                out.write(compressed)
            out.flush()
            layer = Layer(digest.hexdigest(), size, tuple(pieces))
            target = self.layers / f"{layer.digest}.zst"
            target.unlink(missing_ok=True)
            os.link(out.name, target)
        described = {"size": size, "pieces": [asdict(piece) for piece in pieces]}
        _replace(self.layers / f"{layer.digest}.json", json.dumps(described))
        return layer

    def describe(self, description: Path, config: str, digests: Sequence[str]) -> None:
        """Write the description of a complete image; remove the oldest images of its name, and unused layers."""
        description.parent.mkdir(parents=True, exist_ok=True)
        _replace(description, json.dumps({"config": config, "layers": list(digests)}))
        old = sorted(description.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in old[:-KEPT_IMAGES]:
            path.unlink()
        used = {layer for path in self.root.glob("*/*-*.json") for layer in json.loads(path.read_text())["layers"]}
        for path in self.layers.iterdir():
            if path.suffix in (".zst", ".json", ".part") and path.stem not in {*used, "names"}:
                path.unlink()

    def export(self, engine: Engine, reference: str, known: Mapping[str, str] | None = None) -> Path:
        """Export an image of this machine's Engine into the store.

        Missing layers are read from the Engine's data root, or, if that is not possible, from one ``docker save``.

        Args:
            engine: the Engine that has the image.
            reference: the image's name.
            known: digests of layers that need not be exported, by their names in earlier archives.

        Returns:
            Path of the image's description.

        Raises:
            StoreError: the saved archive does not match the image.
            EngineError: the image does not exist or cannot be saved.
        """
        with self.locked():
            image = engine.image(reference)
            if image is None:
                raise EngineError(f"there is no image {reference} to export")
            description = self.description(reference, image.id)
            digests = [layer.removeprefix("sha256:") for layer in image.layers]
            names = {**self.names(), **(known or {})}
            present = {*(known or {}).values(), *filter(self.has, digests)}
            missing = set(digests) - present
            with contextlib.suppress(UnreadableError):
                config = self._read_data_root(engine, image, digests, missing)
                self.describe(description, config, digests)
                return description
            with subprocess.Popen(
                [engine.program, "save", reference], stdout=subprocess.PIPE, stderr=subprocess.PIPE, pipesize=PIECE
            ) as saving:
                assert saving.stdout is not None and saving.stderr is not None  # noqa: S101 (they are pipes)
                try:
                    files, seen = self._read(saving.stdout, set(digests), missing, names)
                except (tarfile.TarError, gzip.BadGzipFile) as error:
                    saving.kill()
                    raise EngineError(f"'docker save {reference}' wrote an invalid archive: {error}") from error
                output = saving.stderr.read().decode(errors="replace").strip()
            if saving.returncode != 0:
                raise EngineError(f"'docker save {reference}' failed ({saving.returncode}): {output}")
            config, found = _checked(files, digests, seen, reference)
            if absent := [digest for digest in missing if not self.has(digest)]:
                raise StoreError(
                    f"'docker save {reference}' did not write layer {absent[0][:12]}: pull or build the image again"
                )
            self.describe(description, config, digests)
            self._remember(found)
        return description

    def unpack(self, archive: Path, description: Path) -> None:
        """Add an export that another machine has packed; it need not contain the layers that the store has.

        Raises:
            StoreError: the archive contains other files, or lacks a layer.
        """
        with self.locked(), tarfile.open(archive) as tar:
            config, digests = "", []
            described: dict[str, str] = {}
            names: dict[str, str] = {}
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                path = Path(os.path.normpath(member.name))
                if content is None or path.name == "lock":
                    continue
                if path.parent == Path(description.parent.name) and path.name == description.name:
                    data = json.load(content)
                    config, digests = data["config"], data["layers"]
                elif path == Path(".layers/names.json"):
                    names = json.load(content)
                elif re.fullmatch(r"\.layers/[0-9a-f]{64}\.json", str(path)):
                    described[path.name] = content.read().decode()
                elif re.fullmatch(r"\.layers/[0-9a-f]{64}\.zst", str(path)):
                    with (self.root / path).open("wb") as out:
                        shutil.copyfileobj(content, out, PIECE)
                else:
                    raise StoreError(f"the builder sent {member.name}, which does not belong to {description.name}")
            for name, text in described.items():
                _replace(self.layers / name, text)
            if not digests or not all(self.has(digest) for digest in digests):
                raise StoreError("the builder did not send all layers: run again")
            self.describe(description, config, digests)
            self._remember(names)

    def names(self) -> dict[str, str]:
        """Digests of stored layers by their names in archives; such names are content digests, so they stay valid."""
        with contextlib.suppress(OSError, ValueError):
            names: dict[str, str] = json.loads((self.layers / "names.json").read_text())
            return {name: digest for name, digest in names.items() if self.has(digest)}
        return {}

    def _remember(self, names: Mapping[str, str]) -> None:
        _replace(self.layers / "names.json", json.dumps({**self.names(), **names}))

    def _read_data_root(self, engine: Engine, image: Image, digests: list[str], missing: set[str]) -> str:
        """Add the missing layers from the Engine's data root; return the image's configuration.

        Raises:
            UnreadableError: a layer cannot be read there, or has another digest.
        """
        root = engine.data_root
        if root is None:
            raise UnreadableError
        data_root = DataRoot(root)
        config = data_root.config(image.id)
        for digest in sorted(missing, key=digests.index):
            layer = self.add(_rechunked(data_root.layer(digests[: digests.index(digest) + 1])))
            if layer.digest != digest:
                raise UnreadableError
        return config

    def _read(
        self, stream: IO[bytes], wanted: set[str], missing: set[str], names: dict[str, str]
    ) -> tuple[dict[str, bytes], dict[str, str]]:
        """Read an archive in one pass and add its missing layers.

        Returns:
            JSON files by name, and digests of layers by their names in the archive.
        """
        files: dict[str, bytes] = {}
        stored: dict[str, str] = {}
        links: dict[str, str] = {}
        with tarfile.open(fileobj=stream, mode="r|", bufsize=PIECE) as archive:
            for member in archive:
                if member.issym():  # the Engine writes a repeated layer as a symlink
                    links[member.name] = os.path.normpath(Path(member.name).parent / member.linkname)
                content = archive.extractfile(member) if member.isreg() else None
                known = names.get(member.name, Path(member.name).name)
                if content is None or (known in wanted and known not in missing):
                    continue
                head = content.read(512)
                if head[:1] in (b"{", b"[") and head[257:262] != b"ustar" and member.size <= LARGEST_JSON:
                    files[member.name] = head + content.read()
                elif len(head) == 512 or head.startswith((GZIP, ZSTD)):
                    stored[member.name] = self.add(_uncompressed(head, content, member.name)).digest
        while stream.read(PIECE):  # padding after the end of the archive
            pass
        seen = {**names, **stored}
        return files, seen | {name: seen.get(target, "") for name, target in links.items()}


def _checked(
    files: dict[str, bytes], digests: list[str], names: dict[str, str], reference: str
) -> tuple[str, dict[str, str]]:
    """Check an archive's JSON files; return the image's configuration, and the layers' digests by name.

    Raises:
        StoreError: the archive does not match the image.
    """
    try:
        manifest = json.loads(files["manifest.json"])[0]
        config = files[manifest["Config"]].decode()
        layers = manifest["Layers"]
        described = [layer.removeprefix("sha256:") for layer in json.loads(config)["rootfs"]["diff_ids"]]
    except (KeyError, IndexError, ValueError) as error:
        raise StoreError(f"'docker save {reference}' wrote no valid manifest: {error}") from error
    if described != digests or len(layers) != len(digests):
        raise StoreError(f"{reference} changed while it was exported: run again")
    for name, digest in zip(layers, digests, strict=True):
        if names.get(name, Path(name).name) != digest:
            raise StoreError(f"'docker save {reference}' wrote a wrong layer for {digest[:12]}: the image is damaged")
    return config, dict(zip(layers, digests, strict=True))


def _rechunked(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in parts of ``PIECE`` bytes."""
    part = bytearray()
    for block in blocks:
        part += block
        while len(part) >= PIECE:
            yield bytes(part[:PIECE])
            del part[:PIECE]
    if part:
        yield bytes(part)


def _uncompressed(head: bytes, rest: IO[bytes], name: str) -> Iterator[bytes]:
    """Yield a layer's uncompressed content in parts of ``PIECE`` bytes.

    Raises:
        StoreError: the layer is compressed with zstd.
    """
    if head.startswith(ZSTD):
        raise StoreError(f"{name} is compressed with zstd, which is not supported: use a base image without zstd")
    whole: _Joined | gzip.GzipFile = _Joined(head, rest)
    if head.startswith(GZIP):
        whole = gzip.GzipFile(fileobj=whole)  # type: ignore[arg-type]  # it calls nothing but read
    while part := whole.read(PIECE):
        yield part


class _Joined:
    """A stream whose first bytes, which were read before, are read again."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self.head, self.rest = head, rest

    def read(self, size: int = -1) -> bytes:
        if not self.head:
            return self.rest.read(size)
        if size < 0:
            size = 1 << 62
        part, self.head = self.head[:size], self.head[size:]
        return part + (self.rest.read(size - len(part)) if size > len(part) else b"")


def _zstd() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise StoreError(
            "libzstd.so.1, which compresses the image, is missing on this machine: install it (package libzstd1)"
        ) from error
    library.ZSTD_compressBound.restype = library.ZSTD_compress.restype = ctypes.c_size_t
    return library


def _compress(library: ctypes.CDLL, part: bytes) -> bytes:
    """Compress to one zstd frame, whose header contains the size of the content."""
    length = ctypes.c_size_t(len(part))
    room = library.ZSTD_compressBound(length)
    out = ctypes.create_string_buffer(room)
    size: int = library.ZSTD_compress(out, ctypes.c_size_t(room), part, length, LEVEL)
    return ctypes.string_at(out, size)  # a buffer of this size excludes an error


def _compressed(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield each part with its compressed form, in order; as many are compressed at a time as there are threads."""
    pending: deque[tuple[bytes, Future[bytes]]] = deque()
    library = _zstd()
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk in itertools.chain(chunks, [None]):
            if chunk is not None:
                pending.append((chunk, pool.submit(_compress, library, chunk)))
            while pending and (chunk is None or len(pending) > THREADS):
                part, future = pending.popleft()
                yield part, future.result()


def _replace(path: Path, text: str) -> None:
    """Replace a file of this user atomically; the caller must have locked the store."""
    write_durably(path, text, 0o644, os.geteuid(), os.getegid())

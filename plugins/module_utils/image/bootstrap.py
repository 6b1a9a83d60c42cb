"""Base images built from Debian's own packages: one layer for Debian, one for the additional packages.

mmdebstrap creates the root file systems. The second layer is the difference between the two, so that images with
different packages share the Debian layer byte for byte.
"""

from __future__ import annotations

import copy
import hashlib
import os
import platform
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..host.engine import Engine

SUITES = {"12": "bookworm", "13": "trixie"}
LEFT_OUT = ("./dev/", "./var/log/", "./var/cache/", "./usr/share/locale/", "./usr/share/man/", "./usr/share/info/")
DOCUMENTATION = "./usr/share/doc/"
RECIPE = 1  # raise it when this module changes the content of a layer: every base is then built again


class BootstrapError(Exception):
    """A base image that could not be built; the message says what to do."""


@dataclass(frozen=True)
class Base:
    """The content of a base image.

    ``serial`` is a number that the user raises to rebuild the image from today's packages.
    """

    debian: str
    packages: tuple[str, ...]
    mirror: str = ""
    serial: int = 1

    @property
    def key(self) -> str:
        """Short digest of the content: the same packages of the same Debian have the same key."""
        text = "\n".join([str(RECIPE), self.debian, str(self.serial), platform.machine(), *sorted(set(self.packages))])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def tag(self) -> str:
        """The image's full name."""
        return f"hostwright-base:{self.key}"


def ensure_base(engine: Engine, base: Base) -> bool:
    """Build the base image unless the Engine has it; return whether it was built.

    Raises:
        BootstrapError: mmdebstrap is missing or failed.
        EngineError: the Engine could not build the image.
    """
    if engine.image(base.tag):
        return False
    bare = Base(base.debian, (), base.mirror, base.serial)
    with tempfile.TemporaryDirectory(prefix="hostwright-base-") as directory:
        context = Path(directory)
        if base.packages:
            ensure_base(engine, bare)
            _mmdebstrap(base, context / "full.tar")
            _export_layer(engine, bare.tag, context / "lower.tar")
            with (
                (context / "lower.tar").open("rb") as lower,
                (context / "full.tar").open("rb") as upper,
                (context / "layer.tar").open("wb") as layer,
            ):
                layer_difference(lower, upper, layer)
            (context / "lower.tar").unlink()
            (context / "full.tar").unlink()
            (context / "Dockerfile").write_text(f"FROM {bare.tag}\nADD layer.tar /\n")
        else:
            _mmdebstrap(base, context / "full.tar")
            with (context / "full.tar").open("rb") as upper, (context / "layer.tar").open("wb") as layer:
                layer_difference(None, upper, layer)
            (context / "full.tar").unlink()
            (context / "Dockerfile").write_text('FROM scratch\nADD layer.tar /\nCMD ["/bin/bash"]\n')
        engine("build", "--quiet", "--label", "hostwright=base", "--tag", base.tag, directory)
    return True


def _mmdebstrap(base: Base, target: Path) -> None:
    """Write the root file system of a base as a tar archive."""
    command = ["mmdebstrap", "--variant=essential", "--format=tar", "--quiet"]
    if base.packages:
        command.append(f"--include={','.join(base.packages)}")
    command += [SUITES[base.debian], str(target)]
    if base.mirror:
        command.append(base.mirror)
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise BootstrapError("mmdebstrap is not installed on the builder: apt-get install mmdebstrap") from error
    if done.returncode != 0:
        tail = "\n".join(done.stderr.decode(errors="replace").strip().splitlines()[-8:])
        packages = ", ".join(base.packages) or "none"
        raise BootstrapError(f"mmdebstrap could not bootstrap Debian {base.debian} (packages: {packages}):\n{tail}")


def _export_layer(engine: Engine, reference: str, target: Path) -> None:
    """Write the file system of a one-layer image as a tar archive."""
    name = engine("create", "--label", "hostwright=base", reference)
    try:
        engine("export", "--output", str(target), name)
    finally:
        engine("rm", "--force", "--volumes", name)


Entry = tuple[bytes, int, int, int, str, str]


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    """The properties in which two equal files agree: all except the times."""
    kind = tarfile.REGTYPE if member.islnk() or member.isreg() else member.type
    digest = ""
    if kind == tarfile.REGTYPE:
        content = archive.extractfile(member)
        if isinstance(content, tarfile.ExFileObject):
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    return kind, member.mode & 0o7777, member.uid, member.gid, digest, member.linkname if member.issym() else ""


def _name(member: tarfile.TarInfo) -> str:
    """A member's path, normalized: mmdebstrap and the Engine's export write it differently."""
    path = member.name.removeprefix("./").strip("/")
    return "." if path in ("", ".") else f"./{path}"


def _kept(name: str) -> bool:
    if name.startswith(DOCUMENTATION):
        return name.endswith("/copyright")
    return not name.startswith(LEFT_OUT)


def layer_difference(lower: IO[bytes] | None, upper: IO[bytes], layer: IO[bytes]) -> int:
    """Write the layer that turns one root file system into another.

    Args:
        lower: seekable tar archive of the lower file system, or None for an empty one.
        upper: seekable tar archive of the wanted file system.
        layer: receives a tar archive of the files of ``upper`` that are missing in ``lower`` or differ there (times do
            not count). Documentation, translations, logs and caches are left out. Files that only ``lower`` has are
            not removed, because packages are only added.

    Returns:
        The number of members written.
    """
    below: dict[str, Entry] = {}
    if lower is not None:
        with tarfile.open(fileobj=lower, mode="r:") as archive:
            below = {_name(member): _entry(archive, member) for member in archive}
    written = 0
    with (
        tarfile.open(fileobj=upper, mode="r:") as archive,
        tarfile.open(fileobj=layer, mode="w:", format=tarfile.PAX_FORMAT) as out,
    ):
        for member in archive:
            name = _name(member)
            if name == "." or not _kept(name) or below.get(name) == _entry(archive, member):
                continue
            content = archive.extractfile(member) if member.isreg() or member.islnk() else None
            shipped = copy.copy(member)
            shipped.name = name
            # These headers of the old member would take precedence over the values set here.
            shipped.pax_headers = {k: v for k, v in member.pax_headers.items() if k not in ("path", "linkpath", "size")}
            if content is not None and member.islnk():  # its target may be in another layer: write a regular file
                shipped.type, shipped.linkname = tarfile.REGTYPE, ""
                shipped.size = content.seek(0, os.SEEK_END)
                content.seek(0)
            out.addfile(shipped, content)
            written += 1
    return written

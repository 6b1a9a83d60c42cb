"""Searches for a secret in all places that it could leak to."""

from __future__ import annotations

import gzip
import io
import re
import subprocess
import tarfile
from collections.abc import Iterator
from typing import IO

import zstandard

from tests.faults.site import NAME, ROOT, Site
from tests.secrecy.story import CANARY, Container

WANTED = CANARY.encode()
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# The allowed places: on disk, in memory, and in the protected part of a backup. A volume shows the same files again.
OWN = re.compile(
    rf"({ROOT}/config/{NAME}/secrets|/var/lib/docker/volumes/{NAME}_config/_data/secrets|/run/hostwright/secrets/{NAME})"
    rf"/\d+/CANARY|/var/backups/hostwright/{NAME}/[^/]+\.config\.tar"
)
# On the host, for directories: find files that contain the text from the input, and archive the compressed files.
FIND = 'find "$@" "(" -path /proc -o -path /sys -o -path /dev -o -name merged ")" -prune -o -type f'
GREP = f"umask 77; cat > /dev/shm/wanted; {FIND} -exec grep -lF -f /dev/shm/wanted {{}} +; rm /dev/shm/wanted"
PACK = f'{FIND} "(" -name "*.gz" -o -name "*.zst" ")" -print0 | tar --create --null --files-from - || [ $? -eq 1 ]'


def in_text(text: str) -> list[str]:
    """Return the lines that contain it, with the secret replaced."""
    return [line.replace(CANARY, "…")[:200] for line in text.splitlines() if CANARY in line]


def in_containers(containers: list[Container]) -> list[str]:
    """Return the containers whose description contains it."""
    return [container["Name"] for container in containers if CANARY in str(container)]


def in_images(site: Site, images: list[str]) -> list[str]:
    """Return the images that contain it in their history, configuration, or a file of a layer, compressed or not."""
    found = [image for image in images if in_text(site.on_host("docker", "image", "inspect", image))]
    found += [image for image in images if in_text(site.on_host("docker", "history", "--no-trunc", image))]
    return found + [name for name in _hits(site, "docker", "save", *images) if name]


def in_files(site: Site, *directories: str) -> list[str]:
    """Return the files of the host that contain it outside of the allowed places, compressed or not."""
    command = ["docker", "exec", "--interactive", site.container, "sh", "-c", GREP, "sh", *directories]
    done = subprocess.run(command, input=f"{CANARY}\n", capture_output=True, text=True, check=False)
    found = {*done.stdout.splitlines(), *_hits(site, "sh", "-c", PACK, "sh", *directories)}
    return sorted(path for path in found if not OWN.fullmatch(path))


def _hits(site: Site, *command: str) -> list[str]:
    """Run a command on the host that writes an archive; return the names of the members that contain it."""
    with subprocess.Popen(["docker", "exec", site.container, *command], stdout=subprocess.PIPE) as process:
        assert process.stdout
        found = list(_in_archive(process.stdout))
        process.stdout.read()  # the data after the last member
    assert process.returncode == 0
    return found


def _in_archive(stream: IO[bytes]) -> Iterator[str]:
    with tarfile.open(fileobj=stream, mode="r|*") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file and _has(file.read()):
                yield f"/{member.name.lstrip('/')}"


def _has(data: bytes) -> bool:
    """Return whether data contains it: plain, compressed, or in a member of an archive."""
    if WANTED in data:
        return True
    if data.startswith(GZIP):
        return _has(gzip.decompress(data))
    if data.startswith(ZSTD):
        return _has(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read())
    if data[257:262] == b"ustar":
        return any(_in_archive(io.BytesIO(data)))
    return False

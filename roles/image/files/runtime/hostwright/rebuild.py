"""Archive the files of a rebuild except database and media: secrets, configuration, live record, TLS files."""

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hostwright.disk import File, Output, read_back
from hostwright.errors import BackupError

# Locks, progress files, and the log of deployments, which only root can read.
_LEFT_OUT = {"lock", "progress", "deployments.jsonl"}
# A rebuild is impossible without these.
_ESSENTIAL = ("secrets", "releases")


@dataclass(frozen=True)
class Packed:
    """The archive, and the files it lacks because only root can read them."""

    file: File
    left_out: list[str]


def pack(target: Path, configuration: Path, record: Path, release: int) -> Packed:
    """Write the tar archive, flush it and read it back.

    Its members are ``config/…``, ``run/releases/<n>/release.json`` and, if they exist, ``tls/…``, with the owners,
    modes and times of the files.

    Args:
        target: path of the archive; must not exist.
        configuration: the site's directory of configuration and secrets; TLS files are in ``tls`` beside it.
        record: record of the live release.
        release: number of the live release.

    Raises:
        BackupError: a secret or a release's configuration cannot be read, or the archive read back is wrong.
    """
    left_out: list[str] = []
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in _files(configuration):
            relative = path.relative_to(configuration)
            if not _add(tar, path, f"config/{relative}"):
                if relative.parts[0] in _ESSENTIAL:
                    raise BackupError(f"{path}: user {os.getuid()} cannot read this file, which a rebuild needs.")
                left_out.append(f"config/{relative}")
        if not record.is_file() or not _add(tar, record, f"run/releases/{release}/release.json"):
            raise BackupError(f"{record}: user {os.getuid()} cannot read this file, which a rebuild needs.")
        tls = configuration.with_name("tls")
        if tls.is_dir():
            left_out += [
                f"tls/{path.relative_to(tls)}"
                for path in _files(tls)
                if not _add(tar, path, f"tls/{path.relative_to(tls)}")
            ]
    with Output(target) as output:
        output.write(buffer.getvalue())
    if read_back(target) != output.file:
        raise BackupError(f"{target.name}: the archive read back differs from what was written: check the disk.")
    return Packed(output.file, left_out)


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        name = path.name
        if path.is_file() and name not in _LEFT_OUT and not (name.startswith(".") and name.endswith(".new")):
            yield path


def _add(tar: tarfile.TarFile, path: Path, name: str) -> bool:
    """Add a file (of a link: its target); return whether it is readable.

    A file that vanishes meanwhile counts as readable: housekeeping has removed its release.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read()
    except FileNotFoundError:
        return True
    except PermissionError:
        return False
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(data), int(status.st_mtime), stat.S_IMODE(status.st_mode)
    member.uid, member.gid = status.st_uid, status.st_gid
    tar.addfile(member, io.BytesIO(data))
    return True

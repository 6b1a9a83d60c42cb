"""What a rebuild needs beside database and media: secrets, configuration, the live release's record, TLS files."""

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hostwright.disk import File, Output, read_back
from hostwright.errors import BackupError

# Locks, signs of what is under way, and the log of what has been deployed, which root keeps for itself.
_LEFT_OUT = {"lock", "progress", "deployments.jsonl"}
# Without these a rebuild would be another site.
_ESSENTIAL = ("secrets", "releases")


@dataclass(frozen=True)
class Packed:
    """The archive, and the files that are not in it because only root can read them."""

    file: File
    left_out: list[str]


def pack(target: Path, configuration: Path, record: Path, release: int) -> Packed:
    """Write the tar archive, flush it and read it back.

    Its members are ``config/…``, ``run/releases/<n>/release.json`` and, if there are any, ``tls/…``; owners, modes and
    times are those of the files.

    Args:
        target: must not exist.
        configuration: the site's directory of configuration and secrets; TLS files lie in ``tls`` beside it.
        record: the live release's.
        release: its number.

    Raises:
        BackupError: a secret or a release's configuration cannot be read, or the archive is not what was written.
    """
    left_out: list[str] = []
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in _files(configuration):
            relative = path.relative_to(configuration)
            if not _add(tar, path, f"config/{relative}"):
                if relative.parts[0] in _ESSENTIAL:
                    raise BackupError(f"{path}: user {os.getuid()} cannot read it, and a rebuild needs it.")
                left_out.append(f"config/{relative}")
        if not record.is_file() or not _add(tar, record, f"run/releases/{release}/release.json"):
            raise BackupError(f"{record}: user {os.getuid()} cannot read it, and a rebuild needs it.")
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
        raise BackupError(f"{target.name}: what was read back is not what was written: look at the disk.")
    return Packed(output.file, left_out)


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        name = path.name
        if path.is_file() and name not in _LEFT_OUT and not (name.startswith(".") and name.endswith(".new")):
            yield path


def _add(tar: tarfile.TarFile, path: Path, name: str) -> bool:
    """Add a file as it is at this moment; a link's target, not the link. Return whether it can be read.

    One that housekeeping has removed meanwhile is of a release that no longer is.
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

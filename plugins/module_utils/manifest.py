"""The manifests of a directory of backups: which backups can be used, and why the others cannot.

The modules and the command ``hostwright`` of a host judge by this file, as ``contract.py`` says. A backup is there when
its seal is: the SHA-256 of the manifest, written last. The runtime in the image writes both, and reads them by itself.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

from .contract import TIME
from .host import files

FORMAT = 2
MANIFEST = ".json"
SEAL = ".json.sha256"
ID = re.compile(r"(\d{8}T\d{6}Z)-r(\d+)")
_MOMENT = "%Y%m%dT%H%M%SZ"
# What a reader on the host uses, with its type. A name after a dot is a field of an object.
FIELDS: dict[str, type] = {
    "id": str, "time": str, "site": str, "release": int, "version": str, "image": str, "rows": dict, "rows_total": int,
    "database.bytes": int, "archive.name": str, "archive.sha256": str, "config.name": str, "config.sha256": str,
}  # fmt: skip


def look(directory: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Read the manifests of a directory.

    Returns:
        The manifests of the backups that can be used, the oldest one first, and for each other backup its id and what
        is wrong with it.

    Raises:
        PermissionError: a manifest may not be read; nothing is known of its backup then.
        OSError: the directory cannot be read.
    """
    names = (path.name[: -len(SEAL)] for path in directory.iterdir() if path.name.endswith(SEAL))
    usable, wrong = [], {}
    for name in sorted(filter(_is_id, names), key=order):
        try:
            usable.append(_read(directory, name))
        except PermissionError:
            raise
        except (OSError, ValueError) as error:
            if (directory / f"{name}{SEAL}").exists():  # else it has been removed meanwhile, as old ones are
                wrong[name] = str(error)
    return usable, wrong


def order(name: str) -> tuple[str, int]:
    """Sort ids by their moments; of those of one second the higher release is the newer one."""
    moment, _, release = name.partition("-r")
    return moment, int(release)


def size(number: float) -> str:
    """Write a number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def _read(directory: Path, name: str) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        OSError: it or its seal cannot be read.
        ValueError: it is not what was sealed, or not a manifest that this version can use.
    """
    text = files.read(directory / f"{name}{MANIFEST}")
    sealed = files.read(directory / f"{name}{SEAL}").partition(" ")[0]
    if hashlib.sha256(text.encode()).hexdigest() != sealed:
        raise ValueError(f"its hash is not the sealed {sealed}")
    manifest = json.loads(text)
    if not isinstance(manifest, dict):
        raise ValueError("it is no JSON object")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"it has format {manifest.get('format')!r}, and this version reads format {FORMAT}")
    if manifest.get("id") != name:
        raise ValueError(f"it is the manifest of {manifest.get('id')}")
    for field, kind in FIELDS.items():
        found: Any = manifest
        for part in field.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if not isinstance(found, kind):
            raise ValueError(f"its {field} is {found!r}")
    time.strptime(manifest["time"], TIME)
    return manifest


def _is_id(name: str) -> bool:
    found = ID.fullmatch(name)
    try:
        return bool(found and time.strptime(found[1], _MOMENT))
    except ValueError:
        return False

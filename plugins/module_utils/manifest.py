"""The manifests in a directory of backups: the usable backups, and why the others are not usable.

The modules and a host's command ``hostwright`` share this file, as they share ``contract.py``. A backup exists when its
seal exists: the SHA-256 of the manifest, written last. The image's runtime writes both, and has its own reader.
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
# Fields that are used on the host, with their types. A name after a dot is a field of an object.
FIELDS: dict[str, type] = {
    "id": str, "time": str, "site": str, "release": int, "version": str, "image": str, "rows": dict, "rows_total": int,
    "database.bytes": int, "archive.name": str, "archive.sha256": str, "config.name": str, "config.sha256": str,
}  # fmt: skip


def look(directory: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Read the manifests of a directory.

    Returns:
        The manifests of the usable backups, the oldest one first, and the reason why each other backup is not usable,
        by its id.

    Raises:
        PermissionError: a manifest may not be read, so that nothing is known about its backup.
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
            if (directory / f"{name}{SEAL}").exists():  # otherwise the old backup was removed in the meantime
                wrong[name] = str(error)
    return usable, wrong


def order(name: str) -> tuple[str, int]:
    """Return the sort key of an id: its time, then its release."""
    moment, _, release = name.partition("-r")
    return moment, int(release)


def size(number: float) -> str:
    """Return a number of bytes as text with a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def _read(directory: Path, name: str) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        OSError: it or its seal cannot be read.
        ValueError: it does not match its seal, or this version cannot use it.
    """
    text = files.read(directory / f"{name}{MANIFEST}")
    sealed = files.read(directory / f"{name}{SEAL}").partition(" ")[0]
    if hashlib.sha256(text.encode()).hexdigest() != sealed:
        raise ValueError(f"its hash is not the sealed {sealed}")
    manifest = json.loads(text)
    if not isinstance(manifest, dict):
        raise ValueError("it is not a JSON object")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"it has format {manifest.get('format')!r}, but this version reads format {FORMAT}")
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

"""The immutable record of a release."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..host import files
from ..host.files import write_durably
from . import record_check
from .errors import ReleaseError


@dataclass(frozen=True)
class Record:
    """The immutable record of a release.

    ``spec`` is what was asked for, without the secrets; ``spec_digest`` identifies it with them. ``restored`` names the
    backup or the file that the generation was filled from, if the release is a restore.
    """

    site: str
    release: int
    image: str
    image_id: str
    version: str
    source_digest: str
    generation: int
    container: str
    configuration: str
    created: str
    migrations: tuple[str, ...]
    previous: int | None
    spec_digest: str
    spec: dict[str, Any] = field(default_factory=dict)
    restored: str = ""

    @classmethod
    def read(cls, path: Path, site: str) -> Record:
        """Read a record that ``write`` has written, in the directory of the release.

        Raises:
            ReleaseError: it is unreadable, another user may have written it, or it is not of that site and release.
        """
        try:
            data = json.loads(files.read(path, own=True))
            record_check.check(data, site, path.parent.resolve().name)
            return cls(**{**data, "migrations": tuple(data["migrations"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ReleaseError(
                "read the records",
                f"the release record {path} cannot be read: {error}. Put back the file that Hostwright wrote, with "
                "owner root and mode 0644. If the release is not the live one, its directory may be removed instead",
            ) from error

    def write(self, path: Path) -> None:
        """Write the record durably, readable by all users, writable by root."""
        write_durably(path, json.dumps(asdict(self), indent=1) + "\n", 0o644)

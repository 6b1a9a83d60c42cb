"""The backups of a directory, as files: which there are, which one is meant, and whether it is what was written.

No database is opened here: that is for the runtime in the site's image.
"""

from __future__ import annotations

import calendar
import hashlib
import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..contract import TIME
from ..manifest import MANIFEST, SEAL, look, order, size
from . import secret_key
from .errors import ReleaseError
from .secret_key import SecretKey
from .site import SECRET
from .steps import Step

LATEST = "latest"
SHOWN = 5  # ids in a message
BLOCK = 1 << 20
CHOOSE = Step.CHOOSE_BACKUP
CHECK = Step.CHECK_BACKUP
DAMAGED = "the backup is damaged. Nothing was changed; restore another one"
SECRETS = "config/secrets/"


@dataclass(frozen=True)
class Backup:
    """A sealed backup: its directory, and what its manifest says."""

    directory: Path
    manifest: dict[str, Any]

    @property
    def id(self) -> str:
        """Its name: moment and release."""
        return str(self.manifest["id"])

    @property
    def moment(self) -> float:
        """When it was made, in seconds since the epoch."""
        return float(calendar.timegm(time.strptime(self.manifest["time"], TIME)))

    @property
    def bytes(self) -> int:
        """Size of the database that it unpacks to."""
        return int(self.manifest["database"]["bytes"])

    @property
    def seal(self) -> Path:
        """The file that was written last."""
        return self.directory / f"{self.id}{SEAL}"

    @property
    def media(self) -> Path:
        """The tree of uploaded files."""
        return self.directory / f"{self.id}.media"

    @property
    def files(self) -> dict[Path, str]:
        """Each file but the media with the hash that it must have."""
        wanted = {self.directory / f"{self.id}{MANIFEST}": self.seal.read_text().partition(" ")[0]}
        for part in ("archive", "config"):
            wanted[self.directory / self.manifest[part]["name"]] = self.manifest[part]["sha256"]
        return wanted

    def names(self) -> list[str]:
        """All that belongs to it, as names in its directory; the seal comes last."""
        found = sorted(path.name for path in self.directory.iterdir() if path.name.startswith(f"{self.id}."))
        return [*(name for name in found if name != self.seal.name), self.seal.name]

    def missing_media_bytes(self, media: Path) -> int:
        """Size of the uploaded files that a site's ``media`` directory lacks."""
        found = (Path(top) / name for top, _, names in os.walk(self.media) for name in names)
        lacking = [path for path in found if not os.path.lexists(media / path.relative_to(self.media))]
        return sum(path.lstat().st_size for path in lacking)

    def described(self) -> dict[str, Any]:
        """What a person wants to know of it."""
        shown = ("id", "time", "site", "release", "version", "image", "rows", "rows_total", "migrations_head")
        return {
            **{name: self.manifest.get(name) for name in shown},
            "bytes": self.bytes,
            "directory": str(self.directory),
            "names": self.names(),
        }


@dataclass(frozen=True)
class Protected:
    """What a rebuild needs besides the database: the site's secret key, and which other secrets its release had."""

    secret_key: SecretKey
    secrets: tuple[str, ...]

    @classmethod
    def of(cls, backup: Backup) -> Protected:
        """Read the protected part of a backup.

        Raises:
            ReleaseError: it has no secret key.
        """
        path = backup.directory / backup.manifest["config"]["name"]
        own = f"{SECRETS}{backup.manifest['release']}/"
        try:
            with tarfile.open(path, "r:") as archive:
                found = archive.getnames()
                beside = own if f"{own}{secret_key.NAME}" in found else SECRETS  # where it was before each had its own
                fallbacks = f"{beside}{secret_key.FALLBACKS}"
                key = SecretKey.of(
                    _text(archive, f"{beside}{secret_key.NAME}"),
                    _text(archive, fallbacks) if fallbacks in found else "",
                )
        except (OSError, KeyError, ValueError, tarfile.TarError) as error:
            raise ReleaseError(CHECK, f"{path} does not give the site's secret key: {error}") from error
        if not key.value.strip():
            raise ReleaseError(CHECK, f"{path} does not give the site's secret key: it is empty")
        names = (name.removeprefix(own) for name in found if name.startswith(own))
        return cls(key, tuple(sorted(name for name in names if SECRET.fullmatch(name))))


@dataclass(frozen=True)
class BackupDirectory:
    """The sealed backups of a directory: those that can be read, the oldest one first, and what is wrong with others.

    ``damaged`` has a sentence by id.
    """

    directory: Path
    whole: tuple[Backup, ...]
    damaged: dict[str, str]

    @classmethod
    def of(cls, directory: Path) -> BackupDirectory:
        """Look at a directory.

        Raises:
            ReleaseError: it cannot be read.
        """
        try:
            usable, wrong = look(directory)
        except PermissionError as error:
            raise ReleaseError(CHOOSE, f"{error.filename}: may not be read by the user {os.getuid()}") from error
        except OSError as error:
            raise ReleaseError(
                CHOOSE, f"{directory}: cannot read the backups: {error.strerror}; the role backup makes that directory"
            ) from error
        damaged = {
            name: f"{directory}/{name}{MANIFEST} is not what was written ({reason}): {DAMAGED}"
            for name, reason in wrong.items()
        }
        return cls(directory, tuple(Backup(directory, manifest) for manifest in usable), damaged)

    def choose(self, word: str) -> Backup:
        """Find the backup that is meant.

        Args:
            word: ``latest``, an id, or a time (ISO 8601, UTC if it has no zone) at which it must have been made.

        Raises:
            ReleaseError: there is none, or it is damaged.
        """
        whole = {backup.id: backup for backup in self.whole}
        every = sorted({*whole, *self.damaged}, key=order)
        if not every:
            raise ReleaseError(CHOOSE, f"{self.directory} has no backup")
        chosen = every[-1] if word == LATEST else word
        if chosen in self.damaged:
            others = f". The newest that can be read: {self.whole[-1].id}" if whole else ""
            raise ReleaseError(CHOOSE, f"{self.damaged[chosen]}{others}")
        return whole[chosen] if chosen in whole else self._made_until(word)

    def _made_until(self, word: str) -> Backup:
        until = _moment(word)
        if until is None:
            newest = ", ".join(backup.id for backup in self.whole[: -SHOWN - 1 : -1])
            raise ReleaseError(
                CHOOSE,
                f"{word!r} is no backup in {self.directory} and no time: say latest, an id, or a time such as "
                f"2026-11-23T04:00; for a database of this machine, a path with a '/'. The newest are {newest}",
            )
        older = [backup for backup in self.whole if backup.moment <= until]
        if not older:
            raise ReleaseError(CHOOSE, f"no backup in {self.directory} is as old as {word}")
        return older[-1]

    def table(self) -> list[str]:
        """The backups as lines of text, the newest one first; fewer than 80 columns."""
        rows = [("id", "made (UTC)", "rel", "version", "rows", "size"), *map(_row, reversed(self.whole))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [" ".join(_aligned(row, widths)).rstrip() for row in rows]
        return [*lines, *(f"{name} damaged" for name in reversed(self.damaged))]


def _moment(word: str) -> float | None:
    if len(word.strip()) <= len("2026-11-23"):
        return None  # its midnight is hardly meant; and it is what -e leaves of "2026-11-23 04:30"
    try:
        moment = datetime.fromisoformat(word.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def check(backup: Backup) -> None:
    """Compare the files of a backup, but for the media, with the hashes that were sealed.

    Raises:
        ReleaseError: one differs or is missing.
    """
    for path, wanted in backup.files.items():
        try:
            found = _sha256(path)
        except OSError as error:
            raise ReleaseError(CHECK, f"{path}: {error.strerror}: {DAMAGED}") from error
        if found != wanted:
            raise ReleaseError(CHECK, f"{path} is not what was written (SHA-256 {found}, sealed {wanted}): {DAMAGED}")


def _text(archive: tarfile.TarFile, name: str) -> str:
    member = archive.extractfile(name)
    return member.read().decode() if member else ""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _row(backup: Backup) -> tuple[str, ...]:
    manifest = backup.manifest
    made = manifest["time"][:16].replace("T", " ")
    numbers = (str(manifest[name]) for name in ("release", "version", "rows_total"))
    return (backup.id, made, *numbers, size(backup.bytes))


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for column, (text, width) in enumerate(zip(row, widths, strict=True)):
        yield text.ljust(width) if column in (0, 1, 3) else text.rjust(width)

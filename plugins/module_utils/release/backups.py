"""The backups in a directory, as files: list them, choose one, and compare its files with the sealed hashes.

No database is opened here: the runtime in the site's image does that.
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
    """A sealed backup: its directory and its manifest."""

    directory: Path
    manifest: dict[str, Any]

    @property
    def id(self) -> str:
        """Its name: time and release."""
        return str(self.manifest["id"])

    @property
    def moment(self) -> float:
        """Time at which it was made, in seconds since the epoch."""
        return float(calendar.timegm(time.strptime(self.manifest["time"], TIME)))

    @property
    def bytes(self) -> int:
        """Size of the unpacked database, in bytes."""
        return int(self.manifest["database"]["bytes"])

    @property
    def seal(self) -> Path:
        """The seal, which is written last."""
        return self.directory / f"{self.id}{SEAL}"

    @property
    def media(self) -> Path:
        """Directory of the uploaded files."""
        return self.directory / f"{self.id}.media"

    @property
    def files(self) -> dict[Path, str]:
        """The files except the media, each with its sealed SHA-256 hash."""
        wanted = {self.directory / f"{self.id}{MANIFEST}": self.seal.read_text().partition(" ")[0]}
        for part in ("archive", "config"):
            wanted[self.directory / self.manifest[part]["name"]] = self.manifest[part]["sha256"]
        return wanted

    def names(self) -> list[str]:
        """Return the names of its files and directories, the seal last."""
        found = {path.name for path in self.directory.iterdir() if path.name.startswith(f"{self.id}.")}
        return [*sorted(found - {self.seal.name}), self.seal.name]

    def missing_media_bytes(self, media: Path) -> int:
        """Return the size, in bytes, of the uploaded files that a site's ``media`` directory lacks."""
        found = (Path(top) / name for top, _, names in os.walk(self.media) for name in names)
        lacking = [path for path in found if not os.path.lexists(media / path.relative_to(self.media))]
        return sum(path.lstat().st_size for path in lacking)

    def described(self) -> dict[str, Any]:
        """Return a summary for the user."""
        shown = ("id", "time", "site", "release", "version", "image", "rows", "rows_total", "migrations_head")
        return {
            **{name: self.manifest.get(name) for name in shown},
            "bytes": self.bytes,
            "directory": str(self.directory),
            "names": self.names(),
        }


@dataclass(frozen=True)
class Protected:
    """The protected part of a backup: the site's secret key, and the names of the other secrets of its release."""

    secret_key: SecretKey
    secrets: tuple[str, ...]

    @classmethod
    def of(cls, backup: Backup) -> Protected:
        """Read the protected part of a backup.

        Raises:
            ReleaseError: it cannot be read, or has no secret key.
        """
        path = backup.directory / backup.manifest["config"]["name"]
        own = f"{SECRETS}{backup.manifest['release']}/"
        try:
            with tarfile.open(path, "r:") as archive:
                found = archive.getnames()
                place = own if f"{own}{secret_key.NAME}" in found else SECRETS  # older backups: one for all releases
                fallbacks = f"{place}{secret_key.FALLBACKS}"
                key = SecretKey.of(
                    _text(archive, f"{place}{secret_key.NAME}"),
                    _text(archive, fallbacks) if fallbacks in found else "",
                )
            if not key.value.strip():
                raise ValueError("it is empty")
        except (OSError, KeyError, ValueError, tarfile.TarError) as error:
            raise ReleaseError(CHECK, f"cannot read the site's secret key from {path}: {error}") from error
        names = (name.removeprefix(own) for name in found if name.startswith(own))
        return cls(key, tuple(sorted(name for name in names if SECRET.fullmatch(name))))


@dataclass(frozen=True)
class BackupDirectory:
    """The sealed backups in a directory.

    ``whole`` are the readable ones, the oldest one first; ``damaged`` maps the id of every other one to a sentence that
    says what is wrong with it.
    """

    directory: Path
    whole: tuple[Backup, ...]
    damaged: dict[str, str]

    @classmethod
    def of(cls, directory: Path) -> BackupDirectory:
        """Read a directory.

        Raises:
            ReleaseError: it cannot be read.
        """
        try:
            usable, wrong = look(directory)
        except PermissionError as error:
            raise ReleaseError(CHOOSE, f"{error.filename}: the user {os.getuid()} may not read it") from error
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
        """Find the requested backup.

        Args:
            word: ``latest``, an id, or a time (ISO 8601, UTC if it has no zone) for the last backup made until then.

        Raises:
            ReleaseError: there is none, or it is damaged.
        """
        whole = {backup.id: backup for backup in self.whole}
        every = sorted({*whole, *self.damaged}, key=order)
        if not every:
            raise ReleaseError(CHOOSE, f"{self.directory} has no backup")
        chosen = every[-1] if word == LATEST else word
        if chosen in self.damaged:
            others = f". The newest readable backup: {self.whole[-1].id}" if whole else ""
            raise ReleaseError(CHOOSE, f"{self.damaged[chosen]}{others}")
        return whole[chosen] if chosen in whole else self._made_until(word)

    def _made_until(self, word: str) -> Backup:
        until = _moment(word)
        if until is None:
            newest = ", ".join(backup.id for backup in self.whole[: -SHOWN - 1 : -1])
            raise ReleaseError(
                CHOOSE,
                f"{word!r} is neither a backup in {self.directory} nor a time: give latest, an id, a time such as "
                "2026-11-23T04:00, or, for a database on the control node, a path with a '/'. The newest backups: "
                f"{newest}",
            )
        older = [backup for backup in self.whole if backup.moment <= until]
        if not older:
            raise ReleaseError(CHOOSE, f"no backup in {self.directory} is as old as {word}")
        return older[-1]

    def table(self) -> list[str]:
        """Return the backups as lines of text, the newest one first, in fewer than 80 columns."""
        rows = [("id", "made (UTC)", "rel", "version", "rows", "size"), *map(_row, reversed(self.whole))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [" ".join(_aligned(row, widths)).rstrip() for row in rows]
        return [*lines, *(f"{name} damaged" for name in reversed(self.damaged))]


def _moment(word: str) -> float | None:
    if len(word.strip()) <= len("2026-11-23"):
        return None  # a date alone is what -e leaves of "2026-11-23 04:30"; its midnight would be wrong
    try:
        moment = datetime.fromisoformat(word.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def check(backup: Backup) -> None:
    """Compare the files of a backup, except the media, with the sealed hashes.

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

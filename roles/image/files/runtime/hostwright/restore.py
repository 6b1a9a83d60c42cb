"""Restore a backup, or import a database, into a place where none is yet."""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hostwright import archive, catalogue, content, disk, media, sqlite
from hostwright.backup import require_same_rows
from hostwright.catalogue import TEMPORARY, Backup, file_of
from hostwright.errors import BackupError, DatabaseError
from hostwright.snapshot import flush
from hostwright.verify import Files

_SPARE = 1 << 20
_MAGIC = b"SQLite format 3\0"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BESIDE = ("", "-wal", "-shm", "-journal")


def restore(output: Path, wanted: str, target: Path, media_directory: Path | None = None) -> dict[str, Any]:
    """Restore a backup, and verify it on the way: the database gets its name only when all of the backup is right.

    Args:
        output: the directory of the backups.
        wanted: an id, ``latest``, or a time (ISO 8601; UTC where it names no zone): the newest backup not younger.
        target: the database; its directory exists, the file and its ``-wal``, ``-shm`` and ``-journal`` do not.
        media_directory: gets back the media files that are missing there; nothing is replaced or removed.

    Returns:
        ``manifest``, ``seconds`` and ``media_restored``.

    Raises:
        BackupError: there is no such backup, or it is damaged, or the target cannot be written.
        DatabaseError: the target exists.
    """
    start = time.monotonic()
    sqlite.require_safe()
    require_free(target)
    seconds: dict[str, float] = {}
    chosen = choose(output, wanted)
    with catalogue.pinned(chosen), _explained(target.parent):
        manifest = Files().require_without_archive(chosen)
        seconds["verify"] = _since(start)
        plain = file_of(manifest["database"])
        _require_space(target.parent, plain.bytes)
        with _arriving(target) as arriving:
            begin = time.monotonic()
            archive.unpack(chosen.archive, plain, file_of(manifest["archive"]), arriving)
            seconds["unpack"] = _since(begin)
            begin = time.monotonic()
            _require_content(arriving, manifest)
            seconds["check"] = _since(begin)
        begin = time.monotonic()
        restored = 0
        if media_directory is not None and manifest["media"] is not None:
            restored = media.put_back(chosen, manifest, media_directory)
        seconds["media"] = _since(begin)
    seconds["total"] = _since(start)
    return {"manifest": manifest, "seconds": seconds, "media_restored": restored}


def take_in(path: Path, target: Path) -> dict[str, Any]:
    """Import a database: a SQLite file, with what its ``-wal`` holds, or an archive of one (``.sqlite3.zst``).

    Args:
        path: nobody writes to it; it is only read.
        target: as of ``restore``.

    Returns:
        ``rows``, ``rows_total``, ``foreign_key_violations`` and ``seconds``.

    Raises:
        BackupError: it is no database, or a damaged one, or the target cannot be written.
        DatabaseError: the target exists.
    """
    start = time.monotonic()
    sqlite.require_safe()
    require_free(target)
    if not path.is_file():
        raise BackupError(f"{path}: is no file: name a SQLite database, or an archive of one (.sqlite3.zst).")
    with _explained(target.parent):
        _require_space(target.parent, path.stat().st_size)
        with _arriving(target) as arriving:
            _fetch(path, arriving)
            found = content.examine(arriving)
    return {
        "rows": found.rows,
        "rows_total": sum(found.rows.values()),
        "foreign_key_violations": found.foreign_key_violations,
        "seconds": {"total": _since(start)},
    }


def choose(output: Path, wanted: str) -> Backup:
    """Find the backup that somebody asks for.

    Raises:
        BackupError: there is none.
    """
    try:
        there = catalogue.sealed(output)
    except OSError as error:
        raise BackupError(disk.explain(error, output)) from error
    if not there:
        raise BackupError(f"{output}: there is no backup.")
    if wanted == "latest":
        return there[-1]
    for one in there:
        if one.id == wanted:
            return one
    known = f"The oldest is {there[0].id}, the newest {there[-1].id}; hostwright backups lists all."
    if catalogue.is_id(wanted):
        raise BackupError(f"{output}: there is no backup {wanted}. {known}")
    try:
        moment = datetime.fromisoformat(wanted)
    except ValueError as error:
        raise BackupError(
            f"{wanted!r} is no backup's id, no time such as 2026-01-31T12:00 and not 'latest'. {known}"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    before = [one for one in there if one.moment <= moment]
    if not before:
        raise BackupError(f"{output}: no backup is as old as {moment.isoformat()}. {known}")
    return before[-1]


def require_free(target: Path) -> None:
    """Refuse a target that exists, or beside which lies what SQLite would take for a part of it."""
    if not target.parent.is_dir():
        raise DatabaseError(f"{target.parent}: this directory, which is to get the database, is missing.")
    for suffix in _BESIDE:
        if os.path.lexists(f"{target}{suffix}"):
            raise DatabaseError(
                f"{target}{suffix} exists: a restore never overwrites anything, and a database beside the -wal of "
                "another one would be damaged. Restore into an empty directory."
            )


def _require_content(database: Path, manifest: dict[str, Any]) -> None:
    found = content.examine(database)
    require_same_rows(found.rows, manifest["rows"], "The restored database differs from its manifest")
    if found.logical_sha256 != manifest["database"]["logical_sha256"]:
        raise BackupError("The restored database has as many rows as its manifest says, but not the same content.")


def _require_space(directory: Path, size: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < size + _SPARE:
        raise BackupError(
            f"{directory}: not enough space for the database: {(size + _SPARE) / 1e6:.0f} MB needed, "
            f"{free / 1e6:.0f} MB free."
        )


@contextlib.contextmanager
def _arriving(target: Path) -> Iterator[Path]:
    """Give a database its name when all is done to it and it is on disk, in WAL mode as the site has it."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=TEMPORARY) as directory:
        arriving = Path(directory) / "db.sqlite3"
        yield arriving
        connection = sqlite3.connect(arriving, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
        finally:
            connection.close()
        flush(arriving)
        arriving.rename(target)
    flush(target.parent)


def _fetch(path: Path, arriving: Path) -> None:
    """Copy a foreign database, with what its WAL or journal holds, and make one plain file of it."""
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
    if magic.startswith(_ZSTD):
        archive.unpack_unknown(path, arriving)
        with arriving.open("rb") as file:
            magic = file.read(len(_MAGIC))
    else:
        for suffix in ("", "-wal", "-journal"):
            if os.path.lexists(f"{path}{suffix}"):
                shutil.copyfile(f"{path}{suffix}", f"{arriving}{suffix}")
    if magic != _MAGIC:
        raise BackupError(f"{path}: is no SQLite database.")
    try:
        connection = sqlite3.connect(arriving, isolation_level=None)
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            connection.execute("PRAGMA journal_mode=DELETE").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise BackupError(f"{path}: the database is damaged: {error}.") from error


@contextlib.contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackupError(disk.explain(error, directory)) from error
    except sqlite3.Error as error:
        raise BackupError(f"{directory}: the database could not be written there: {error}.") from error


def _since(start: float) -> float:
    return round(time.monotonic() - start, 3)

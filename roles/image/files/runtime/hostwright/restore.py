"""Restore a backup, or import a database, to a path where no database exists."""

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
    """Restore a backup and verify it: the database gets its final name only if the whole backup is correct.

    Args:
        output: directory of the backups.
        wanted: an id, ``latest``, or a time (ISO 8601, by default UTC): the newest backup made at or before it.
        target: path of the database. Its directory must exist; the file, its ``-wal``, ``-shm`` and ``-journal`` must
            not.
        media_directory: directory in which missing media files are restored; nothing in it is replaced or removed.

    Returns:
        ``manifest``, ``seconds`` and ``media_restored``.

    Raises:
        BackupError: the backup does not exist or is damaged, or the target cannot be written.
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
        with _temporary(target) as temporary:
            begin = time.monotonic()
            archive.unpack(chosen.archive, plain, file_of(manifest["archive"]), temporary)
            seconds["unpack"] = _since(begin)
            begin = time.monotonic()
            _require_content(temporary, manifest)
            seconds["check"] = _since(begin)
        begin = time.monotonic()
        restored = 0
        if media_directory is not None and manifest["media"] is not None:
            restored = media.put_back(chosen, manifest, media_directory)
        seconds["media"] = _since(begin)
    seconds["total"] = _since(start)
    return {"manifest": manifest, "seconds": seconds, "media_restored": restored}


def import_database(path: Path, target: Path) -> dict[str, Any]:
    """Import a database: a SQLite file with its ``-wal``, or an archive of one (``.sqlite3.zst``).

    Args:
        path: the file; it is only read, and no process may write to it.
        target: as in ``restore``.

    Returns:
        ``rows``, ``rows_total``, ``foreign_key_violations`` and ``seconds``.

    Raises:
        BackupError: the file is not a database or is damaged, or the target cannot be written.
        DatabaseError: the target exists.
    """
    start = time.monotonic()
    sqlite.require_safe()
    require_free(target)
    if not path.is_file():
        raise BackupError(f"{path}: is not a file. Name a SQLite database, or an archive of one (.sqlite3.zst).")
    with _explained(target.parent):
        _require_space(target.parent, path.stat().st_size)
        with _temporary(target) as temporary:
            _fetch(path, temporary)
            found = content.examine(temporary)
    return {
        "rows": found.rows,
        "rows_total": sum(found.rows.values()),
        "foreign_key_violations": found.foreign_key_violations,
        "seconds": {"total": _since(start)},
    }


def choose(output: Path, wanted: str) -> Backup:
    """Find a backup by id, time or ``latest``.

    Raises:
        BackupError: no backup matches.
    """
    try:
        there = catalogue.sealed(output)
    except OSError as error:
        raise BackupError(disk.explain(error, output)) from error
    if not there:
        raise BackupError(f"{output}: has no backups.")
    if wanted == "latest":
        return there[-1]
    for backup in there:
        if backup.id == wanted:
            return backup
    known = f"The oldest is {there[0].id}, the newest {there[-1].id}. hostwright backups lists all."
    if catalogue.is_id(wanted):
        raise BackupError(f"{output}: backup {wanted} does not exist. {known}")
    try:
        moment = datetime.fromisoformat(wanted)
    except ValueError as error:
        raise BackupError(
            f"{wanted!r} is not a backup's id, a time such as 2026-01-31T12:00, or 'latest'. {known}"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    before = [backup for backup in there if backup.moment <= moment]
    if not before:
        raise BackupError(f"{output}: no backup was made at or before {moment.isoformat()}. {known}")
    return before[-1]


def require_free(target: Path) -> None:
    """Refuse a target that exists, or has files beside it that SQLite would take for its journal."""
    if not target.parent.is_dir():
        raise DatabaseError(f"{target.parent}: the directory for the database is missing.")
    for suffix in _BESIDE:
        if os.path.lexists(f"{target}{suffix}"):
            raise DatabaseError(
                f"{target}{suffix} exists: a restore never overwrites anything, and the -wal of another database would "
                "damage this one. Restore into an empty directory."
            )


def _require_content(database: Path, manifest: dict[str, Any]) -> None:
    found = content.examine(database)
    require_same_rows(found.rows, manifest["rows"], "The restored database differs from its manifest")
    if found.logical_sha256 != manifest["database"]["logical_sha256"]:
        raise BackupError("The restored database has the row counts of its manifest, but not the same content.")


def _require_space(directory: Path, size: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < size + _SPARE:
        raise BackupError(
            f"{directory}: not enough space for the database: {(size + _SPARE) / 1e6:.0f} MB needed, "
            f"{free / 1e6:.0f} MB free."
        )


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Yield a temporary path; afterwards set WAL mode as the site uses it, flush, and rename to the target."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=TEMPORARY) as directory:
        temporary = Path(directory) / "db.sqlite3"
        yield temporary
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
        finally:
            connection.close()
        flush(temporary)
        temporary.rename(target)
    flush(target.parent)


def _fetch(path: Path, temporary: Path) -> None:
    """Copy or unpack a database into one plain file, including the content of its WAL or journal."""
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
    if magic.startswith(_ZSTD):
        archive.unpack_unknown(path, temporary)
        with temporary.open("rb") as file:
            magic = file.read(len(_MAGIC))
    else:
        for suffix in ("", "-wal", "-journal"):
            if os.path.lexists(f"{path}{suffix}"):
                shutil.copyfile(f"{path}{suffix}", f"{temporary}{suffix}")
    if magic != _MAGIC:
        raise BackupError(f"{path}: is not a SQLite database.")
    try:
        connection = sqlite3.connect(temporary, isolation_level=None)
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
        raise BackupError(f"{directory}: could not write the database: {error}.") from error


def _since(start: float) -> float:
    return round(time.monotonic() - start, 3)

"""Back up a site: copy, verify, compress, verify again, record."""

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hostwright
from hostwright import archive, catalogue, configuration, content, disk, media, rebuild, retention, snapshot, sqlite
from hostwright.catalogue import Backup
from hostwright.content import Content
from hostwright.disk import File
from hostwright.errors import BackupError, BusyError, ConfigurationError, DatabaseError
from hostwright.retention import Keep

_SPARE = 1 << 20
# While the source is read its WAL cannot be truncated: at 500 writes a second it grows by about 12 MB a second.
_READ_SECONDS = 2.0


@dataclass(frozen=True)
class Record:
    """The fields of the release's record that a backup's manifest repeats."""

    site: str
    release: int
    generation: int
    version: str
    image: str
    image_id: str


@dataclass(frozen=True)
class Options:
    """Options of a backup.

    Attributes:
        keep: how many backups to keep.
        level: compression level of zstd.
        media: the site's media directory; None omits the media files.
        record: the release's ``release.json``; None means the one beside the release's socket.
    """

    keep: Keep = field(default_factory=Keep)
    level: int = archive.LEVEL
    media: Path | None = None
    record: Path | None = None


class _TimeUp(Exception):  # noqa: N818 (not an error)
    """The source has been read for long enough."""


def backup(output: Path, options: Options) -> dict[str, Any]:
    """Make one verified backup of the configured site, then remove backups that need not be kept.

    Args:
        output: directory of the site's backups; it must exist.
        options: see ``Options``.

    Returns:
        The new backup's manifest.

    Raises:
        BusyError: another backup of this site is running.
        BackupError: the destination is missing, full or read-only, or the copy is wrong.
        DatabaseError: the database cannot be read.
    """
    release = configuration.require()
    database = release.require_database()
    record_path = options.record or release.require_socket().parent / "release.json"
    record = read_record(record_path)
    sqlite.require_safe()
    with _locked(output), _pinned(database.parent):
        try:
            catalogue.sweep(output)
            manifest = _make(database, output, record, record_path, options)
        except OSError as error:
            raise BackupError(disk.explain(error, output)) from error
        except sqlite3.Error as error:
            raise BackupError(
                f"Copying {database} to {output} failed: {error}. Check the free space and the disk."
            ) from error
        try:
            retain(output, options.keep, manifest["id"])
        except OSError as error:
            done = f"The backup {manifest['id']} is complete; old backups could not be removed."
            raise BackupError(f"{disk.explain(error, output)} {done}") from error
    return manifest


def read_record(path: Path) -> Record:
    """Read a release's record; raise ConfigurationError if it is unreadable or invalid."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Record(
            site=str(data["site"]),
            release=int(data["release"]),
            generation=int(data["generation"]),
            version=str(data["version"]),
            image=str(data.get("image", "")),
            image_id=str(data.get("image_id", "")),
        )
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read the release's record: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path}: not a release's record ({type(error).__name__}: {error}).") from error


def _make(database: Path, output: Path, record: Record, record_path: Path, options: Options) -> dict[str, Any]:
    start = time.monotonic()
    previous = catalogue.newest(output)
    seconds: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=output, prefix=catalogue.TEMPORARY)))
        tree = None
        if options.media is not None:
            tree = stack.enter_context(contextlib.closing(media.Tree(options.media, made)))
            tree.list_files()
        # After the listing, which may take long: the backup contains nothing that was written after its moment.
        taken = _free_moment(output, record.release)
        new = Backup(output, catalogue.identity(taken, record.release))
        copy = made / "db.sqlite3"
        with _timed(seconds, "copy"):
            source = _copy(database, copy, output)
        with _timed(seconds, "verify"):
            found = check_copy(copy, source)
        stored = _store(copy, made / new.archive.name, found, previous, options.level, seconds)
        copy.unlink()
        with _timed(seconds, "media"):
            files = tree.copy(new, made, previous) if tree else None
        packed = rebuild.pack(
            made / new.config.name, configuration.require_path().parents[1], record_path, record.release
        )
        seconds["total"] = round(time.monotonic() - start, 3)
        manifest = {
            "format": catalogue.FORMAT,
            "id": new.id,
            "time": taken.strftime("%Y-%m-%dT%H:%M:%SZ"),
            **asdict(record),
            "migrations_head": found.migrations_head,
            "archive": {"name": new.archive.name, **asdict(stored.packed)},
            "database": {
                **asdict(stored.plain),
                "logical_sha256": found.logical_sha256,
                "compared": "rows" if source.logical_sha256 is None else "content",
            },
            "unchanged_since": stored.unchanged_since,
            "rows": found.rows,
            "rows_total": sum(found.rows.values()),
            "foreign_key_violations": found.foreign_key_violations,
            "media": files,
            "config": {"name": new.config.name, **asdict(packed.file), "left_out": packed.left_out},
            "sqlite": sqlite3.sqlite_version,
            "django": _django_version(),
            "hostwright": hostwright.__version__,
            "seconds": seconds,
        }
        if files and files["mended_total"]:
            warn(
                f"{files['mended_total']} media file(s) of earlier backups are damaged on the disk, first "
                f"{files['mended'][0]!r}. This backup has new copies. Check the disk, and run hostwright verify."
            )
        catalogue.publish(new, manifest, made)
    return manifest


@dataclass(frozen=True)
class Source:
    """Content of the database, read in the same transaction as the copy.

    Attributes:
        rows: row count by table.
        logical_sha256: hash of the content; None if reading took too long while other processes wrote (the WAL grows).
    """

    rows: dict[str, int]
    logical_sha256: str | None


def _copy(database: Path, copy: Path, output: Path) -> Source:
    with contextlib.closing(_ReadLimit(database)) as limit, snapshot.reading(database) as source:
        _require_space(source, output)
        # Not flushed: the copy is temporary. The archive made of it is flushed.
        snapshot.copy(source, copy, portable=True)
        rows = content.rows(source)
        try:
            return Source(rows, content.logical_hash(source, limit.check))
        except _TimeUp:
            return Source(rows, None)


class _ReadLimit:
    """Ends a long read of a database after some seconds, if other processes write to it."""

    def __init__(self, database: Path) -> None:
        self._until = time.monotonic() + _READ_SECONDS
        if not database.is_file():
            raise DatabaseError(f"{database}: the database does not exist.")
        # Opened by SQLite: closing any other descriptor of the file would drop the locks of the reading connection.
        self._watcher = sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True, isolation_level=None)
        self._version = self._state()

    def check(self) -> None:
        if time.monotonic() > self._until and self._state() != self._version:
            raise _TimeUp

    def close(self) -> None:
        self._watcher.close()

    def _state(self) -> object:
        try:
            return self._watcher.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return None


def check_copy(copy: Path, source: Source) -> Content:
    """Check that a copy is intact and has the content of its source.

    Args:
        copy: a database that is not in WAL mode.
        source: content of the source at the moment of the copy.

    Raises:
        BackupError: the copy is damaged or differs.
    """
    try:
        found = content.examine(copy)
    except BackupError as error:
        raise BackupError(f"The database is damaged, so no backup was made: {error}") from error
    require_same_rows(found.rows, source.rows, "The copy differs from the database")
    if source.logical_sha256 not in (None, found.logical_sha256):
        raise BackupError(
            "The copy differs from the database: the row counts are equal, the content is not. "
            "Check the host's memory and disk, then back up again."
        )
    return found


def require_same_rows(found: dict[str, int], expected: dict[str, int], what: str) -> None:
    """Compare the row counts of all tables.

    Raises:
        BackupError: they differ; the message begins with ``what`` and names the first table.
    """
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if wrong:
        raise BackupError(
            f"{what} in {len(wrong)} table(s), first in {wrong[0]!r}: "
            f"{found.get(wrong[0])} rows, {expected.get(wrong[0])} expected."
        )


@dataclass(frozen=True)
class _Stored:
    plain: File
    packed: File
    unchanged_since: str | None


def _store(
    copy: Path,
    target: Path,
    found: Content,
    previous: tuple[Backup, dict[str, Any]] | None,
    level: int,
    seconds: dict[str, float],
) -> _Stored:
    """Compress a copy, or link the previous backup's archive if the database has not changed since."""
    if previous is not None and previous[1]["database"]["logical_sha256"] == found.logical_sha256:
        with _timed(seconds, "reread"):
            linked = _link(*previous, target)
        if linked is not None:
            seconds["compress"] = 0.0
            return linked
    with _timed(seconds, "compress"):
        plain, packed = archive.compress(copy, target, level)
    with _timed(seconds, "reread"):
        archive.reread(target, plain, packed)
    return _Stored(plain, packed, None)


def _link(backup: Backup, manifest: dict[str, Any], target: Path) -> _Stored | None:
    """Link a backup's archive after reading it completely: damage to a linked file affects both backups."""
    plain, packed = catalogue.file_of(manifest["database"]), catalogue.file_of(manifest["archive"])
    try:
        archive.reread(backup.archive, plain, packed)
        os.link(backup.archive, target)
    except BackupError as error:
        warn(f"{error} This backup has a new archive. Check the disk, and run hostwright verify.")
        return None
    except OSError:
        # Too many links, or a file system without hard links.
        return None
    return _Stored(plain, packed, manifest["unchanged_since"] or backup.id)


def _free_moment(output: Path, release: int) -> datetime:
    """Return the current time in whole seconds; wait for the next second while its id is taken."""
    while True:
        moment = datetime.now(UTC).replace(microsecond=0)
        new = Backup(output, catalogue.identity(moment, release))
        if not any(os.path.lexists(path) for path in (*new.files, new.seal)):
            return moment
        time.sleep(0.1)


def _require_space(source: sqlite3.Connection, output: Path) -> None:
    size = source.execute("PRAGMA page_count").fetchone()[0] * source.execute("PRAGMA page_size").fetchone()[0]
    # The copy and, in the worst case, an archive of the same size.
    needed = 2 * size + _SPARE
    free = shutil.disk_usage(output).free
    if free < needed:
        raise BackupError(
            f"{output}: not enough space for a backup: {needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free. "
            "Free some space, or keep fewer backups (backup_keep)."
        )


def retain(output: Path, keep: Keep, newest: str) -> list[str]:
    """Remove backups that need not be kept. A backup that is being read is removed by a later run.

    Damaged backups, whose seal does not match, are neither counted nor removed: somebody has to inspect them.

    Args:
        output: directory of the backups.
        keep: how many to keep.
        newest: id of the backup just made. It is kept even if the clock went back and others look newer.

    Returns:
        The ids of the removed backups.
    """
    found = {backup.id: backup for backup, _ in catalogue.listed(output)}
    moments = {name: backup.moment for name, backup in found.items()}
    stay = retention.kept(moments, keep, datetime.now(UTC), [newest])
    return [name for name, backup in found.items() if name not in stay and catalogue.remove(backup)]


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Lock the directory, so that one backup at a time writes into it."""
    try:
        descriptor = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BackupError(disk.explain(error, output)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BusyError(f"{output}: another backup is running.") from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _pinned(generation: Path) -> Iterator[None]:
    """Take the shared lock of a generation: housekeeping needs the exclusive one to remove it."""
    try:
        descriptor = os.open(generation, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise DatabaseError(f"{generation}: cannot open the database generation: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BusyError(f"{generation}: this database generation is being removed.") from error
    finally:
        os.close(descriptor)


def warn(text: str) -> None:
    """Print a warning: the operation succeeded, but something needs attention."""
    print(f"hostwright: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 3)


def _django_version() -> str:
    try:
        import django
    except ImportError:
        return ""
    return str(django.get_version())

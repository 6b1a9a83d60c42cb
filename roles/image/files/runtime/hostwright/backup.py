"""Back the site's database up: copy, verify, compress, verify again, record (DESIGN §9)."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import zstandard

import hostwright
from hostwright import configuration, snapshot, sqlite
from hostwright.errors import BackupError, BusyError, ConfigurationError, DatabaseError

FORMAT = 1
ARCHIVE = ".sqlite3.zst"
MANIFEST = ".json"
TIMED_OUT = 124

_TEMPORARY = ".partial-"
_BLOCK = 1 << 20
_LEVEL = 3
_SPARE = 1 << 20


@dataclass(frozen=True)
class File:
    """A file's size in bytes and its SHA-256."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """What the release's record says about the release that is backed up."""

    site: str
    release: int
    generation: int
    version: str
    image: str


def backup(output: Path, keep: int, record_path: Path | None = None, time_limit: float | None = None) -> dict[str, Any]:
    """Make one verified backup of the configured database, then drop the oldest beyond those kept.

    Args:
        output: the directory of the site's backups; it must exist.
        keep: number of backups that stay, the new one among them; at least 1.
        record_path: the release's ``release.json``; by default the one beside the release's socket.
        time_limit: seconds after which the process ends itself, whatever hangs.

    Returns:
        The new backup's manifest.

    Raises:
        BusyError: another backup of this site runs.
        BackupError: the destination is missing, full or read-only, or the copy is not right.
        DatabaseError: the database cannot be read.
    """
    release = configuration.require()
    database = release.require_database()
    record = read_record(record_path or release.require_socket().parent / "release.json")
    sqlite.require_safe()
    if time_limit is not None:
        _end_after(time_limit, output)
    with _locked(output), _pinned(database.parent):
        try:
            remove_leftovers(output)
            manifest = _make(database, output, record)
            retain(output, keep, manifest["id"])
        except OSError as error:
            raise BackupError(_explain(error, output)) from error
        except sqlite3.Error as error:
            raise BackupError(f"The copy of {database} to {output} failed: {error}.") from error
    return manifest


def read_record(path: Path) -> Record:
    """Read what the backup needs from a release's record."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Record(
            site=str(data["site"]),
            release=int(data["release"]),
            generation=int(data["generation"]),
            version=str(data["version"]),
            image=str(data.get("image", "")),
        )
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read the release's record: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path}: is not a release's record ({type(error).__name__}: {error}).") from error


def _make(database: Path, output: Path, record: Record) -> dict[str, Any]:
    start = time.monotonic()
    taken = _free_moment(output, record.release)
    name = _name(taken, record.release)
    with tempfile.TemporaryDirectory(dir=output, prefix=_TEMPORARY) as directory:
        copy, archive = Path(directory) / "db.sqlite3", Path(directory) / "archive"
        seconds: dict[str, float] = {}
        with _timed(seconds, "copy"), snapshot.reading(database) as source:
            _require_space(source, output)
            snapshot.copy(source, copy, portable=True)
            expected = rows(source)
        with _timed(seconds, "verify"):
            violations = verify(copy, expected)
        with _timed(seconds, "compress"):
            plain = compress(copy, archive)
        with _timed(seconds, "reread"):
            packed = reread(archive, plain)
        archive.rename(output / f"{name}{ARCHIVE}")
        snapshot.flush(output)
        seconds["total"] = round(time.monotonic() - start, 3)
        manifest = {
            "format": FORMAT,
            "id": name,
            "time": taken.strftime("%Y-%m-%dT%H:%M:%SZ"),
            **asdict(record),
            "archive": {"name": f"{name}{ARCHIVE}", **asdict(packed)},
            "database": asdict(plain),
            "rows": expected,
            "rows_total": sum(expected.values()),
            "foreign_key_violations": violations,
            "sqlite": sqlite3.sqlite_version,
            "django": _django_version(),
            "hostwright": hostwright.__version__,
            "seconds": seconds,
        }
        _write_manifest(manifest, Path(directory) / "manifest", output / f"{name}{MANIFEST}")
    return manifest


def _name(moment: datetime, release: int) -> str:
    return f"{moment:%Y%m%dT%H%M%SZ}-r{release}"


def _free_moment(output: Path, release: int) -> datetime:
    """Return this moment in whole seconds, or the next one whose name is free."""
    while True:
        moment = datetime.now(UTC).replace(microsecond=0)
        name = _name(moment, release)
        if not (output / f"{name}{ARCHIVE}").exists() and not (output / f"{name}{MANIFEST}").exists():
            return moment
        time.sleep(0.1)


def _require_space(source: sqlite3.Connection, output: Path) -> None:
    size = source.execute("PRAGMA page_count").fetchone()[0] * source.execute("PRAGMA page_size").fetchone()[0]
    # The copy and, at worst, an archive that did not get smaller.
    needed = 2 * size + _SPARE
    free = shutil.disk_usage(output).free
    if free < needed:
        raise BackupError(
            f"{output}: not enough space for a backup: {needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free. "
            "Make room there, or keep fewer backups (backup_keep)."
        )


def rows(connection: sqlite3.Connection) -> dict[str, int]:
    """Count the rows of every table.

    Virtual tables are left out: their content is in ordinary ones, which are counted.

    Args:
        connection: its transaction says of which moment.
    """
    tables = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    ).fetchall()
    found: dict[str, int] = {}
    for (name,) in tables:
        quoted = name.replace('"', '""')
        found[name] = connection.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()[0]  # noqa: S608 (quoted)
    return found


def verify(copy: Path, expected: dict[str, int]) -> int:
    """Check a copy: integrity, and the same rows in the same tables.

    Args:
        copy: not in WAL mode.
        expected: rows of the source by table, of the same moment.

    Returns:
        Number of foreign keys that point nowhere: the application's own fault, which a copy repeats.

    Raises:
        BackupError: the copy is not right.
    """
    connection = sqlite3.connect(f"{copy.as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        problems = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
        if problems != ["ok"]:
            raise BackupError(f"The database is damaged, and so would be its backup: {'; '.join(problems)}")
        found = rows(connection)
        if found != expected:
            wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            table = wrong[0]
            raise BackupError(
                f"The copy differs from the database in {len(wrong)} table(s), first in {table!r}: "
                f"{found.get(table)} rows, {expected.get(table)} expected."
            )
        return sum(1 for _ in connection.execute("PRAGMA foreign_key_check"))
    finally:
        connection.close()


def compress(source: Path, archive: Path) -> File:
    """Compress a file with zstd, at constant memory, and flush the archive.

    Returns:
        Size and hash of the source as it was read.
    """
    digest = hashlib.sha256()
    size = 0
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    descriptor = os.open(archive, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with source.open("rb") as reader, os.fdopen(descriptor, "wb") as file:
        with compressor.stream_writer(file, size=source.stat().st_size, closefd=False) as writer:
            while block := reader.read(_BLOCK):
                digest.update(block)
                size += len(block)
                writer.write(block)
        file.flush()
        os.fsync(file.fileno())
    return File(size, digest.hexdigest())


def reread(archive: Path, expected: File) -> File:
    """Read an archive from the disk again and unpack it in memory.

    Args:
        archive: as flushed.
        expected: what it must unpack to.

    Returns:
        The archive's own size and hash.

    Raises:
        BackupError: it unpacks to something else, or not at all.
    """
    packed, plain = hashlib.sha256(), hashlib.sha256()
    packed_size = plain_size = 0
    with archive.open("rb") as file:
        # Out of the page cache, so that it is the disk that is read.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        unpacker = zstandard.ZstdDecompressor().decompressobj()
        try:
            while block := file.read(_BLOCK):
                packed.update(block)
                packed_size += len(block)
                data = unpacker.decompress(block)
                plain.update(data)
                plain_size += len(data)
        except zstandard.ZstdError as error:
            raise BackupError(f"{archive}: the archive does not unpack: {error}.") from error
    if File(plain_size, plain.hexdigest()) != expected:
        raise BackupError(
            f"{archive}: the archive does not hold what was written to it: {plain_size} of {expected.bytes} bytes."
        )
    return File(packed_size, packed.hexdigest())


def _write_manifest(manifest: dict[str, Any], temporary: Path, path: Path) -> None:
    with temporary.open("x", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(0o600)
    temporary.rename(path)
    snapshot.flush(path.parent)


def backups(output: Path) -> list[str]:
    """List the ids of the backups of a directory, oldest first: those with a manifest and an archive."""
    return sorted(
        path.name.removesuffix(MANIFEST)
        for path in output.glob(f"*{MANIFEST}")
        if path.with_name(path.name.removesuffix(MANIFEST) + ARCHIVE).is_file()
    )


def remove_leftovers(output: Path) -> list[str]:
    """Remove what killed runs left: temporary directories, and archives without a manifest.

    Returns:
        The names that went.
    """
    gone = []
    for path in sorted(output.iterdir()):
        if path.name.startswith(_TEMPORARY):
            shutil.rmtree(path)
            gone.append(path.name)
        elif path.name.endswith(ARCHIVE) and not path.with_name(path.name.removesuffix(ARCHIVE) + MANIFEST).exists():
            path.unlink()
            gone.append(path.name)
    return gone


def retain(output: Path, keep: int, newest: str) -> list[str]:
    """Remove the oldest backups beyond the number kept.

    Args:
        output: the directory of the backups.
        keep: how many stay.
        newest: the backup just made; it stays, even if the clock went back and others look newer.

    Returns:
        The ids that went.
    """
    others = [name for name in backups(output) if name != newest]
    gone = others[: max(0, len(others) - max(keep, 1) + 1)]
    for name in gone:
        # The manifest first: an archive without one is no backup, and the next run removes it.
        (output / f"{name}{MANIFEST}").unlink()
        (output / f"{name}{ARCHIVE}").unlink()
    if gone:
        snapshot.flush(output)
    return gone


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Let one backup at a time write into a directory."""
    try:
        descriptor = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BackupError(_explain(error, output)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BusyError(f"{output}: another backup is being written.") from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _pinned(generation: Path) -> Iterator[None]:
    """Keep housekeeping from removing a generation: it needs the exclusive lock of its directory."""
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


def _end_after(seconds: float, output: Path) -> None:
    def end() -> None:
        os.write(2, f"hostwright: the backup into {output} did not end within {seconds:g} s: given up.\n".encode())
        # A hung read ends for no exception; what is half-done goes at the next run.
        os._exit(TIMED_OUT)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


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


def _explain(error: OSError, output: Path) -> str:
    what = {
        errno.ENOSPC: "the destination is full: make room there, or keep fewer backups (backup_keep)",
        errno.EDQUOT: "the destination's quota is used up",
        errno.EROFS: "the destination is read-only",
        errno.ENOENT: "the destination is missing: the role backup makes it",
        errno.EACCES: f"user {os.getuid()} cannot write there: the role backup sets the owner",
        errno.EPERM: f"user {os.getuid()} cannot write there: the role backup sets the owner",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"{output}: {what}."

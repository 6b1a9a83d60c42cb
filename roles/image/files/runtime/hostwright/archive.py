"""The archive of a database: one zstd frame that ``zstd -d`` turns into a database any SQLite opens."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from hostwright.disk import BLOCK, File, Output
from hostwright.errors import BackupError

LEVEL = 3
_STEP = 1 << 18
# Zeros unpack to 32768 times as much.
_SMALL_STEP = 512


def compress(source: Path, archive: Path, level: int = LEVEL) -> tuple[File, File]:
    """Compress a file at constant memory, and flush the archive.

    Args:
        source: the file.
        archive: must not exist.
        level: of zstd, 1 to 19; memory grows with it.

    Returns:
        The source as it was read, and the archive as it was written.
    """
    digest = hashlib.sha256()
    size = 0
    with source.open("rb") as reader, Output(archive) as output:
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        packer = compressor.compressobj(size=source.stat().st_size)
        while block := reader.read(BLOCK):
            digest.update(block)
            size += len(block)
            output.write(packer.compress(block))
        output.write(packer.flush())
    return File(size, digest.hexdigest()), output.file


def reread(archive: Path, plain: File, packed: File) -> None:
    """Read an archive from the disk and unpack it in memory.

    Args:
        archive: as flushed.
        plain: what it must unpack to.
        packed: what it must be itself.

    Raises:
        BackupError: it is something else, or does not unpack.
    """
    _unpack(archive, plain, packed, lambda _: None)


def unpack(archive: Path, plain: File, packed: File, target: Path) -> None:
    """Unpack an archive into a new file at constant memory, and flush it.

    Raises:
        BackupError: as of ``reread``; the target is not to be used.
    """
    with Output(target) as output:
        _unpack(archive, plain, packed, output.write)


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0

    def read(self, size: int) -> bytes:
        block = self._file.read(size)
        self._digest.update(block)
        self._size += len(block)
        return block

    @property
    def file(self) -> File:
        return File(self._size, self._digest.hexdigest())


def _unpack(archive: Path, plain: File, packed: File, write: Callable[[bytes], object]) -> None:
    digest = hashlib.sha256()
    size = 0
    try:
        file = archive.open("rb")
    except FileNotFoundError as error:
        raise BackupError(f"{archive}: the archive is missing.") from error
    with file:
        # Out of the page cache, so that it is the disk that is read.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        hashed = _Hashed(file)
        try:
            # It bounds what is unpacked at a time: a small piece of the archive may be very much of the database.
            reader = zstandard.ZstdDecompressor().stream_reader(cast("BinaryIO", hashed), closefd=False)
            while size <= plain.bytes and (block := reader.read(_STEP)):
                digest.update(block)
                size += len(block)
                write(block)
        except zstandard.ZstdError as error:
            raise BackupError(f"{archive}: the archive is damaged: it does not unpack ({error}).") from error
        while hashed.read(_STEP):
            pass  # what lies behind the frame is to be hashed too
    if File(size, digest.hexdigest()) != plain:
        raise BackupError(
            f"{archive}: the archive is damaged: it does not hold what was written to it "
            f"({size} of {plain.bytes} bytes unpacked)."
        )
    if hashed.file != packed:
        raise BackupError(f"{archive}: the archive is not the one that was written ({hashed.file.bytes} bytes).")


def unpack_unknown(archive: Path, target: Path) -> None:
    """Unpack an archive of which no manifest is known; its own checksum is all there is.

    Raises:
        BackupError: it does not unpack, or ends too early.
    """
    with archive.open("rb") as file, Output(target) as output:
        unpacker = zstandard.ZstdDecompressor().decompressobj()
        try:
            while not unpacker.eof and (block := file.read(_SMALL_STEP)):
                output.write(unpacker.decompress(block))
        except zstandard.ZstdError as error:
            raise BackupError(f"{archive}: is damaged: it does not unpack ({error}).") from error
        if not unpacker.eof:
            raise BackupError(f"{archive}: is cut short: it ends in the middle.")

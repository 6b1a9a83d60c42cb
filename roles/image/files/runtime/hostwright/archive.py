"""The archive of a database: one zstd frame. ``zstd -d`` unpacks it to a database that any SQLite can open."""

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
# Small, since zeros unpack to 32768 times the size.
_SMALL_STEP = 512


def compress(source: Path, archive: Path, level: int = LEVEL) -> tuple[File, File]:
    """Compress a file in constant memory, and flush the archive.

    Args:
        source: the file.
        archive: path of the archive; must not exist.
        level: compression level of zstd, 1 to 19; memory grows with it.

    Returns:
        Size and hash of the source as read, and of the archive as written.
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
        archive: path of the archive.
        plain: expected size and hash of the unpacked database.
        packed: expected size and hash of the archive.

    Raises:
        BackupError: the archive differs, or does not unpack.
    """
    _unpack(archive, plain, packed, lambda _: None)


def unpack(archive: Path, plain: File, packed: File, target: Path) -> None:
    """Unpack an archive into a new file in constant memory, and flush it.

    Raises:
        BackupError: as in ``reread``; the target must not be used.
    """
    with Output(target) as output:
        _unpack(archive, plain, packed, output.write)


class _Hashed:
    """A file that is hashed while it is read."""

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
        # Drop the page cache, so that the disk is read.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        hashed = _Hashed(file)
        try:
            # stream_reader bounds the unpacked size: a small part of an archive may unpack to a very large one.
            reader = zstandard.ZstdDecompressor().stream_reader(cast("BinaryIO", hashed), closefd=False)
            while size <= plain.bytes and (block := reader.read(_STEP)):
                digest.update(block)
                size += len(block)
                write(block)
        except zstandard.ZstdError as error:
            raise BackupError(f"{archive}: the archive is damaged: it does not unpack ({error}).") from error
        while hashed.read(_STEP):
            pass  # bytes after the frame are part of the hash
    if File(size, digest.hexdigest()) != plain:
        raise BackupError(
            f"{archive}: the archive is damaged: its content differs from the recorded hash "
            f"({size} of {plain.bytes} bytes unpacked)."
        )
    if hashed.file != packed:
        raise BackupError(f"{archive}: the archive differs from the recorded hash ({hashed.file.bytes} bytes).")


def unpack_unknown(archive: Path, target: Path) -> None:
    """Unpack an archive without a manifest; only its own checksum is verified.

    Raises:
        BackupError: the archive does not unpack, or is truncated.
    """
    with archive.open("rb") as file, Output(target) as output:
        unpacker = zstandard.ZstdDecompressor().decompressobj()
        try:
            while not unpacker.eof and (block := file.read(_SMALL_STEP)):
                output.write(unpacker.decompress(block))
        except zstandard.ZstdError as error:
            raise BackupError(f"{archive}: the archive is damaged: it does not unpack ({error}).") from error
        if not unpacker.eof:
            raise BackupError(f"{archive}: the archive is truncated.")

"""Writing files to the disk."""

import os
from pathlib import Path

import pytest
from hostwright import disk


def test_output_is_written_to_the_disk_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def observed(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        assert os.fstat(descriptor).st_size == offset + length
        sent.append((offset, length))

    monkeypatch.setattr(disk, "_PIECE", 10)
    monkeypatch.setattr(os, "posix_fadvise", observed)
    with disk.Output(tmp_path / "archive") as output:
        for _ in range(7):
            output.write(b"1234")
    assert sent == [(0, 12), (12, 12)]
    assert (tmp_path / "archive").read_bytes() == b"1234" * 7
    assert output.file == disk.File(28, output.file.sha256)

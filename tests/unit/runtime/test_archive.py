"""Archives need constant memory for any content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hostwright import archive


def test_memory_stays_small_whatever_the_ratio(tmp_path: Path) -> None:
    with (tmp_path / "plain").open("wb") as file:
        file.truncate(400_000_000)
    code = f"""
import re, sys
from pathlib import Path
sys.path.insert(0, {str(Path(archive.__file__).parents[1])!r})
from hostwright import archive
place = Path({str(tmp_path)!r})
plain, packed = archive.compress(place / "plain", place / "archive")
archive.reread(place / "archive", plain, packed)
archive.unpack_unknown(place / "archive", place / "again")
assert (place / "again").stat().st_size == plain.bytes
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 64 * 1024, f"{result.stdout} KiB for 400 MB of zeros"

"""The command ``hostwright`` on a host: a Python package below a directory named by its content, and a launcher."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .host.files import make_directory, write_durably

PACKAGE = "hostwright_host"
_LAUNCHER = """\
#!/usr/bin/env python3
import sys

sys.path.insert(0, "{directory}")
from {package}.__main__ import main

sys.exit(main())
"""


@dataclass(frozen=True)
class HostCommand:
    """Where the command is, and what it should consist of: the text of each module by its name."""

    library: Path
    launcher: Path
    files: Mapping[str, str]

    @property
    def directory(self) -> Path:
        """Holds the package. Another content has another directory, so that a run never finds half of each."""
        text = "".join(f"{name}\0{content}\0" for name, content in sorted(self.files.items()))
        return self.library / hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def launcher_text(self) -> str:
        """What the launcher says."""
        return _LAUNCHER.format(directory=self.directory, package=PACKAGE)

    def differences(self) -> list[Path]:
        """Paths that are not as they should be."""
        wanted = {self.directory / PACKAGE / name: content for name, content in self.files.items()}
        found = [path for path, content in wanted.items() if not _is(path, content, 0o644)]
        if not _is(self.launcher, self.launcher_text, 0o755):
            found.append(self.launcher)
        return [*found, *self._old()]

    def install(self) -> None:
        """Write the package, then the launcher, which switches; then remove the packages before."""
        make_directory(self.library, 0o755)
        make_directory(self.directory, 0o755)
        make_directory(self.directory / PACKAGE, 0o755)
        for name, content in self.files.items():
            write_durably(self.directory / PACKAGE / name, content, 0o644)
        write_durably(self.launcher, self.launcher_text, 0o755)
        for path in self._old():
            shutil.rmtree(path)

    def _old(self) -> list[Path]:
        return [path for path in sorted(self.library.glob("*")) if path != self.directory]


def _is(path: Path, content: str, mode: int) -> bool:
    try:
        status = path.lstat()
        if (status.st_mode & 0o7777, status.st_uid) != (mode, os.geteuid()):
            return False
        return path.read_text(encoding="utf-8") == content
    except (OSError, UnicodeDecodeError):
        return False

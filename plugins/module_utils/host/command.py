"""Hostwright's own commands on a host: a Python package below a directory named by its content, and what starts it."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import contract, manifest
from ..nginx import acme
from ..release import secret_files
from . import files
from .files import fsync, make_directory, remove_tree, write_durably
from .process import Runner, run

PACKAGE = "hostwright_host"
SHARED = (contract, files, manifest, acme, secret_files)
"""Modules of the collection that the package uses. They lie beside it on the host, under the names they have here."""
COMMANDS: Mapping[str, list[str]] = {"hostwright": [], "hostwright-certificates": ["certificates"]}
"""Names of the commands, and the words that each puts before its own arguments."""

# Nobody's environment and working directory decide what root imports.
_LAUNCHER = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "{directory}")
from {package}.__main__ import main

sys.exit(main({words} + sys.argv[1:]))
"""
# The Engine starts, and each site with it, even if the secrets of one cannot be read.
_UNIT_TEXT = """\
[Unit]
Description=Secrets of Hostwright's sites, in memory
RequiresMountsFor=/srv/hostwright
Before=docker.service

[Service]
Type=oneshot
ExecStart={program} secrets
TimeoutStartSec=60

[Install]
WantedBy=docker.service
"""


@dataclass(frozen=True)
class HostCommand:
    """What the package consists of (the text of each of its own modules by its name), and below which root it lies."""

    files: Mapping[str, str]
    root: Path = Path("/")
    run: Runner = run

    @property
    def library(self) -> Path:
        """Holds nothing but packages of these commands."""
        return self.root / "usr/local/lib/hostwright"

    @property
    def directory(self) -> Path:
        """Holds the package. Another content has another directory, so that a run never finds half of each."""
        text = "".join(f"{name}\0{content}\0" for name, content in sorted(self._modules().items()))
        return self.library / hashlib.sha256(text.encode()).hexdigest()[:12]

    def program(self, name: str) -> Path:
        """Path of one of the commands."""
        return self.root / "usr/local/sbin" / name

    @property
    def unit(self) -> Path:
        """Has the host copy secrets into memory when it boots, before its Engine starts."""
        return self.root / secret_files.UNIT.relative_to("/")

    @property
    def wanted(self) -> Path:
        """The link by which the Engine's start has the unit started first."""
        return self.unit.parent / "docker.service.wants" / self.unit.name

    def differences(self) -> list[Path]:
        """Paths that are not as they should be, but for those that go."""
        found = [path for path, (text, mode) in self._files().items() if not is_as_wanted(path, text, mode)]
        return found if _leads(self.wanted, f"../{self.unit.name}") else [*found, self.wanted]

    def leaving(self) -> list[Path]:
        """Paths of earlier versions, which go."""
        secrets = self.root / "usr/local/lib/hostwright-secrets.py"
        directory = self.directory
        packages = [path for path in sorted(self.library.glob("*")) if path != directory]
        return [*packages, secrets] if secrets.exists() else packages

    def install(self) -> None:
        """Write the package, then what starts it, which switches; then remove what earlier versions have left.

        Raises:
            OSError: something cannot be written, or systemd does not read its units again.
        """
        changes, leaving = self.differences(), self.leaving()
        for path, (text, mode) in self._files().items():
            if path in changes:
                path.parent.mkdir(parents=True, exist_ok=True)
                for parent in reversed(path.parents):
                    if self.library in (parent, *parent.parents):
                        make_directory(parent, 0o755)
                write_durably(path, text, mode)
        if self.wanted in changes:
            make_directory(self.wanted.parent, 0o755)
            self.wanted.unlink(missing_ok=True)
            self.wanted.symlink_to(f"../{self.unit.name}")
            fsync(self.wanted.parent)
        if self.unit in changes and (self.root / "run/systemd/system").is_dir():
            answer = self.run(["systemctl", "daemon-reload"])
            if not answer.ok:
                raise OSError(f"systemctl daemon-reload failed: {answer.said}")
        for path in leaving:
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                path.unlink()

    def _modules(self) -> dict[str, str]:
        """Text of every module by its path in the directory."""
        shared = {f"{module.__name__.replace('.', '/')}.py": inspect.getsource(module) for module in SHARED}
        own = {f"{PACKAGE}/{name}": text for name, text in self.files.items()}
        # A package, so that no other one of that name on the host, Ansible's own for example, is taken for it.
        return {**own, **shared, "ansible_collections/__init__.py": ""}

    def _files(self) -> dict[Path, tuple[str, int]]:
        """Text and mode of every file by its path, in the order in which they are written."""
        directory = self.directory
        found = {directory / name: (text, 0o644) for name, text in self._modules().items()}
        for name, words in COMMANDS.items():
            text = _LAUNCHER.format(directory=directory, package=PACKAGE, words=words)
            found[self.program(name)] = (text, 0o755)
        found[self.unit] = (_UNIT_TEXT.format(program=self.program("hostwright")), 0o644)
        return found


def is_as_wanted(path: Path, text: str, mode: int) -> bool:
    """Whether a file of this process's user has a text and a mode."""
    try:
        status = path.lstat()
        if (status.st_mode & 0o7777, status.st_uid) != (mode, os.geteuid()):
            return False
        return path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _leads(link: Path, to: str) -> bool:
    return link.is_symlink() and str(link.readlink()) == to

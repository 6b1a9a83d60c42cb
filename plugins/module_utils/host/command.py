"""Hostwright's own commands on a host: a Python package in a directory named by its digest, and its launchers."""

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
"""Modules of the collection that the package uses. They are installed beside it, under the same import names."""
COMMANDS: Mapping[str, list[str]] = {"hostwright": [], "hostwright-certificates": ["certificates"]}
"""Names of the commands, and the words that each inserts before its arguments."""

# -I: neither the caller's environment nor the working directory decides what root imports.
_LAUNCHER = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "{directory}")
from {package}.__main__ import main

sys.exit(main({words} + sys.argv[1:]))
"""
# Before=, not Requires=: the Engine and all sites start even if the secrets of one site cannot be read.
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
    """The commands to install: ``files`` is the text of each of the package's own modules, by file name."""

    files: Mapping[str, str]
    root: Path = Path("/")
    run: Runner = run

    @property
    def library(self) -> Path:
        """Directory that contains only versions of the package."""
        return self.root / "usr/local/lib/hostwright"

    @property
    def directory(self) -> Path:
        """Directory of the package, named by its content, so that a run never mixes modules of two versions."""
        text = "".join(f"{name}\0{content}\0" for name, content in sorted(self._modules().items()))
        return self.library / hashlib.sha256(text.encode()).hexdigest()[:12]

    def program(self, name: str) -> Path:
        """Path of one of the commands."""
        return self.root / "usr/local/sbin" / name

    @property
    def unit(self) -> Path:
        """Unit of systemd that copies secrets into memory at boot, before the Engine starts."""
        return self.root / secret_files.UNIT.relative_to("/")

    @property
    def wanted(self) -> Path:
        """Symlink that makes systemd start the unit together with the Engine."""
        return self.unit.parent / "docker.service.wants" / self.unit.name

    def differences(self) -> list[Path]:
        """Paths to write: missing, or with another content, owner or mode."""
        found = [path for path, (text, mode) in self._files().items() if not is_as_wanted(path, text, mode)]
        link = self.wanted
        linked = link.is_symlink() and str(link.readlink()) == f"../{self.unit.name}"
        return found if linked else [*found, link]

    def obsolete(self) -> list[Path]:
        """Paths to remove: the files of earlier versions."""
        secrets = self.root / "usr/local/lib/hostwright-secrets.py"
        directory = self.directory
        packages = [path for path in sorted(self.library.glob("*")) if path != directory]
        return [*packages, secrets] if secrets.exists() else packages

    def install(self) -> None:
        """Write the package, then the launchers, which switches to it; then remove the files of earlier versions.

        Raises:
            OSError: a file cannot be written, or systemd cannot reload its units.
        """
        changes, obsolete = self.differences(), self.obsolete()
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
        for path in obsolete:
            remove_tree(path)

    def _modules(self) -> dict[str, str]:
        """Text of every module, by its path in the package's directory."""
        shared = {f"{module.__name__.replace('.', '/')}.py": inspect.getsource(module) for module in SHARED}
        own = {f"{PACKAGE}/{name}": text for name, text in self.files.items()}
        # A regular package takes precedence over any other ansible_collections on the host, for example Ansible's.
        return {**own, **shared, "ansible_collections/__init__.py": ""}

    def _files(self) -> dict[Path, tuple[str, int]]:
        """Text and mode of every file by its path, in writing order."""
        directory = self.directory
        found = {directory / name: (text, 0o644) for name, text in self._modules().items()}
        for name, words in COMMANDS.items():
            text = _LAUNCHER.format(directory=directory, package=PACKAGE, words=words)
            found[self.program(name)] = (text, 0o755)
        found[self.unit] = (_UNIT_TEXT.format(program=self.program("hostwright")), 0o644)
        return found


def is_as_wanted(path: Path, text: str, mode: int) -> bool:
    """Whether a file belongs to this process's user and has that text and mode."""
    try:
        status = path.lstat()
        if (status.st_mode & 0o7777, status.st_uid) != (mode, os.geteuid()):
            return False
        return path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False

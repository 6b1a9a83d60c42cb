"""A site's paths on the host, and access to its files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.hostwright.django.plugins.module_utils import contract
from ansible_collections.hostwright.django.plugins.module_utils.host import files
from ansible_collections.hostwright.django.plugins.module_utils.host.files import write_durably

from hostwright_host.errors import BusyError, CommandError

_IMAGE = r"[a-z0-9][A-Za-z0-9._/:-]*"
"""The name or id of an image; an option of docker does not match."""


@dataclass(frozen=True)
class Site:
    """One site of this host."""

    name: str
    root: Path = Path(contract.ROOT)
    """Files that the site's containers see."""
    private: Path = Path("/etc/hostwright")
    """Files that only root may read."""
    state: Path = Path("/var/lib/hostwright")
    """Results of this command's runs."""
    volatile: Path = Path(contract.MEMORY)
    """Copies of the secrets in memory, as the containers see them."""

    @property
    def run(self) -> Path:
        """The releases' directories and the symlink ``current``."""
        return self.root / "web" / self.name / "run"

    @property
    def media(self) -> Path:
        """Uploaded files."""
        return self.root / "web" / self.name / "media"

    @property
    def config(self) -> Path:
        """Configuration and secrets."""
        return self.root / "config" / self.name

    def secrets(self, release: str) -> Path:
        """The secrets that the containers of a release see."""
        return self.volatile / self.name / release

    @property
    def data(self) -> Path:
        """The database generations."""
        return self.root / "data" / self.name

    @property
    def tls(self) -> Path:
        """The site's certificate and key, as Nginx reads them."""
        return self.root / "nginx" / "tls" / self.name

    @property
    def settings_path(self) -> Path:
        """The settings that the role backup writes."""
        return self.config / "backup.json"

    @property
    def memory_path(self) -> Path:
        """The results of the last runs."""
        return self.state / self.name / "backup.json"

    @property
    def password_path(self) -> Path:
        """The password of the off-site repository."""
        return self.private / f"{self.name}.restic"

    def current(self) -> dict[str, Any]:
        """Read the record of the live release."""
        path = self.run / "current" / "release.json"
        if not self.run.is_dir():
            sites = sorted(directory.name for directory in (self.root / "web").glob("*") if directory.is_dir())
            raise CommandError(f'There is no site "{self.name}" on this host. Sites: {", ".join(sites) or "none"}.', 2)
        if not path.exists():
            raise CommandError(f'The site "{self.name}" has no live release yet: deploy it first ({path} is missing).')
        return read_record(path, self.name)

    def settings(self) -> Settings:
        """Read the settings, the private part too: without it no failure would be reported."""
        private = self.private / f"{self.name}.json"
        for path in (self.settings_path, private):
            if not path.exists():
                raise CommandError(
                    f'The site "{self.name}" has no backups configured: run the role backup ({path} is missing).'
                )
        return Settings(read_object(self.settings_path), read_object(private), self.settings_path)

    @contextlib.contextmanager
    def lock(self, what: str, wait: bool = False) -> Iterator[None]:
        """Allow one run of a kind at a time; the kernel releases the lock when the process ends.

        Args:
            what: the kind of run, which names the lock.
            wait: whether to wait for another run instead of raising BusyError.

        Raises:
            BusyError: another run is in progress.
        """
        directory = self.memory_path.parent
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"{what}.lock").open("a", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise BusyError(f"Another {what} of {self.name} is already running.") from error
            yield

    def memory(self) -> dict[str, Any]:
        """Read the results of the last runs; empty before the first run."""
        return read_object(self.memory_path) if self.memory_path.exists() else {}

    def remember(self, **facts: Any) -> None:
        """Replace parts of the memory; a lock keeps the parts that other runs write at the same time."""
        with self.lock("memory", wait=True):
            write(self.memory_path, json.dumps({**self.memory(), **facts}, indent=1) + "\n")


@dataclass(frozen=True)
class Settings:
    """The settings of a site's backups."""

    values: Mapping[str, Any]
    secrets: Mapping[str, Any]
    path: Path

    @property
    def directory(self) -> Path:
        """The directory of the site's backups."""
        return Path(self.text("directory"))

    @property
    def interval(self) -> float:
        """Longest time between two backups, in seconds."""
        return float(self.text("interval_seconds"))

    @property
    def drill_interval(self) -> float:
        """Longest time between two drills, in seconds; 0 if drills are off."""
        return float(self.text("drill_interval_seconds"))

    @property
    def time_limit(self) -> float:
        """Longest time that a step may take, in seconds."""
        return float(self.text("time_limit_seconds"))

    @property
    def keep(self) -> dict[str, int]:
        """Number of backups to keep, by class."""
        return {str(name): int(number) for name, number in dict(self._value("keep")).items()}

    @property
    def metrics_directory(self) -> Path | None:
        """The directory that node_exporter reads metrics from; None if there is none."""
        text = str(self.values.get("metrics_directory") or "")
        return Path(text) if text else None

    @property
    def offsite(self) -> Mapping[str, Any]:
        """The off-site repository; empty if there is none."""
        found: Mapping[str, Any] = self.secrets.get("offsite") or {}
        return found

    def text(self, name: str) -> str:
        """Return a setting as text."""
        return str(self._value(name))

    def secret(self, name: str) -> str:
        """Return a setting of the private part; empty if there is none."""
        return str(self.secrets.get(name) or "")

    def _value(self, name: str) -> Any:
        if name not in self.values:
            raise CommandError(f'{self.path} has no "{name}": run the role backup.')
        return self.values[name]


def read_record(path: Path, site: str) -> dict[str, Any]:
    """Read a release's record; it decides what root runs, so only root may be able to write it.

    Raises:
        CommandError: others may write the record, or it does not match the site and the release of its directory.
    """
    number = path.parent.resolve().name
    cure = "Restore the file that Hostwright wrote, with owner root and mode 0644."
    try:
        data = json.loads(files.read(path, own=True))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read: {error}. {cure}") from error
    if not isinstance(data, dict):
        raise CommandError(f"{path} must be a JSON object. {cure}")
    wanted = {
        "site": re.escape(site),
        "release": re.escape(number),
        "container": re.escape(f"{site}-{number}"),
        "configuration": re.escape(f"/site/config/releases/{number}.json"),
        "image": _IMAGE,
        "image_id": _IMAGE,
    }
    for name, pattern in wanted.items():
        if name in data and not re.fullmatch(pattern, str(data[name])):
            raise CommandError(f"{path}: {data[name]!r} is not the {name} of release {number} of {site}. {cure}")
    return data


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read: {error}.") from error
    if not isinstance(data, dict):
        raise CommandError(f"{path} must be a JSON object.")
    return data


def field(record: Mapping[str, Any], name: str) -> str:
    """Return a field of a release's record as text; raise CommandError if it is missing."""
    if name not in record:
        raise CommandError(f'The release record has no "{name}".')
    return str(record[name])


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file atomically; the path of its directory may contain links, the file is never one."""
    write_durably(path.parent.resolve() / path.name, text, mode, os.geteuid(), os.getegid())

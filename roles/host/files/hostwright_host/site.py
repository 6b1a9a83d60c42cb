"""A site's places on the host, and what is read and written there."""

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
"""An image's name or its id: no option of docker."""


@dataclass(frozen=True)
class Site:
    """One site of this host."""

    name: str
    root: Path = Path(contract.ROOT)
    """Holds what the site's containers see."""
    private: Path = Path("/etc/hostwright")
    """Holds what only root may read."""
    state: Path = Path("/var/lib/hostwright")
    """Holds what the runs of this command remember."""
    volatile: Path = Path(contract.MEMORY)
    """Holds what the containers see of the secrets."""

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
        """What the containers of a release see of the secrets."""
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
        """What the role backup has written."""
        return self.config / "backup.json"

    @property
    def memory_path(self) -> Path:
        """How the last runs went."""
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
        """Read what the role backup has written, the private part too: without it nobody would be told of a failure."""
        private = self.private / f"{self.name}.json"
        for path in (self.settings_path, private):
            if not path.exists():
                raise CommandError(
                    f'The site "{self.name}" has no backups set up: run the role backup ({path} is missing).'
                )
        return Settings(read_object(self.settings_path), read_object(private), self.settings_path)

    @contextlib.contextmanager
    def lock(self, what: str, wait: bool = False) -> Iterator[None]:
        """Let one run of a kind work at a time; the kernel frees the lock with the process.

        Raises:
            BusyError: another one is running, and it is not to be waited for.
        """
        directory = self.memory_path.parent
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"{what}.lock").open("a", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise BusyError(f"Another {what} of {self.name} runs already.") from error
            yield

    def memory(self) -> dict[str, Any]:
        """Read how the last runs went; empty before the first."""
        return read_object(self.memory_path) if self.memory_path.exists() else {}

    def remember(self, **facts: Any) -> None:
        """Replace parts of the memory, whatever other runs write at the same time."""
        with self.lock("memory", wait=True):
            write(self.memory_path, json.dumps({**self.memory(), **facts}, indent=1) + "\n")


@dataclass(frozen=True)
class Settings:
    """How a site is backed up."""

    values: Mapping[str, Any]
    secrets: Mapping[str, Any]
    path: Path

    @property
    def directory(self) -> Path:
        """Where the site's backups are."""
        return Path(self.text("directory"))

    @property
    def interval(self) -> float:
        """Seconds between two backups, at most."""
        return float(self.text("interval_seconds"))

    @property
    def drill_interval(self) -> float:
        """Seconds between two drills, at most; 0 if there are none."""
        return float(self.text("drill_interval_seconds"))

    @property
    def time_limit(self) -> float:
        """Seconds that a step may take."""
        return float(self.text("time_limit_seconds"))

    @property
    def keep(self) -> dict[str, int]:
        """How many backups stay, by class."""
        return {str(name): int(number) for name, number in dict(self._value("keep")).items()}

    @property
    def metrics_directory(self) -> Path | None:
        """Where node_exporter looks for metrics."""
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
    """Read a release's record, from which root takes what it runs: nobody else may have written it.

    Raises:
        CommandError: somebody may have, or it is not of that site and of the release whose directory it lies in.
    """
    number = path.parent.resolve().name
    cure = "Put back what Hostwright has written there, with owner root and mode 0644."
    try:
        data = json.loads(files.read(path, own=True))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: cannot be read: {error}. {cure}") from error
    if not isinstance(data, dict):
        raise CommandError(f"{path}: must be a JSON object. {cure}")
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
            raise CommandError(f"{path}: {data[name]!r} cannot be the {name} of release {number} of {site}. {cure}")
    return data


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: cannot be read: {error}.") from error
    if not isinstance(data, dict):
        raise CommandError(f"{path}: must be a JSON object.")
    return data


def field(record: Mapping[str, Any], name: str, source: str) -> str:
    """Return a field as text, or say which one is missing."""
    if name not in record:
        raise CommandError(f'The {source} has no "{name}".')
    return str(record[name])


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file whole or not at all; its directory may be named by a link, the file itself is none."""
    write_durably(path.parent.resolve() / path.name, text, mode, os.geteuid(), os.getegid())

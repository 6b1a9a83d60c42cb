"""A site on a host: its directories and files, its release records, and the symlink to the live release."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import contract
from ..contract import APP_GID, APP_UID, SECRETS, SOURCE_LABEL
from ..host import files
from ..host.engine import Engine
from ..host.files import fsync, make_directory, remove_tree, write_durably
from . import secret_files
from .errors import ReleaseError
from .generation import database
from .record import Record
from .secret_key import NAME as SECRET_KEY
from .secret_key import SecretKey
from .spec import Spec

SECRET = re.compile(r"[A-Z][A-Z0-9_]*")  # names of the user's secrets; the secret key's name does not match
# Modes of a release's directory: while root works there; while the site may write there. The sticky bit protects the
# record, which root wrote, from the site.
CLOSED, OPEN = 0o750, 0o1770


@dataclass(frozen=True)
class Site:
    """The directories of one site below the root; volumes are bound to them."""

    name: str
    root: Path

    @property
    def data(self) -> Path:
        """Database generations."""
        return self.root / "data" / self.name

    @property
    def configuration(self) -> Path:
        """Configuration and secrets."""
        return self.root / "config" / self.name

    @property
    def web(self) -> Path:
        """The directory that Nginx sees."""
        return self.root / "web" / self.name

    @property
    def run(self) -> Path:
        """Releases, their sockets, and ``current``."""
        return self.web / "run"

    @property
    def static(self) -> Path:
        """Static files by release, and the hashed ones of all kept releases in ``shared``."""
        return self.web / "static"

    @property
    def media(self) -> Path:
        """Uploaded files."""
        return self.web / "media"

    @property
    def current(self) -> Path:
        """The symlink that names the live release."""
        return self.run / "current"

    def release(self, number: int) -> Path:
        """Return the directory of a release, with its record and its socket."""
        return self.run / "releases" / str(number)

    def rest(self, number: int) -> Path:
        """Return the file that pauses a release's workers while its modification time is in the future."""
        return self.release(number) / "rest"

    def rested(self, number: int, worker: str) -> Path:
        """Return the file by which a worker reports that it pauses."""
        return self.release(number) / f"rested-{worker}"

    def end_pause(self, number: int) -> None:
        """Remove the file that pauses workers, and their reports, also of workers that were killed."""
        for path in (self.rest(number), *self.release(number).glob("rested-*")):
            remove_tree(path)

    def generation(self, number: int) -> Path:
        """Return the directory of a database generation."""
        return self.data / "databases" / str(number)

    def database_bytes(self, generation: int) -> int:
        """Return the size, in bytes, of a generation's database with SQLite's other files of it."""
        return sum(files.size(path) for path in self.generation(generation).glob("db.sqlite3*"))

    def release_configuration(self, number: int) -> Path:
        """Return the configuration file that a release's containers read."""
        return self.configuration / "releases" / f"{number}.json"

    def secrets(self, number: int) -> Path:
        """Return the directory of a release's secrets."""
        return self.configuration / "secrets" / str(number)

    @property
    def memory(self) -> Path:
        """Copies of the secrets for the containers, by release; lost when the host is switched off."""
        return secret_files.MEMORY / self.name

    @property
    def hold(self) -> Path:
        """The file for which Nginx keeps requests waiting while its modification time is in the future."""
        return self.run / "hold"

    @property
    def maintenance(self) -> Path:
        """The file for which Nginx answers 503 while its modification time is in the future."""
        return self.run / "maintenance"

    @property
    def progress(self) -> Path:
        """The file with the current step of a release."""
        return self.configuration / "progress"

    @property
    def deployments(self) -> Path:
        """The audit log: a line with a JSON object for every release, also for failed ones."""
        return self.configuration / "deployments.jsonl"

    @property
    def unfinished(self) -> Path:
        """The file that marks the databases beside it as worthless; it exists until the first release is committed."""
        return self.data / "unfinished"

    @property
    def volumes(self) -> dict[str, tuple[Path, str, bool]]:
        """By volume: its directory on the host, its mount point in a container, and whether it is read-only there."""
        return {
            f"{self.name}_data": (self.data, contract.DATA, False),
            f"{self.name}_config": (self.configuration, contract.CONFIGURATION, True),
            f"{self.name}_run": (self.run, contract.RUN, False),
            f"{self.name}_media": (self.media, contract.MEDIA, False),
        }

    def make_directories(self) -> None:
        """Make the site's directories; a user who may write into one owns it or is in its group."""
        for path, mode, uid, gid in (
            (self.root, 0o755, 0, 0),
            (self.data.parent, 0o755, 0, 0),
            (self.data, 0o750, 0, APP_GID),
            (self.data / "databases", 0o750, 0, APP_GID),
            (self.configuration.parent, 0o755, 0, 0),
            (self.configuration, 0o750, 0, APP_GID),
            (self.configuration / "releases", 0o750, 0, APP_GID),
            (self.configuration / "secrets", 0o700, APP_UID, APP_GID),
            (self.web.parent, 0o755, 0, 0),
            (self.web, 0o755, 0, 0),
            (self.run, 0o755, 0, 0),
            (self.run / "releases", 0o755, 0, 0),
            (self.static, 0o755, 0, 0),
            (self.media, 0o755, APP_UID, APP_GID),
        ):
            make_directory(path, mode, uid, gid)

    def records(self) -> dict[int, Record]:
        """Return the records of all kept releases, by number.

        A release with a number above the live one is not committed, so its files are not read.
        """
        live = self.current_record()
        numbers = _numbers(path.parent.name for path in (self.run / "releases").glob("*/release.json"))
        kept = sorted(number for number in numbers if live is None or number <= live.release)
        return {number: Record.read(self.release(number) / "release.json", self.name) for number in kept}

    def current_record(self) -> Record | None:
        """Return the live release's record, None before the first release."""
        if not self.current.is_symlink():
            return None
        return Record.read(self.current / "release.json", self.name)

    def live_record(self, step: str) -> Record:
        """Return the live release's record.

        Args:
            step: the current step, for the message.

        Raises:
            ReleaseError: there is no live release.
        """
        live = self.current_record()
        if live is None:
            raise ReleaseError(step, f"{self.name} has no live release on this host: deploy it first")
        return live

    def generations(self) -> set[int]:
        """Return the numbers of the existing database generations."""
        return _numbers(path.name for path in (self.data / "databases").glob("*"))

    def traces(self) -> set[int]:
        """Return the numbers of all releases that have left files, whether they were committed or not."""
        places = (self.run / "releases", self.static, self.configuration / "secrets", self.memory)
        names = [path.name for place in places for path in place.glob("*")]
        return _numbers([*names, *(path.stem for path in (self.configuration / "releases").glob("*.json"))])

    def next_number(self) -> int:
        """Return a release number above all numbers in ``traces``."""
        return 1 + max(self.traces(), default=0)

    def remove(self, number: int) -> None:
        """Remove a release's record, socket, static files, secrets and configuration; its generation stays."""
        remove_tree(self.release(number))
        remove_tree(self.static / str(number))
        self._prune_shared()
        remove_tree(self.memory / str(number))
        remove_tree(self.secrets(number))
        self.release_configuration(number).unlink(missing_ok=True)

    def remove_generation(self, number: int) -> None:
        """Remove a database generation, unless a backup is reading it, with a shared lock on the directory."""
        path = self.generation(number)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
        except BlockingIOError:
            return
        finally:
            os.close(descriptor)

    def _prune_shared(self) -> None:
        """Remove the shared static files that no release has."""
        shared = self.static / "shared"
        kept = [path for path in self.static.glob("*") if path != shared]
        for path in shared.rglob("*"):
            directory = stat.S_ISDIR(path.lstat().st_mode)
            if not directory and not any(files.is_regular(top / path.relative_to(shared)) for top in kept):
                path.unlink()

    def audit(self, line: str) -> None:
        """Add a line to the audit log, durably."""
        with self.deployments.open("a") as handle:
            os.fchmod(handle.fileno(), 0o640)
            handle.write(f"{line}\n")
            handle.flush()
            os.fsync(handle.fileno())

    def audited(self) -> list[dict[str, Any]]:
        """Return the lines of the audit log, the oldest one first."""
        if not self.deployments.exists():
            return []
        return [json.loads(line) for line in self.deployments.read_text().splitlines()]

    def commit(self, record: Record, check: Callable[[], object] | None = None) -> None:
        """Make a release the live one by one rename of ``current``, after all that it leads to is durable.

        Args:
            record: the release's record.
            check: called right before the rename; if it raises, the rename does not happen.
        """
        generation = self.generation(record.generation)
        for name in ("db.sqlite3", "db.sqlite3-wal"):
            if (generation / name).is_file():
                fsync(generation / name)
        fsync(generation)
        fsync(generation.parent)
        directory = self.release(record.release)
        directory.chmod(CLOSED)  # writing the record replaces a file that the site put there, and it can make no other
        record.write(directory / "release.json")
        directory.chmod(OPEN)
        fsync(self.run / "releases")
        pending = self.run / "current.new"
        pending.unlink(missing_ok=True)
        pending.symlink_to(Path("releases") / str(record.release))
        try:
            if check:
                check()
            pending.replace(self.current)
        finally:
            pending.unlink(missing_ok=True)
        fsync(self.run)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let one release run at a time; the kernel frees the lock with the process.

        Raises:
            ReleaseError: another one is running.
        """
        with (self.configuration / "lock").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ReleaseError(
                    "lock the site",
                    f"another release of {self.name} is running on this host: wait for it, then run again",
                ) from error
            yield

    def secret_key(self) -> SecretKey:
        """Return the live release's secret key; before the first release, a new one.

        The key belongs to a release, so the rename of ``current`` switches it, too. Releases of older versions share
        the key in the directory above.

        Raises:
            ReleaseError: it is invalid.
        """
        live = self.current_record()
        shared = self.configuration / "secrets"
        places = (self.secrets(live.release), shared) if live else (shared,)
        try:
            for directory in places:
                if key := SecretKey.read(directory):
                    return key
        except ValueError as error:
            raise ReleaseError("read the secret key", f"{shared} is invalid: {error}") from error
        return SecretKey.new()

    def user_secrets(self, number: int) -> dict[str, str]:
        """Return a release's secrets, without the secret key, as ``write_secrets`` has written them."""
        kept = (path for path in self.secrets(number).iterdir() if SECRET.fullmatch(path.name))
        return {path.name: files.read(path).removesuffix("\n") for path in kept}

    def spec_of(self, record: Record, engine: Engine, step: str) -> Spec:
        """Return the spec of a kept release, with its secrets; ``step`` is for the message.

        Raises:
            ReleaseError: its image is not on the host.
        """
        image = engine.image(record.image)
        if image is None or image.labels.get(SOURCE_LABEL, record.source_digest) != record.source_digest:
            raise ReleaseError(
                step,
                f"the image {record.image} of release {record.release} is no longer on the host: deploy that version",
            )
        return Spec.of_record(record.spec, self.user_secrets(record.release))

    def write_secrets(self, number: int, values: Mapping[str, str], key: SecretKey) -> None:
        """Write a release's secrets, each into its own file, without a change of other releases' secrets."""
        make_directory(self.secrets(number), 0o700, APP_UID, APP_GID)
        for name, text in {**{name: f"{value}\n" for name, value in values.items()}, **key.files()}.items():
            write_durably(self.secrets(number) / name, text, 0o600, APP_UID, APP_GID)

    def provide_secrets(self, number: int) -> None:
        """Copy a release's secrets into memory for its containers."""
        secret_files.provide(self.secrets(number), self.memory / str(number))


def _numbers(names: Iterable[str]) -> set[int]:
    return {int(name) for name in names if name.isdecimal()}


def with_numbers(configuration: Mapping[str, Any], release: int, generation: int) -> dict[str, Any]:
    """Return a release's configuration: that of its spec, and paths in the container that depend on its numbers."""
    return {
        **configuration,
        "database": database(generation),
        "secrets_directory": SECRETS,
        "secret_key_file": f"{SECRETS}/{SECRET_KEY}",
        "server": {**configuration["server"], "socket": f"{contract.RUN}/releases/{release}/app.sock"},
    }

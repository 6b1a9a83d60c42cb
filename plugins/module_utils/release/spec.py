"""What a release consists of, as it was asked for."""

from __future__ import annotations

import hashlib
import hmac
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..host.engine import Engine
from .errors import ReleaseError
from .record import Record
from .site import Site
from .steps import Step

SOURCE_LABEL = "org.hostwright.source-digest"

# What may differ without making another release.
UNRELATED = (
    "secrets",
    "health_timeout",
    "migrate_timeout",
    "keep_releases",
    "hold_seconds",
    "drain_seconds",
    "maintenance",
    "pre_release",
    "post_release",
    "post_restore",
)

Command = tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """A management command that cron starts; ``schedule`` as crontab(5) writes it."""

    schedule: str
    command: Command


@dataclass(frozen=True)
class Limits:
    """What a container may use: ``memory`` and ``tmp`` as Docker writes sizes, ``cpus`` in cores (0: no limit)."""

    memory: str = "512m"
    cpus: float = 0.0
    pids: int = 256
    tmp: str = "256m"


@dataclass(frozen=True)
class Spec:
    """What a release consists of, as it was asked for.

    ``source_digest`` is that of the project alone, ``image_digest`` that of all that decides the image's content;
    ``configuration`` lacks what only the release's number decides. ``workers`` are management commands that run all
    the time, ``jobs`` those that cron starts; ``pre_release`` and ``post_release`` run once for every release,
    ``post_restore`` besides for every one that is a restore. ``egress`` says whether its containers have a network.
    """

    image: str
    source_digest: str
    image_digest: str
    configuration: dict[str, Any]
    limits: Limits
    static_url: str
    secrets: dict[str, str] = field(repr=False)
    health_timeout: int = 60
    stop_timeout: int = 30
    migrate_timeout: int = 600
    keep_releases: int = 3
    hold_seconds: float = 10.0
    drain_seconds: float = 2.0
    maintenance: bool = False
    workers: Mapping[str, Command] = field(default_factory=dict)
    jobs: Mapping[str, Job] = field(default_factory=dict)
    pre_release: tuple[Command, ...] = ()
    post_release: tuple[Command, ...] = ()
    post_restore: tuple[Command, ...] = ()
    egress: bool = False

    def digest(self, secret_key: str) -> str:
        """Return what identifies the spec; secrets take part keyed, so that the record reveals nothing of them."""
        fields = asdict(self)
        for unrelated in UNRELATED:
            del fields[unrelated]
        private = hmac.new(secret_key.encode(), json.dumps(self.secrets, sort_keys=True).encode(), "sha256").hexdigest()
        return hashlib.sha256(f"{json.dumps(fields, sort_keys=True)}{private}".encode()).hexdigest()

    def recorded(self) -> dict[str, Any]:
        """Return everything but the secrets, for the release's record."""
        fields = asdict(self)
        del fields["secrets"]
        return fields

    @classmethod
    def of_record(cls, recorded: Mapping[str, Any], secrets: dict[str, str]) -> Spec:
        """Return the spec in a record, with the secrets that were kept beside it."""
        return cls(
            **{
                **recorded,
                "egress": recorded.get("egress", True),  # older records lack it, and every release had a network then
                "limits": Limits(**recorded["limits"]),
                "secrets": secrets,
                "workers": {name: tuple(command) for name, command in recorded["workers"].items()},
                "jobs": {name: Job(job["schedule"], tuple(job["command"])) for name, job in recorded["jobs"].items()},
                "pre_release": tuple(tuple(command) for command in recorded["pre_release"]),
                "post_release": tuple(tuple(command) for command in recorded["post_release"]),
                "post_restore": tuple(tuple(command) for command in recorded.get("post_restore", ())),
            }
        )

    @classmethod
    def of_release(cls, site: Site, engine: Engine, record: Record, step: str) -> Spec:
        """Return the spec of a kept release, with its secrets; ``step`` is for the message.

        Raises:
            ReleaseError: its image is gone.
        """
        image = engine.image(record.image)
        if image is None or image.labels.get(SOURCE_LABEL, record.source_digest) != record.source_digest:
            raise ReleaseError(
                step,
                f"the image {record.image} of release {record.release} is no longer on the host: deploy that version",
            )
        return cls.of_record(record.spec, site.user_secrets(record.release))


def words_of(option: str, line: object) -> Command:
    """Split a management command into words.

    Args:
        option: where it is written, for the message.
        line: the command, quoted as in a shell.

    Raises:
        ReleaseError: it is no command.
    """
    try:
        words = tuple(shlex.split(line)) if isinstance(line, str) else ()
    except ValueError as error:
        raise ReleaseError(Step.READ_SETTINGS, f"{option}: {line!r} cannot be read: {error}") from error
    if not words:
        raise ReleaseError(
            Step.READ_SETTINGS,
            f"{option}: {line!r} is no management command; write it as in 'clearsessions --verbosity 0'",
        )
    return words

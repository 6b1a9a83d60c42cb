"""The spec of a release: everything that the module release was asked for."""

from __future__ import annotations

import hashlib
import hmac
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_origin, get_type_hints

from .errors import ReleaseError
from .steps import Step

UNRELATED = {"related": False}  # marks a field that may differ without making another release

Command = tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """A management command that cron starts; ``schedule`` is in the notation of crontab(5)."""

    schedule: str
    command: Command


@dataclass(frozen=True)
class Limits:
    """Limits of a container: ``memory`` and ``tmp`` as sizes in Docker's notation, ``cpus`` in cores (0: no limit)."""

    memory: str = "512m"
    cpus: float = 0.0
    pids: int = 256
    tmp: str = "256m"


@dataclass(frozen=True)
class Spec:
    """Everything that the module release was asked for.

    A field is an option of the module release of the same name, unless the module lists it in ``NO_OPTIONS``.

    ``source_digest`` is the digest of the project, ``image_digest`` that of everything that determines the image;
    ``configuration`` lacks the values that depend on the release's number. ``workers`` are management commands that run
    permanently, ``jobs`` those that cron starts; ``pre_release`` and ``post_release`` run once in every release,
    ``post_restore`` also in every restore. ``egress`` says whether the containers have a network.
    """

    image: str
    source_digest: str
    image_digest: str
    configuration: dict[str, Any]
    limits: Limits
    static_url: str
    secrets: dict[str, str] = field(repr=False, metadata=UNRELATED)  # they enter the digest keyed
    health_timeout: int = field(default=60, metadata=UNRELATED)
    stop_timeout: int = 30
    migrate_timeout: int = field(default=600, metadata=UNRELATED)
    keep_releases: int = field(default=3, metadata=UNRELATED)
    hold_seconds: float = field(default=10.0, metadata=UNRELATED)
    drain_seconds: float = field(default=2.0, metadata=UNRELATED)
    maintenance: bool = field(default=False, metadata=UNRELATED)
    workers: Mapping[str, Command] = field(default_factory=dict)
    jobs: Mapping[str, Job] = field(default_factory=dict)
    pre_release: tuple[Command, ...] = field(default=(), metadata=UNRELATED)
    post_release: tuple[Command, ...] = field(default=(), metadata=UNRELATED)
    post_restore: tuple[Command, ...] = field(default=(), metadata=UNRELATED)
    egress: bool = False

    def digest(self, secret_key: str) -> str:
        """Return the digest that identifies the spec; it includes the secrets keyed, so it does not reveal them."""
        asked = asdict(self)
        related = {name: asked[name] for name in RELATED}
        private = hmac.new(secret_key.encode(), json.dumps(self.secrets, sort_keys=True).encode(), "sha256").hexdigest()
        return hashlib.sha256(f"{json.dumps(related, sort_keys=True)}{private}".encode()).hexdigest()

    def recorded(self) -> dict[str, Any]:
        """Return the spec without the secrets, for the release's record."""
        return {name: value for name, value in asdict(self).items() if name != "secrets"}

    @classmethod
    def of_record(cls, recorded: Mapping[str, Any], secrets: dict[str, str]) -> Spec:
        """Return the spec of a record, with the secrets that are kept separately."""
        return cls(
            **{
                **recorded,
                **{name: tuple(map(tuple, recorded[name])) for name in COMMANDS if name in recorded},
                "egress": recorded.get("egress", True),  # older records lack it, and every release had a network then
                "limits": Limits(**recorded["limits"]),
                "secrets": secrets,
                "workers": {name: tuple(command) for name, command in recorded["workers"].items()},
                "jobs": {name: Job(job["schedule"], tuple(job["command"])) for name, job in recorded["jobs"].items()},
            }
        )


def types_of(kind: type) -> dict[str, str]:
    """Return the type of each field of a dataclass, as Ansible names the types of options."""
    plain = {str: "str", int: "int", float: "float", bool: "bool", tuple: "list"}
    return {name: plain.get(get_origin(hint) or hint, "dict") for name, hint in get_type_hints(kind).items()}


TYPES = types_of(Spec)
COMMANDS = tuple(name for name, kind in TYPES.items() if kind == "list")
RELATED = tuple(item.name for item in fields(Spec) if item.metadata != UNRELATED)


def words_of(option: str, line: object) -> Command:
    """Split a management command into words.

    Args:
        option: name of the option, for the message.
        line: the command, quoted as in a shell.

    Raises:
        ReleaseError: it is not a command.
    """
    try:
        words = tuple(shlex.split(line)) if isinstance(line, str) else ()
    except ValueError as error:
        raise ReleaseError(Step.READ_SETTINGS, f"{option}: cannot parse {line!r}: {error}") from error
    if not words:
        raise ReleaseError(
            Step.READ_SETTINGS,
            f"{option}: {line!r} is not a management command; an example is 'clearsessions --verbosity 0'",
        )
    return words

"""A site's secret key, and the older ones that are accepted beside it for a time."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..host import files

NAME = "secret_key"
FALLBACKS = f"{NAME}_fallbacks"


@dataclass(frozen=True)
class Fallback:
    """A key that was replaced; ``until`` (seconds since 1970) what it has signed is accepted."""

    key: str = field(repr=False)
    until: int


@dataclass(frozen=True)
class SecretKey:
    """The key that signs; it lies in a directory, with its fallbacks, beside a release's other secrets."""

    value: str = field(repr=False)
    fallbacks: tuple[Fallback, ...] = ()

    @classmethod
    def new(cls) -> SecretKey:
        """A key that nothing was signed with yet."""
        return cls(secrets.token_urlsafe(64))

    @classmethod
    def of(cls, value: str, fallbacks: str) -> SecretKey:
        """What ``files`` gave; fallbacks whose time is over are left out.

        Args:
            value: the key's file.
            fallbacks: that of the fallbacks, empty if there is none.

        Raises:
            ValueError: these are no fallbacks.
        """
        try:
            found = tuple(Fallback(entry["key"], int(entry["until"])) for entry in json.loads(fallbacks or "[]"))
        except (TypeError, KeyError) as error:
            raise ValueError(f"{FALLBACKS} is not a list of keys") from error
        return cls(value, tuple(fallback for fallback in found if fallback.until > time.time()))

    @classmethod
    def read(cls, directory: Path) -> SecretKey | None:
        """The key that lies in a directory, None if none does.

        Raises:
            ValueError: what lies beside it is broken.
        """
        key, fallbacks = directory / NAME, directory / FALLBACKS
        if not key.exists():
            return None
        return cls.of(files.read(key), files.read(fallbacks) if fallbacks.exists() else "")

    def files(self) -> dict[str, str]:
        """What lies in the directory, by name."""
        fallbacks = [{"key": fallback.key, "until": fallback.until} for fallback in self.fallbacks]
        return {NAME: self.value, **({FALLBACKS: json.dumps(fallbacks)} if fallbacks else {})}

    def rotated(self, seconds: int) -> SecretKey:
        """A new key; this one and its fallbacks are accepted for so long, those not longer than they were to be."""
        until = int(time.time()) + seconds
        earlier = (Fallback(old.key, min(old.until, until)) for old in self.fallbacks)
        return replace(self.new(), fallbacks=(Fallback(self.value, until), *earlier))

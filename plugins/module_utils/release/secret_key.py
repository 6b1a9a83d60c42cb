"""A site's secret key, and the older keys that are accepted for a limited time."""

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
    """A replaced key, whose signatures are accepted ``until`` a time in seconds since 1970."""

    key: str = field(repr=False)
    until: int


@dataclass(frozen=True)
class SecretKey:
    """The signing key and its fallbacks; their files are in the directory of a release's other secrets."""

    value: str = field(repr=False)
    fallbacks: tuple[Fallback, ...] = ()

    @classmethod
    def new(cls) -> SecretKey:
        """Make a random key."""
        return cls(secrets.token_urlsafe(64))

    @classmethod
    def of(cls, value: str, fallbacks: str) -> SecretKey:
        """Read the contents of ``files``; expired fallbacks are left out.

        Args:
            value: content of the key's file.
            fallbacks: content of the fallbacks' file, empty if there is none.

        Raises:
            ValueError: the fallbacks are invalid.
        """
        try:
            found = tuple(Fallback(entry["key"], int(entry["until"])) for entry in json.loads(fallbacks or "[]"))
        except (TypeError, KeyError) as error:
            raise ValueError(f"{FALLBACKS} is not a list of keys") from error
        return cls(value, tuple(fallback for fallback in found if fallback.until > time.time()))

    @classmethod
    def read(cls, directory: Path) -> SecretKey | None:
        """Read the key in a directory, None if it has no key.

        Raises:
            ValueError: the fallbacks are invalid.
        """
        key, fallbacks = directory / NAME, directory / FALLBACKS
        if not key.exists():
            return None
        return cls.of(files.read(key), files.read(fallbacks) if fallbacks.exists() else "")

    def files(self) -> dict[str, str]:
        """Return the contents of the files, by name."""
        fallbacks = [{"key": fallback.key, "until": fallback.until} for fallback in self.fallbacks]
        return {NAME: self.value, **({FALLBACKS: json.dumps(fallbacks)} if fallbacks else {})}

    def rotated(self, seconds: int) -> SecretKey:
        """Return a new key that accepts this one for ``seconds``, and its fallbacks not longer than before."""
        until = int(time.time()) + seconds
        earlier = (Fallback(old.key, min(old.until, until)) for old in self.fallbacks)
        return replace(self.new(), fallbacks=(Fallback(self.value, until), *earlier))

"""Validation of a release's record: root checks every value before it acts on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..cron import problem
from .spec import COMMANDS, TYPES

PART = re.compile(r"[a-z0-9][a-z0-9_-]{0,29}")  # name of a worker or a job, which is a part of its container's name
IMAGE = re.compile(r"[a-z0-9][a-z0-9._/:-]*:[A-Za-z0-9_][A-Za-z0-9_.-]*")
IMAGE_ID = re.compile(r"sha256:[A-Za-z0-9_.:-]+")
_TEXTS = ("version", "source_digest", "created", "spec_digest")
_JSON: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict}


def check(data: Any, site: str, number: str) -> None:
    """Validate a record.

    Args:
        data: the JSON value.
        site: the expected site.
        number: name of the record's directory, which is the expected release.

    Raises:
        KeyError: a field is missing.
        ValueError: a field has an invalid value.
    """
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    release, spec = data["release"], data.get("spec", {})
    for name, holds in (
        ("site", data["site"] == site),
        ("release", type(release) is int and str(release) == number),
        ("generation", type(data["generation"]) is int and data["generation"] > 0),
        ("previous", data["previous"] is None or type(data["previous"]) is int),
        ("image", _fits(IMAGE, data["image"])),
        ("image_id", _fits(IMAGE_ID, data["image_id"])),
        ("container", data["container"] == f"{site}-{number}"),
        ("configuration", data["configuration"] == f"/site/config/releases/{number}.json"),
        ("migrations", _is_texts(data["migrations"])),
        ("restored", isinstance(data.get("restored", ""), str)),
        ("spec", isinstance(spec, dict)),
        *((name, isinstance(data[name], str)) for name in _TEXTS),
    ):
        if not holds:
            raise ValueError(f"{name!r} cannot be {data[name]!r} in the record of release {number} of {site}")
    _check_spec(spec, data["image"])


def _check_spec(spec: Mapping[str, Any], image: str) -> None:
    for name, value in spec.items():
        if name in TYPES and not isinstance(value, _JSON[TYPES[name]]):
            raise ValueError(f"'spec' has {value!r} as {name!r}")
    if spec.get("image", image) != image:
        raise ValueError(f"'spec' has the image {spec['image']!r}, but the release has {image!r}")
    for option in COMMANDS:
        for command in spec.get(option, []):
            _check_command(option, command)
    for option in ("workers", "jobs"):
        for name, value in spec.get(option, {}).items():
            if not PART.fullmatch(name):
                raise ValueError(f"{option}: {name!r} cannot be a name")
            _check_command(f"{option}: {name}", value["command"] if option == "jobs" else value)
            wrong = problem(value["schedule"]) if option == "jobs" else ""
            if wrong:
                raise ValueError(f"{option}: {name}: {wrong}")


def _check_command(where: str, command: object) -> None:
    if not command or not _is_texts(command):
        raise ValueError(f"{where}: {command!r} is not a command")


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))

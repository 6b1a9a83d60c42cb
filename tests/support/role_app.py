"""The default options that the role app passes to the release module."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROLE = Path(__file__).resolve().parents[2] / "roles" / "app"


def defaults() -> dict[str, Any]:
    """Return the options of hostwright.django.release that are exactly one variable of the role, with its default."""
    (task,) = yaml.safe_load((ROLE / "tasks" / "release.yml").read_text(encoding="utf-8"))
    variables = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
    passed = {
        option: re.fullmatch(r"\{\{ (\w+) \}\}", text) for option, text in task["hostwright.django.release"].items()
    }
    return {option: variables[found[1]] for option, found in passed.items() if found and found[1] in variables}

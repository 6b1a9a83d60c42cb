"""Every role's argument spec, defaults, README and tasks are consistent and follow the project's rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"
NAMES = sorted(entry.name for entry in ROLES.iterdir() if entry.is_dir())
TYPES: dict[str, type | tuple[type, ...]] = {
    "bool": bool,
    "dict": dict,
    "float": (int, float),
    "int": int,
    "list": list,
    "path": str,
    "raw": object,
    "str": str,
}


def load(path: Path) -> dict[str, Any]:
    """Read a YAML file of a role; empty if it is missing."""
    loaded = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    return loaded or {}


def spec_of(role: str) -> dict[str, Any]:
    """Return the main entry point's argument spec."""
    spec: dict[str, Any] = load(ROLES / role / "meta" / "argument_specs.yml")["argument_specs"]["main"]
    return spec


def options_of(role: str) -> dict[str, dict[str, Any]]:
    """Return the options of the main entry point."""
    return spec_of(role).get("options") or {}


def compare(role: str, options: dict[str, dict[str, Any]], defaults: dict[str, Any]) -> list[str]:
    """Return the differences between a role's spec and its defaults, and the defects of the spec."""
    wrong = [f"{name}: not in the argument spec" for name in defaults if name not in options]
    for name, option in options.items():
        if not name.startswith(f"{role}_"):
            wrong.append(f"{name}: does not begin with {role}_")
        if option.get("required"):
            if name in defaults or "default" in option:
                wrong.append(f"{name}: required, but has a default")
        elif (name in defaults) != ("default" in option):
            wrong.append(f"{name}: has a default only in the {'defaults' if name in defaults else 'spec'}")
        elif name in defaults and not same(defaults[name], option["default"]):
            wrong.append(f"{name}: default {defaults[name]!r}, but in the spec {option['default']!r}")
        wrong.extend(defects(name, option))
    return wrong


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of the same type: 1 is not true, "1" is not 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def defects(name: str, option: dict[str, Any]) -> list[str]:
    """Return the defects of an option's spec and of its suboptions."""
    wrong = []
    if not option.get("description"):
        wrong.append(f"{name}: no description")
    kind = option.get("type")
    if kind not in TYPES:
        wrong.append(f"{name}: unknown type {kind!r}")
    elif kind == "list" and "elements" not in option:
        wrong.append(f"{name}: a list without elements")
    elif isinstance(option.get("default"), str) and "{{" in option["default"]:
        pass  # an expression, whose value has the type
    elif "default" in option and not isinstance(option["default"], TYPES[kind]):
        wrong.append(f"{name}: default {option['default']!r} is not of type {kind}")
    elif kind != "bool" and isinstance(option.get("default"), bool):
        wrong.append(f"{name}: default is a boolean, but the type is {kind}")
    for sub, suboption in (option.get("options") or {}).items():
        wrong.extend(defects(f"{name}.{sub}", suboption))
    return wrong


@pytest.mark.parametrize("role", NAMES)
def test_spec_and_defaults_agree(role: str) -> None:
    assert compare(role, options_of(role), load(ROLES / role / "defaults" / "main.yml")) == []


@pytest.mark.parametrize("role", NAMES)
def test_role_states_its_outcome(role: str) -> None:
    assert spec_of(role).get("short_description"), "the argument spec has no short_description"
    readme = (ROLES / role / "README.md").read_text(encoding="utf-8")
    assert [line for line in readme.splitlines() if line and not line.startswith("#")], "the README has no text"


@pytest.mark.parametrize("role", NAMES)
def test_internal_variables_begin_with_underscores(role: str) -> None:
    internal = load(ROLES / role / "vars" / "main.yml")
    assert [name for name in internal if not name.startswith(f"__{role}_")] == []


@pytest.mark.parametrize("role", NAMES)
def test_task_names_begin_with_the_name_of_their_file(role: str) -> None:
    for file in (ROLES / role / "tasks").glob("*.yml"):
        if file.stem != "main":
            names = re.findall(r"^ *- name: (.*)", file.read_text(encoding="utf-8"), re.MULTILINE)
            tasks = [name for name in names if not name.startswith('"{{')]  # else an option called name
            assert [name for name in tasks if not name.startswith(f"{file.stem} | ")] == [], file.name


GOOD: dict[str, Any] = {"nginx_port": {"description": "The port.", "type": "int", "default": 80}}


class TestTheComparison:
    """The comparison detects each kind of defect."""

    def test_agreement(self) -> None:
        assert compare("nginx", GOOD, {"nginx_port": 80}) == []

    @pytest.mark.parametrize(
        ("options", "defaults"),
        [
            ({}, {"nginx_port": 80}),
            (GOOD, {}),
            (GOOD, {"nginx_port": 81}),
            (GOOD, {"nginx_port": "80"}),
            (GOOD, {"nginx_port": True}),
            ({"port": GOOD["nginx_port"]}, {"port": 80}),
            ({"nginx_port": {**GOOD["nginx_port"], "required": True}}, {"nginx_port": 80}),
            ({"nginx_port": {**GOOD["nginx_port"], "type": "str"}}, {"nginx_port": 80}),
            ({"nginx_port": {**GOOD["nginx_port"], "description": ""}}, {"nginx_port": 80}),
            ({"nginx_port": {"description": "Ports.", "type": "list", "default": [80]}}, {"nginx_port": [80]}),
            (
                {"nginx_port": {"description": "A.", "type": "dict", "default": {}, "options": {"a": {"type": "str"}}}},
                {"nginx_port": {}},
            ),
        ],
    )
    def test_disagreement(self, options: dict[str, Any], defaults: dict[str, Any]) -> None:
        assert compare("nginx", options, defaults) != []

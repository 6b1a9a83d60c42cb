"""docs/variables.md matches the argument specs, and the specs of site_* match the wiring."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from scripts import variables

WIRING = variables.PROJECT / "playbooks" / "group_vars" / "all.yml"


@pytest.fixture(scope="module")
def options() -> dict[str, dict[str, Any]]:
    """The specs of the site's variables."""
    specs: dict[str, dict[str, Any]] = variables.load(variables.PROJECT / "meta" / "site_specs.yml")["site"]["options"]
    return specs


@pytest.fixture(scope="module")
def wiring() -> str:
    """The text of the wiring."""
    return WIRING.read_text(encoding="utf-8")


def test_file_is_up_to_date() -> None:
    assert variables.TARGET.read_text(encoding="utf-8") == variables.document(), "run: make docs"


def test_every_role_is_documented() -> None:
    assert {path.name for path in (variables.PROJECT / "roles").iterdir() if path.is_dir()} == set(variables.ROLES)


def test_wiring_uses_the_documented_variables(options: dict[str, dict[str, Any]], wiring: str) -> None:
    used = set(re.findall(r"(?<![\w.])site_\w+", wiring))
    assert used == {name for name in options if name.startswith("site_")}


def test_defaults_of_the_wiring_are_documented(options: dict[str, dict[str, Any]], wiring: str) -> None:
    for name, default in re.findall(r"\b(site_\w+) \| default\(([^)]*)\)", wiring):
        assert options[name].get("default") == yaml.safe_load(default), name
    plain = set(re.findall(r"(?<![\w.])(site_\w+)\b(?! \| default|\*)", wiring))
    assert plain == {name for name, option in options.items() if option.get("required")}


def test_defaults_outside_the_site_are_documented(options: dict[str, dict[str, Any]]) -> None:
    playbook = (variables.PROJECT / "playbooks" / "deploy.yml").read_text()
    for name in (name for name in options if not name.startswith("site_")):
        found = re.findall(rf"\b{name} \| default\(([^)]*)\)", playbook)
        assert found
        assert {yaml.safe_load(default) for default in found} == {options[name]["default"]}, name


def test_variables_of_the_audit_are_documented() -> None:
    options = variables.load(variables.PROJECT / "meta" / "site_specs.yml")["audit"]["options"]
    playbook = (variables.PROJECT / "playbooks" / "audit.yml").read_text(encoding="utf-8")
    found = dict(re.findall(r"\b(audit_\w+) \| default\(([^)]*)\)", playbook))
    assert set(found) == set(options)
    for name, default in found.items():
        assert default == "omit" or options[name]["default"] == yaml.safe_load(default), name


def test_wiring_feeds_variables_that_exist(wiring: str) -> None:
    known = {
        name
        for role in variables.ROLES
        for name in variables.load(variables.PROJECT / "roles" / role / "meta" / "argument_specs.yml")[
            "argument_specs"
        ]["main"]["options"]
    }
    fed = {name for name in yaml.safe_load(wiring) if not name.startswith(("__", "hostwright_"))}
    assert fed - {"image_builder"} <= known  # the playbooks delegate to image_builder


def test_user_file_sets_documented_variables(options: dict[str, dict[str, Any]]) -> None:
    values = yaml.safe_load((variables.PROJECT / "inventory/group_vars/all/site.yml").read_text(encoding="utf-8"))
    assert set(values) <= set(options)
    assert {name for name, option in options.items() if option.get("required")} <= set(values)


def test_markup_becomes_markdown() -> None:
    assert variables.prose(["Is C(a|b),", "like V(c)\n and M(d.e.f)."]) == "Is `a\\|b`, like `c` and `d.e.f`."


def test_suboptions_follow_their_option() -> None:
    spec = {"a": {"description": "A.", "type": "list", "elements": "dict", "default": [{}], "options": {
        "b": {"description": "B.", "type": "str", "choices": ["x", "y"], "default": "x"}}}}  # fmt: skip
    rows = list(variables.variables(spec))
    assert [(row.name, row.kind, row.default) for row in rows] == [
        ("a", "list of dict", "see below"),
        ("a[].b", "str: `x`, `y`", "`x`"),
    ]

"""Write docs/variables.md from the argument specs (`make docs`), so that the documentation matches the checks.

Sources: meta/site_specs.yml, roles/*/meta/argument_specs.yml, and the commented variables of playbooks/sandbox.yml.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parent.parent
TARGET = PROJECT / "docs" / "variables.md"
ROLES = ("docker", "host", "image", "nginx", "app", "backup", "hardening", "dev")
INTRODUCTION = """\
# Variables

This file is generated from the argument specs by `make docs`. A role refuses a value of the wrong type before it
changes anything.

Describe the site in `inventory/group_vars/all/site.yml`. Everything else has a default. Override a role's variable in
`inventory/group_vars/prod/`, `inventory/group_vars/dev/` or `inventory/host_vars/HOST/`, not in `group_vars/all`:
`playbooks/group_vars/all.yml` takes precedence over it. That file sets the variables marked *wired*, from the site's.
"""
AUDIT = """\
For `playbooks/audit.yml`, set in the inventory or with `-e`.
"""
SANDBOX = """\
## The sandbox

For `playbooks/sandbox.yml`, set with `-e`.
"""


@dataclass(frozen=True)
class Variable:
    """One row of the documentation; ``default`` is None for a required variable."""

    name: str
    kind: str
    default: str | None
    description: str
    wired: bool = False


def load(path: Path) -> dict[str, Any]:
    """Read a YAML file of the project."""
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def prose(description: str | list[str]) -> str:
    """Convert Ansible's markup to Markdown, in one line."""
    text = " ".join(description) if isinstance(description, list) else description
    text = re.sub(r"\b[CVMO]\(([^)]*)\)", r"`\1`", text)
    return " ".join(text.split()).replace("|", "\\|")


def value(default: object) -> str:
    """Format a default as YAML in one line."""
    return f"`{default}`" if isinstance(default, str) and default else f"`{json.dumps(default, ensure_ascii=False)}`"


def kind(option: Mapping[str, Any]) -> str:
    """Format an option's type, its elements and its choices."""
    name = str(option["type"])
    if name == "list":
        name = f"list of {option['elements']}"
    if choices := option.get("choices"):
        name += ": " + ", ".join(f"`{choice}`" for choice in choices)
    return name


def variables(options: Mapping[str, Any], wired: frozenset[str] = frozenset(), prefix: str = "") -> Iterator[Variable]:
    """Yield the options of a spec, each followed by its suboptions."""
    for name, option in options.items():
        nested = option.get("options") or {}
        default = None if option.get("required") else value(option.get("default"))
        if nested and default is not None and option.get("default"):
            default = "see below"
        yield Variable(prefix + name, kind(option), default, prose(option["description"]), name in wired)
        inner = f"{prefix}{name}{'[]' if option['type'] == 'list' else ''}."
        yield from variables(nested, prefix=inner)


def table(rows: Iterator[Variable]) -> str:
    """Format variables as a Markdown table."""
    lines = ["| variable | type | default | means |", "|---|---|---|---|"]
    for row in rows:
        default = "*wired*" if row.wired else "*required*" if row.default is None else row.default
        lines.append(f"| `{row.name}` | {row.kind} | {default} | {row.description} |")
    return "\n".join(lines) + "\n"


def sandbox() -> Iterator[Variable]:
    """Yield the variables of the sandbox playbook; a comment describes all variables up to the next comment."""
    text = (PROJECT / "playbooks" / "sandbox.yml").read_text(encoding="utf-8")
    comment = ""
    for line in text.splitlines():
        if found := re.fullmatch(r"    # (.*)", line):
            comment = found[1]
        elif found := re.fullmatch(r"    (sandbox_\w+): (.*)", line):
            default = yaml.safe_load(found[2])
            yield Variable(found[1], type(default).__name__, value(default), prose(comment))


def document() -> str:
    """Return the whole text of docs/variables.md."""
    wired = frozenset(load(PROJECT / "playbooks" / "group_vars" / "all.yml"))
    specs = load(PROJECT / "meta" / "site_specs.yml")
    site, audit = specs["site"], specs["audit"]
    parts = [INTRODUCTION, f"## {site['short_description']}\n", table(variables(site["options"]))]
    for role in ROLES:
        spec = load(PROJECT / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]["main"]
        parts += [
            f"## Role `{role}`\n",
            f"{prose(spec['short_description'])}.\n",
            table(variables(spec["options"], wired)) if spec["options"] else "It has no variables.\n",
        ]
    parts += [f"## {audit['short_description']}\n", AUDIT, table(variables(audit["options"]))]
    return "\n".join([*parts, SANDBOX, table(sandbox())])


def main() -> int:
    """Write the file."""
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

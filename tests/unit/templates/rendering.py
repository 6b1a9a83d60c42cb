"""Templates of the roles, rendered by Ansible's own lookup with the role's defaults and vars; no host, no play."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).resolve().parents[3] / "roles"


def _by_short_name(get: Callable[..., Any]) -> Callable[..., Any]:
    """Find Ansible's own lookups without its import hook, which would not leave other tests alone."""
    return lambda name, *arguments, **options: get(name.removeprefix("ansible.builtin."), *arguments, **options)


class Role:
    """A role's variables and templates."""

    def __init__(self, name: str) -> None:
        self.path = ROLES / name
        self.loader = DataLoader()
        self.loader.set_basedir(str(self.path))
        self.variables: dict[str, Any] = {"role_path": str(self.path), "ansible_search_path": [str(self.path)]}
        for part in ("defaults", "vars"):
            file = self.path / part / "main.yml"
            if file.exists():
                self.variables |= self.loader.load_from_file(str(file), trusted_as_template=True)

    def evaluate(self, expression: str, **variables: Any) -> Any:
        """Return what an expression yields in a task of the role."""
        templar = Templar(self.loader, {**self.variables, **variables})
        with mock.patch.object(lookup_loader, "get", _by_short_name(lookup_loader.get)):
            return templar.template(trust_as_template("{{ " + expression + " }}"))

    def render(self, template: str, **variables: Any) -> str:
        """Return a template's text."""
        return str(self.evaluate(f"lookup('ansible.builtin.template', '{template}')", **variables))


def change(before: str, after: str) -> tuple[list[str], list[str]]:
    """Lines that went and lines that came, stripped, in their order."""
    old, new = ([line.strip() for line in text.splitlines() if line.strip()] for text in (before, after))
    return [line for line in old if line not in new], [line for line in new if line not in old]

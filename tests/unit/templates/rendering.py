"""Templates of the roles, rendered by Ansible with the roles' defaults and vars, without a host or a play."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from unittest import mock

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar, trust_as_template
from ansible_collections.hostwright.django.plugins.action import nginx_configuration as nginx

ROLES = Path(__file__).resolve().parents[3] / "roles"


def _by_short_name(get: Callable[..., Any]) -> Callable[..., Any]:
    """Find Ansible's lookups without its import hook, which would affect other tests."""
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
        """Return the value of an expression in a task of the role."""
        templar = Templar(self.loader, {**self.variables, **variables})
        with mock.patch.object(lookup_loader, "get", _by_short_name(lookup_loader.get)):
            return templar.template(trust_as_template("{{ " + expression + " }}"))

    def render(self, template: str, **variables: Any) -> str:
        """Return a template's text."""
        return str(self.evaluate(f"lookup('ansible.builtin.template', '{template}')", **variables))

    def configure_nginx(self, tasks: str, **variables: Any) -> dict[str, Any]:
        """Run the action ``nginx_configuration`` with the arguments of a file's first task.

        Returns:
            The arguments passed to the module on the host; if it was not called, the action's result.
        """
        [task, *_] = self.loader.load_from_file(str(self.path / "tasks" / f"{tasks}.yml"), trusted_as_template=True)
        templar = Templar(self.loader, {**self.variables, **variables})
        arguments = templar.template(task["hostwright.django.nginx_configuration"])
        made = mock.MagicMock(args=arguments, check_mode=False, async_val=0)
        action = nginx.ActionModule(made, mock.MagicMock(), mock.MagicMock(), self.loader, templar, mock.MagicMock())
        with (
            mock.patch.object(lookup_loader, "get", _by_short_name(lookup_loader.get)),
            mock.patch.object(action, "_execute_module") as module,
        ):
            module.return_value = {}
            returned = action.run(task_vars={})
        return dict(module.call_args.kwargs["module_args"]) if module.called else dict(returned)


def nginx_files(
    role: Role, *sites: dict[str, Any], secured: Collection[str] | None = None, **variables: Any
) -> dict[str, str]:
    """Return the files of Nginx's configuration; ``secured``: sites with a certificate, all if None and TLS is on."""
    checked = ArgumentSpecValidator({"sites": nginx.SPEC["sites"]}).validate({"sites": list(sites)})
    assert not checked.error_messages
    given = checked.validated_parameters["sites"]
    if secured is None:
        secured = [site["name"] for site in given] if variables.get("nginx_tls") in ("files", "acme") else []

    def render(template: str, **more: Any) -> str:
        return role.render(template, **variables, **more)

    plain = [site for site in given if site["name"] not in secured]
    encrypted = [site for site in given if site["name"] in secured]
    return nginx.files_of(render, plain, encrypted=False) | nginx.site_files(render, encrypted, encrypted=True)


def change(before: str, after: str) -> tuple[list[str], list[str]]:
    """Return the removed and the added lines, stripped, in their order."""
    old, new = ([line.strip() for line in text.splitlines() if line.strip()] for text in (before, after))
    return [line for line in old if line not in new], [line for line in new if line not in old]

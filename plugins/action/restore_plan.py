"""Decide between list, restore and rebuild by the user's request and the host (action side of ``restore_plan``)."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.hostwright.django.plugins.module_utils.contract import BACKUPS_ROOT

SPEC = {
    "site": {"type": "str", "required": True},
    "backup": {"type": "str", "default": ""},
    "source": {"type": "str", "default": ""},
    "target": {"type": "str", "default": ""},
    "group": {"type": "str", "required": True},
    "backup_directory": {"type": "str", "default": BACKUPS_ROOT},
}


@dataclass(frozen=True)
class Request:
    """The user's request.

    ``backup`` or ``file`` names what to restore, ``source`` is a directory of backups on the control node, and
    ``target`` is a host to restore to.
    """

    backup: str
    file: str
    source: str
    target: str

    @classmethod
    def of(cls, options: dict[str, str]) -> Request:
        """Read the options; a backup with a ``/`` is a file. The shell does not expand ``~`` in ``-e name=~/path``."""
        backup, source = options["backup"], options["source"]
        file = _absolute(backup) if "/" in backup else ""
        return cls("" if file else backup, file, _absolute(source) if source else "", options["target"])

    def problems(self, site: str, hosts: list[str], group: str, sites: dict[str, str]) -> Iterator[str]:
        """Yield a sentence for each reason to refuse the request.

        Args:
            site: name of the site.
            hosts: hosts of the play.
            group: the inventory group of ``target``.
            sites: the site's name by host of that group.
        """
        if self.file and not Path(self.file).is_file():
            yield f"backup_restore: there is no file {self.file} on this machine."
        if self.source and not Path(self.source).is_dir():
            yield f"backup_source: there is no directory {self.source} on this machine."
        if self.file and (self.source or self.target):
            yield "backup_restore names a file to import: backup_source and target are for backups."
        if not self.target:
            return
        if not (self.backup or self.file) or self.source:
            yield "target: name the backup with -e backup_restore; backup_source goes to the hosts of -l."
        if self.target not in sites or hosts == [self.target]:
            yield f"target: {self.target} must be a host of the group {group}, and not the host of -l."
        elif sites[self.target] != site:
            yield f"target: {self.target} has another site than {site}."
        if len(hosts) != 1:
            yield "target: only one host's backup can be restored there; name that host with -l."


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Checks the request on the control node, then the host that would change in one round trip."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return whether to list, restore or rebuild, with host and directory.

        Raises:
            AnsibleActionFail: the request cannot be fulfilled.
        """
        super().run(tmp, task_vars)
        began = time.time()
        _, options = self.validate_argument_spec(SPEC)
        variables = task_vars or {}
        site, request = options["site"], Request.of(options)
        members = variables.get("groups", {}).get(options["group"], [])
        sites = {host: variables["hostvars"][host].get("site_name", "") for host in members if host == request.target}
        for problem in request.problems(site, variables["ansible_play_hosts"], options["group"], sites):
            raise AnsibleActionFail(f"{problem} Nothing was changed.")
        host = request.target or variables["inventory_hostname"]
        wanted, live = bool(request.backup or request.file), self._is_live(site)
        if wanted and not live and (request.file or request.target):
            raise AnsibleActionFail(
                f"{host} has no live release of {site}: deploy to it first (deploy.yml -l {host}). Nothing was changed."
            )
        kept = f"{options['backup_directory']}/{site}"
        return {
            "changed": False,
            "began": began,
            "does": ("restore" if live else "rebuild") if wanted else "list",
            "host": host,
            "backup": request.backup,
            "file": request.file,
            "control_node": bool(request.source or request.file),
            "directory": request.source or ("" if live else kept),
            "host_directory": kept,
            "says": f"for {site} on {host}" if wanted else "-e backup_restore=ID restores one",
        }

    def _is_live(self, site: str) -> bool:
        """Return whether the host has a live release."""
        current = shlex.quote(f"/srv/hostwright/web/{site}/run/current")
        result = self._low_level_execute_command(f"if test -L {current}; then echo live; else echo none; fi")
        answer = result["stdout"].strip()
        if answer not in ("live", "none"):
            raise AnsibleActionFail(f"cannot check for a live release of {site}: {result.get('stderr') or answer}")
        return bool(answer == "live")


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())

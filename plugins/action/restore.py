"""Restore from the control node or from the host (action side of ``restore``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.hostwright.django.plugins.module_utils.host.carrier import Carrier, CarrierError, Load
from ansible_collections.hostwright.django.plugins.module_utils.release.errors import ReleaseError
from ansible_collections.hostwright.django.plugins.module_utils.release.site import Site
from ansible_collections.hostwright.django.plugins.modules.restore import found, listed, source_of

SUFFIXES = ("", "-wal", "-journal")  # of the files of a database that was not closed


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Lists and checks backups on the control node, and lends them to the host for a restore."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result.

        Raises:
            AnsibleActionFail: the backup or file does not exist, or could not be copied to the host.
        """
        super().run(tmp, task_vars)
        self._vars = task_vars or {}
        arguments = dict(self._task.args)
        if not boolean(arguments.pop("control_node", False)):
            return self._module(arguments)
        try:
            return self._restore(arguments)
        except ReleaseError as error:
            unchanged = "" if "Nothing was changed" in str(error) else ". Nothing was changed"
            raise AnsibleActionFail(f"could not {error.step}: {error}{unchanged}.") from None
        except (CarrierError, OSError) as error:
            raise AnsibleActionFail(f"could not copy the source to the host: {error}. Nothing was changed.") from None

    def _restore(self, arguments: dict[str, Any]) -> dict[str, Any]:
        given = {"file": "", "backup": "", "directory": "", **arguments}
        packed = Path(given["directory"])
        if packed.is_file():
            return self._lend(arguments, Load(packed))
        source = source_of(Site(given["site"], Path("/")), given)
        if source is None:
            return listed(packed)
        if self._task.check_mode:
            return found(source, None)
        if source.backup:
            return self._lend({**arguments, "backup": source.backup.id}, Load(packed, source.backup.names()))
        names = [name for suffix in SUFFIXES if (source.directory / (name := source.file + suffix)).is_file()]
        return self._lend(arguments, Load(source.directory, names))

    def _lend(self, arguments: dict[str, Any], load: Load) -> dict[str, Any]:
        with Carrier(self).lend(load) as directory:
            file = {"file": f"{directory}/{Path(arguments['file']).name}"} if arguments.get("file") else {}
            return self._module({**arguments, "directory": directory, **file})

    def _module(self, arguments: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="hostwright.django.restore", module_args=arguments, task_vars=self._vars
        )
        return result

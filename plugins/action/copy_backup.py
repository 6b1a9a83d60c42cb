"""Copy a backup from the control node to a host, or the other way (action side of ``copy_backup``)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.hostwright.django.plugins.module_utils.host.carrier import Carrier, CarrierError, Load

SPEC = {
    "directory": {"type": "str", "required": True},
    "names": {"type": "list", "elements": "str", "required": True},
    "source": {"type": "path", "default": ""},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Copies with a few commands on the host; no module runs there."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the path of the fetched archive.

        Raises:
            AnsibleActionFail: the disk is too small, or the backup could not be copied.
        """
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(SPEC)
        if self._task.check_mode:
            return {"changed": True, "archive": ""}
        try:
            if options["source"]:
                Carrier(self).give(Load(Path(options["source"]), options["names"]), options["directory"])
                return {"changed": True, "archive": ""}
            return {"changed": True, "archive": str(self._fetch(options["directory"], options["names"]))}
        except (CarrierError, OSError) as error:
            raise AnsibleActionFail(f"could not copy the backup: {error}. The site was not changed.") from None

    def _fetch(self, directory: str, names: list[str]) -> Path:
        """Pack the backup into a directory that Ansible removes when the playbook ends."""
        here = Path(tempfile.mkdtemp(prefix="hostwright-restore-", dir=constants.DEFAULT_LOCAL_TMP))
        try:
            Carrier(self).fetch(directory, names, here / "backup.tar")
        except BaseException:
            shutil.rmtree(here, ignore_errors=True)
            raise
        return here / "backup.tar"

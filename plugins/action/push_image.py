"""Bring an image from its archive on the control node to a host (action side of the module ``push_image``)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()

SPEC = {
    "image": {"type": "str", "required": True},
    "archive": {"type": "path", "required": True},
    "layers": {"type": "list", "elements": "str", "required": True},
    "digest": {"type": "str", "required": True},
    "source_digest": {"type": "str", "default": ""},
    "size": {"type": "int", "default": 0},
    "platform": {"type": "str", "default": ""},
    "records": {"type": "path", "default": ""},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Asks the host what it has in one round trip; sends and loads only what it lacks."""

    _supports_check_mode = True
    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what was sent.

        Raises:
            AnsibleActionFail: the host refuses the image, or it did not arrive whole.
        """
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(SPEC)
        self._vars = task_vars or {}
        common = {key: value for key, value in options.items() if key != "archive"}
        state = self._module({**common, "phase": "query"})
        if state["present"]:
            return {"changed": False, "image": options["image"], "bytes": 0, "way": "none"}
        archive = Path(options["archive"]) if options["archive"] else None
        size = archive.stat().st_size if archive and archive.is_file() else 0
        plan = f"{options['image']}: {len(options['layers'])} layers, {size / 1e6:.1f} MB\n"
        outcome = {
            "changed": True,
            "image": options["image"],
            "bytes": size,
            "way": "whole",
            "diff": {"before": "", "after": plan},
        }
        if self._task.check_mode:
            return outcome
        if archive is None or not archive.is_file():
            raise AnsibleActionFail(f"no archive {options['archive']} of {options['image']}: build the image first")
        host = self._vars.get("inventory_hostname")
        display.display(f"    sending {options['image']} to {host} ({size / 1e6:.0f} MB) …")
        directory = self._make_tmp_path()
        self._connection._shell.tmpdir = directory
        there = self._connection._shell.join_path(directory, archive.name)
        self._transfer_file(str(archive), there)
        self._fixup_perms2((directory, there))
        self._module({**common, "phase": "load", "archive": there, "sha256": _sha256(archive)})
        return outcome

    def _module(self, arguments: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="hostwright.django.push_image", module_args=arguments, task_vars=self._vars
        )
        if result.get("failed") or result.get("unreachable"):
            raise AnsibleActionFail(result.get("msg", "the host did not answer"), result=result)
        return result


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()

"""Read a Django project on the control node and report what to build (action side of the module ``project``)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.hostwright.django.plugins.module_utils.image.project import ProjectError, read_project


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Runs on the control node only, where the source is."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the project's facts.

        Raises:
            AnsibleActionFail: the directory is not a Django project that can be deployed.
        """
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            {
                "source": {"type": "path", "required": True},
                "version": {"type": "str", "default": ""},
                "settings": {"type": "str", "default": ""},
                "wsgi": {"type": "str", "default": ""},
                "requirements": {"type": "str", "default": "requirements.txt"},
            }
        )
        source = Path(options["source"]).resolve()
        try:
            project = read_project(
                source, options["version"], options["settings"], options["wsgi"], options["requirements"]
            )
        except ProjectError as error:
            raise AnsibleActionFail(str(error)) from error
        return {"changed": False, **asdict(project), "source": str(project.source)}

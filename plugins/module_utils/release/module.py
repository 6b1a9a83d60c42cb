"""Common code of the modules that make releases."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..host.engine import EngineError
from .errors import ReleaseError
from .outcome import Outcome
from .releases import Releases
from .site import Site

ARGUMENTS: dict[str, Any] = {
    "site": {"type": "str", "required": True},
    "root": {"type": "path", "default": "/srv/hostwright"},
    "by": {"type": "str", "default": ""},
}
HOLD_ARGUMENTS: dict[str, Any] = {
    "hold_seconds": {"type": "float", "default": 10.0},
    "maintenance": {"type": "bool", "default": False},
}


def site_of(module: AnsibleModule) -> Site:
    """Return the site that a module's options name."""
    return Site(module.params["site"], Path(module.params["root"]))


def result_of(module: AnsibleModule, outcome: Outcome) -> dict[str, Any]:
    """Show an outcome's warnings, and return its part of a module's result."""
    for warning in outcome.warnings:
        module.warn(warning)
    return outcome.result()


def perform(module: AnsibleModule, releases: Releases, work: Callable[[], dict[str, Any]]) -> None:
    """Run a module's work and exit with its result, or with the reason of its failure and the release that serves."""
    os.umask(0o022)  # Nginx, which is not root, reads what is made here
    for signalled in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signalled, lambda *_: sys.exit("ended by a signal"))  # SystemExit undoes the release
    try:
        result = work()
    except ReleaseError as error:
        module.fail_json(msg=releases.explained(error), step=error.step, log=error.log)
    except EngineError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)

"""Makes the collection importable under the name it has when Ansible runs it, from this checkout."""

from __future__ import annotations

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
COLLECTIONS = PROJECT / ".ansible" / "collections"


def pytest_configure() -> None:
    """Link the checkout as set-up does, in case the tests run before it, and put it on the module path."""
    link = COLLECTIONS / "ansible_collections" / "hostwright" / "django"
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("../../../..")
    sys.path.insert(0, str(COLLECTIONS))

"""Fixtures of the plugins' tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

UTILS = "ansible_collections.hostwright.django.plugins.module_utils"


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path) -> Iterator[None]:
    """Redirect the system directories that a release uses to the test's directory."""
    with pytest.MonkeyPatch.context() as patch:  # a separate one: a test may undo the fixture `monkeypatch`
        patch.setattr(f"{UTILS}.release.secret_files.MEMORY", tmp_path / "run" / "hostwright" / "secrets")
        patch.setattr(f"{UTILS}.release.transaction.UNIT", Path(__file__))  # any existing file
        yield


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Replace chown for users without root privileges: record owner and group, by path."""
    given: dict[str, tuple[int, int]] = {}

    def chown(path: os.PathLike[str], uid: int, gid: int, **_: bool) -> None:
        given[os.fspath(path)] = (uid, gid)

    def fchown(descriptor: int, uid: int, gid: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
        given[path] = (uid, gid)

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "fchown", fchown)
    return given


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait for the removal of a container: where each removal fails, each would take 10 s."""
    place = "ansible_collections.hostwright.django.plugins.module_utils.release.containers"
    monkeypatch.setattr(f"{place}.REMOVAL_SECONDS", 0.2)

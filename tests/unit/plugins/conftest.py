"""Fixtures of the plugins' tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

UTILS = "ansible_collections.hostwright.django.plugins.module_utils"


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path) -> Iterator[None]:
    """Keep what a release puts into the system's directories in the test's own."""
    with pytest.MonkeyPatch.context() as patch:  # one of its own: a test may undo the other
        patch.setattr(f"{UTILS}.release.secret_files.MEMORY", tmp_path / "run" / "hostwright" / "secrets")
        patch.setattr(f"{UTILS}.release.transaction.UNIT", Path(__file__))  # some file: it is there
        yield


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Let anybody give files away, and remember to whom; by the last part of the path."""
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
    """Give up soon on a container that stays: a test that lets each removal fail would wait 10 s each time."""
    place = "ansible_collections.hostwright.django.plugins.module_utils.release.containers"
    monkeypatch.setattr(f"{place}.REMOVAL_SECONDS", 0.2)

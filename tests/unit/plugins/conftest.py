"""Fixtures of the plugins' tests."""

from __future__ import annotations

import os

import pytest


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

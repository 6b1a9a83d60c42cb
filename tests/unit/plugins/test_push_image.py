"""The host's part of a push, run as it is on a host, against a pretended docker program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils import push_host
from ansible_collections.hostwright.django.plugins.module_utils.push_host import HostError

HERE = Path(__file__).parent
IMAGE = "polls:1.0"


# Versions are immutable


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Path]:
    def write(**releases: tuple[str, str]) -> Path:
        for name, (image, digest) in releases.items():
            path = tmp_path / "releases" / name.strip("r") / "release.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"release": int(path.parent.name), "image": image, "source_digest": digest}))
        return tmp_path / "releases"

    return write


def test_the_last_release_of_a_version_is_named(recorded: Callable[..., Path]) -> None:
    records = recorded(r2=(IMAGE, "a"), r10=(IMAGE, "a"), r3=("polls:0.9", "b"), r11=("blog:1.0", "c"))
    assert "(release 10, source a)" in push_host.refusal(records, IMAGE, "b")


def test_the_same_source_may_come_again_and_another_one_not(recorded: Callable[..., Path]) -> None:
    records = recorded(r1=(IMAGE, "a" * 64), r2=("polls:0.9", "b" * 64))
    assert push_host.refusal(records, IMAGE, "a" * 64) == ""
    assert push_host.refusal(records, "polls:1.1", "c" * 64) == ""
    reason = push_host.refusal(records, IMAGE, "c" * 64)
    for part in (IMAGE, "release 1", "a" * 12, "c" * 12, "VERSION", "site_version"):
        assert part in reason


def test_a_host_without_releases_takes_anything(tmp_path: Path) -> None:
    assert push_host.refusal(tmp_path / "nothing", IMAGE, "a") == ""


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_an_unreadable_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "1" / "release.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(HostError, match=str(path)):
        push_host.refusal(tmp_path, IMAGE, "a")

"""The files that control Nginx's hold, and the count of its connections."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.release import hold
from ansible_collections.hostwright.django.plugins.module_utils.release.hold import (
    Gate,
    RenewedGate,
    connections,
    drain,
)


def test_the_modification_time_of_a_hold_is_its_deadline(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "hold")
    before = time.time()
    gate.shut(10)
    found = gate.path.stat()
    assert before + 10 <= found.st_mtime <= time.time() + 10
    assert stat.S_IMODE(found.st_mode) == 0o644
    assert 8.5 < gate.left() <= 9
    assert [path.name for path in tmp_path.iterdir()] == ["hold"]
    gate.open()
    assert not gate.path.exists()
    gate.open()


def test_a_link_in_place_of_a_pause_file_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    os.utime(victim, (1, 1))
    monkeypatch.setattr(hold, "BEAT", 0.02)
    gate = RenewedGate(tmp_path / "rest")
    gate.shut(3)
    gate.path.unlink()
    gate.path.symlink_to(victim)
    time.sleep(0.1)
    gate.open()
    assert victim.stat().st_mtime == 1


def test_a_hold_is_never_seen_without_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    replace = Path.replace

    def observed(path: Path, target: Path) -> Path:
        assert not target.exists()
        seen.append(path.stat().st_mtime - time.time())
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", observed)
    Gate(tmp_path / "hold").shut(10)
    assert len(seen) == 1
    assert seen[0] > 9


def test_a_maintenance_window_is_renewed_while_its_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hold, "BEAT", 0.02)
    gate = RenewedGate(tmp_path / "maintenance")
    gate.shut(3)
    monkeypatch.setattr(os, "open", full)  # the migrations of a maintenance window may fill the disk
    first = gate.path.stat().st_mtime
    time.sleep(0.3)
    assert gate.path.stat().st_mtime > first + 0.1
    assert gate.left() == float("inf")
    gate.open()
    time.sleep(0.1)
    assert not gate.path.exists()


def test_a_removed_maintenance_window_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "BEAT", 0.02)
    gate = RenewedGate(tmp_path / "maintenance")
    gate.shut(3)
    gate.path.unlink()
    time.sleep(0.1)
    assert not gate.path.exists()
    gate.open()


def test_connections_are_counted_in_the_network_namespace_of_nginx(tmp_path: Path) -> None:
    listing = tmp_path / "proc" / "7" / "net" / "unix"
    listing.parent.mkdir(parents=True)
    listing.write_text(
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "ffff0001: 00000002 00000000 00010000 0001 01 11 /site/run/releases/1/app.sock\n"
        "ffff0002: 00000003 00000000 00000000 0001 03 12 /site/run/releases/1/app.sock\n"
        "ffff0003: 00000003 00000000 00000000 0001 02 13 /site/run/releases/1/app.sock\n"
        "ffff0004: 00000003 00000000 00000000 0001 03 14 /site/run/releases/11/app.sock\n"
        "ffff0005: 00000003 00000000 00000000 0001 03 15\n"
    )
    assert connections(7, "/site/run/releases/1/app.sock", tmp_path / "proc") == 2
    assert connections(8, "/site/run/releases/1/app.sock", tmp_path / "proc") == 0


def test_a_real_connection_is_counted_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(path))
        server.listen()
        own = os.getpid()
        assert connections(own, str(path)) == 0
        client.connect(str(path))
        accepted, _ = server.accept()
        assert connections(own, str(path)) == 1
        accepted.close()
        assert connections(own, str(path)) == 0


def test_a_drain_ends_with_the_last_connection_or_at_its_time_limit() -> None:
    left = iter([2, 1, 0, 1, 0, 0, 5])
    assert drain(lambda: next(left), 5) < 1
    assert next(left) == 5
    assert 0.05 <= drain(lambda: 1, 0.05) < 1

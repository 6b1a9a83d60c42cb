"""The host command, against a docker command that writes down what it is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(__file__).resolve().parents[2] / "roles" / "app" / "files" / "hostwright"
MANIFEST = {"id": "20261122T203000Z-r7", "time": "2026-11-22T20:30:00Z", "rows_total": 3, "release": 7}
# Answers by files: inspect.json or state (of the backup's container), run.out, run.err, run.rc.
DOCKER = """#!/bin/sh
here=$(dirname "$0")
for word in "$@"; do printf '%s\\n' "$word"; done >> "$here/calls"; echo >> "$here/calls"
case "$1 $2 $3" in
  "container inspect --format"*) test -f "$here/state" || exit 1; cat "$here/state";;
  "container inspect "*) test -f "$here/inspect.json" || exit 1; cat "$here/inspect.json";;
  "run "*) cat "$here/run.err" >&2; cat "$here/run.out"; exec sh "$here/run.rc";;
  "exec "*) exit 3;;
esac
"""


class Host:
    """A host's directories, and its docker."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        (self.bin / "docker").write_text(DOCKER, encoding="utf-8")
        (self.bin / "docker").chmod(0o755)
        self.answer("run.out", "progress\n" + json.dumps(MANIFEST) + "\n")
        self.answer("run.err", "")
        self.answer("run.rc", "exit 0")
        self.backups = root / "backups"
        self.backups.mkdir()
        (root / "srv/web/polls/run/releases/7").mkdir(parents=True)
        (root / "srv/web/polls/run/current").symlink_to("releases/7")
        (root / "srv/config/polls").mkdir(parents=True)
        self.record(generation=3)
        self.settings(keep=48, time_limit_seconds=60)

    def answer(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text, encoding="utf-8")

    def record(self, **changes: Any) -> None:
        record = {
            "site": "polls",
            "release": 7,
            "container": "polls-7",
            "image": "polls:1.0",
            "image_id": "sha256:abc",
            "configuration": "/site/config/releases/7.json",
            **changes,
        }
        (self.root / "srv/web/polls/run/releases/7/release.json").write_text(json.dumps(record), encoding="utf-8")

    def settings(self, **values: Any) -> None:
        text = json.dumps({"directory": str(self.backups), **values})
        (self.root / "srv/config/polls/backup.json").write_text(text, encoding="utf-8")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, COMMAND, "--root", str(self.root / "srv"), *words],
            env={**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[list[str]]:
        text = (self.bin / "calls").read_text(encoding="utf-8") if (self.bin / "calls").exists() else ""
        return [call.split("\n") for call in text.split("\n\n") if call]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_manage_passes_words_and_status_on(host: Host) -> None:
    result = host.run("manage", "polls", "--", "shell", "-c", "print('a b')", "--version")
    assert result.returncode == 3
    assert host.calls() == [
        ["exec", "--interactive", "polls-7", "python3", "manage.py", "shell", "-c", "print('a b')", "--version"]
    ]


def test_manage_without_a_command_says_how(host: Host) -> None:
    result = host.run("manage", "polls")
    assert (result.returncode, "hostwright manage polls -- check --deploy" in result.stderr) == (2, True)


def test_backup_runs_one_hardened_container(host: Host) -> None:
    result = host.run("backup", "polls")
    assert json.loads(result.stdout) == MANIFEST
    inspect, run = host.calls()
    assert inspect[-1] == "polls-backup"
    text = " ".join(run)
    for part in (
        "--name polls-backup",
        "--label hostwright=backup --label hostwright.site=polls",
        "--user 10001:10001 --network none --read-only",
        "--cap-drop ALL --security-opt no-new-privileges",
        f"--mount type=bind,src={host.root}/srv/data/polls,dst=/site/data --mount",
        f"src={host.root}/srv/config/polls,dst=/site/config,readonly",
        f"src={host.backups},dst=/site/backups --",
        "HOSTWRIGHT_CONFIG=/site/config/releases/7.json sha256:abc backup --output /site/backups",
        "--record /site/run/releases/7/release.json --keep 48 --time-limit 60",
    ):
        assert part in text


def test_backup_is_quiet_for_cron_but_not_when_it_fails(host: Host) -> None:
    assert (host.run("backup", "polls", "--quiet").stdout, host.run("backup", "polls", "--quiet").stderr) == ("", "")
    host.answer("run.rc", "exit 1")
    host.answer("run.err", "hostwright backup: /site/backups: the destination is full.\n")
    result = host.run("backup", "polls", "--quiet")
    assert result.returncode == 1
    assert result.stderr == "hostwright backup polls: hostwright backup: /site/backups: the destination is full.\n"


@pytest.mark.parametrize("state", ["running", "paused", "restarting"])
def test_a_backup_that_runs_is_left_alone(host: Host, state: str) -> None:
    host.answer("state", state)
    result = host.run("backup", "polls")
    assert (result.returncode, f"polls-backup is {state}" in result.stderr) == (75, True)
    assert len(host.calls()) == 1


def test_a_backup_that_starts_at_the_same_moment(host: Host) -> None:
    host.answer("run.rc", "exit 125")
    host.answer("run.err", 'docker: Conflict. The container name "/polls-backup" is already in use by container "1".\n')
    result = host.run("backup", "polls")
    assert (result.returncode, "runs already" in result.stderr) == (75, True)


@pytest.mark.parametrize("state", ["exited", "created", "dead"])
def test_what_a_reboot_left_is_removed(host: Host, state: str) -> None:
    host.answer("state", state)
    assert host.run("backup", "polls").returncode == 0
    assert host.calls()[1] == ["rm", "polls-backup"]


def test_a_hung_container_is_killed(host: Host) -> None:
    host.settings(keep=1, time_limit_seconds=-14)  # the grace of 15 s comes on top
    host.answer("run.rc", "exec sleep 30")
    start = time.monotonic()
    result = host.run("backup", "polls")
    assert (result.returncode, "was killed" in result.stderr) == (124, True)
    assert time.monotonic() - start < 10
    assert host.calls()[-2:] == [["kill", "polls-backup"], ["rm", "--force", "polls-backup"]]


def test_a_release_that_commits_meanwhile_is_backed_up_too(host: Host) -> None:
    record = host.root / "srv/web/polls/run/releases/7/release.json"
    host.answer("run.rc", f'sed -i \'s/"generation": 3/"generation": 4/\' {record}')
    assert host.run("backup", "polls").returncode == 0
    assert [call[0] for call in host.calls()] == ["container", "run", "container", "run"]


def test_a_destination_that_is_not_there(host: Host) -> None:
    host.backups.rmdir()
    result = host.run("backup", "polls")
    assert (result.returncode, "the destination is missing" in result.stderr) == (1, True)
    assert host.calls() == []


def test_sites_that_are_not_there(host: Host) -> None:
    result = host.run("status", "pols")
    assert (result.returncode, 'no site "pols" on this host. Sites: polls.' in result.stderr) == (2, True)
    assert "'../polls' is no site's name" in host.run("status", "../polls").stderr
    (host.root / "srv/web/polls/run/current").unlink()
    assert "no live release yet" in host.run("manage", "polls", "--", "check").stderr
    (host.root / "srv/config/polls/backup.json").unlink()
    assert "no backups set up" in host.run("backup", "polls").stderr


def test_status(host: Host) -> None:
    state = {"Status": "running", "StartedAt": "x", "ExitCode": 0, "OOMKilled": False}
    host.answer("inspect.json", json.dumps([{"State": state, "RestartCount": 1}]))
    for name in ("20261122T203000Z-r7", "20261121T203000Z-r6"):
        (host.backups / f"{name}.json").write_text(json.dumps({**MANIFEST, "id": name}), encoding="utf-8")
        (host.backups / f"{name}.sqlite3.zst").touch()
    (host.backups / "20261123T203000Z-r8.json").write_text("{}", encoding="utf-8")  # no archive: no backup
    found = json.loads(host.run("status", "polls").stdout)
    assert found["release"]["release"] == 7
    assert (found["container"]["name"], found["container"]["status"], found["container"]["restarts"]) == (
        "polls-7",
        "running",
        1,
    )
    assert (found["backup"]["id"], found["backups"]) == ("20261122T203000Z-r7", 2)
    assert abs(found["backup"]["age_seconds"] - (time.time() - 1795379400)) < 10


def test_status_of_a_container_that_is_gone(host: Host) -> None:
    found = json.loads(host.run("status", "polls").stdout)
    assert (found["container"], found["backup"]) == ({"name": "polls-7", "status": "missing"}, None)

"""The host command: management commands, jobs, one-shot containers, the status."""

from __future__ import annotations

import importlib
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.host.pretended_host import MANIFEST, SOURCE, Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_manage_passes_on_arguments_and_exit_status(host: Host) -> None:
    result = host.run("manage", "polls", "--", "shell", "-c", "print('a b')", "--version")
    assert result.returncode == 3
    assert host.docker_calls() == [
        ["exec", "--interactive", "polls-7", "python3", "manage.py", "shell", "-c", "print('a b')", "--version"]
    ]


def test_manage_without_a_command_shows_an_example(host: Host) -> None:
    result = host.run("manage", "polls")
    assert (result.returncode, "hostwright manage polls -- check --deploy" in result.stderr) == (2, True)


def test_backup_runs_one_hardened_container(host: Host) -> None:
    (host.root / "srv/web/polls/media").mkdir()
    result = host.run("backup", "polls")
    assert json.loads(result.stdout) == MANIFEST
    inspect, run = host.docker_calls()
    assert inspect[-1] == "polls-backup"
    text = " ".join(run)
    for part in (
        "--name polls-backup",
        "--label hostwright=backup --label hostwright.site=polls",
        "--user 10001:10001 --network none --read-only",
        "--cpu-shares 256 --ulimit core=0",
        "--cap-drop ALL --security-opt no-new-privileges",
        f"--mount type=bind,src={host.data},dst=/site/data --mount",
        f"src={host.config},dst=/site/config,readonly",
        f"src={host.run_directory},dst=/site/run,readonly",
        f"src={host.root}/srv/web/polls/media,dst=/site/media,readonly",
        f"src={host.backups},dst=/site/backups --",
        "HOSTWRIGHT_CONFIG=/site/config/releases/7.json sha256:abc backup --output /site/backups",
        '--record /site/run/releases/7/release.json --keep {"last": 24, "daily": 14, "weekly": 0} --level 3',
        "--time-limit 60 --media /site/media",
    ):
        assert part in text
    assert "/site/tls" not in text


def test_the_backup_container_sees_the_certificates(host: Host) -> None:
    pairs = host.root / "srv/nginx/tls/.pairs"
    for site in ("polls", "shop"):
        (pairs / site / "a").mkdir(parents=True)
        for name, mode in (("fullchain.pem", 0o644), ("privkey.pem", 0o400)):
            (pairs / site / "a" / name).write_text(f"{site} {name}\n")
            (pairs / site / "a" / name).chmod(mode)
        (pairs.parent / site).symlink_to(f".pairs/{site}/a")
    host.script(
        "run.rc",
        f"""
for word; do case "$word" in *dst=/site/tls,readonly)
    place=${{word#type=bind,src=}}; cd "${{place%%,*}}"; pwd; find . -type f -printf '%P %m ' -exec cat '{{}}' ';'
esac; done > {host.root}/seen""",
    )
    assert host.run("backup", "polls").returncode == 0
    place, *files = (host.root / "seen").read_text().splitlines()
    assert sorted(files) == [
        "polls/fullchain.pem 644 polls fullchain.pem", "polls/privkey.pem 400 polls privkey.pem",
    ]  # fmt: skip
    assert not Path(place).exists()


@pytest.mark.parametrize("state", ["running", "paused", "restarting"])
def test_a_running_backup_is_not_disturbed(host: Host, state: str) -> None:
    host.script("state", state)
    result = host.run("backup", "polls")
    assert (result.returncode, f"polls-backup is {state}" in result.stderr) == (75, True)
    assert len(host.docker_calls()) == 1


def test_a_backup_that_starts_at_the_same_time_is_reported_as_running(host: Host) -> None:
    host.script("run.rc", "exit 125")
    host.script("run.err", 'docker: Conflict. The container name "/polls-backup" is already in use by container "1".\n')
    result = host.run("backup", "polls")
    assert (result.returncode, "is already running" in result.stderr) == (75, True)


@pytest.mark.parametrize("state", ["exited", "created", "dead"])
def test_a_container_that_a_reboot_ended_is_removed(host: Host, state: str) -> None:
    host.script("state", state)
    assert host.run("backup", "polls").returncode == 0
    assert host.docker_calls()[1] == ["rm", "polls-backup"]


@pytest.mark.parametrize("verb", ["backup", "drill"])
def test_a_hung_container_is_killed(host: Host, verb: str) -> None:
    host.add_backup(100)
    host.settings(time_limit_seconds=-14)  # plus the grace of 15 s
    host.script("run.rc", "exec sleep 30")
    start = time.monotonic()
    result = host.run(verb, "polls")
    assert (result.returncode, "was killed" in result.stderr) == (124, True)
    assert time.monotonic() - start < 10
    assert host.docker_calls()[-2:] == [["kill", f"polls-{verb}"], ["rm", "--force", f"polls-{verb}"]]
    assert f"{verb} failed (exit status 124)" in host.log()


def test_a_release_that_commits_meanwhile_is_backed_up_too(host: Host) -> None:
    record = host.run_directory / "releases/7/release.json"
    host.script("run.rc", f'sed -i \'s/"generation": 3/"generation": 4/\' {record}')
    assert host.run("backup", "polls").returncode == 0
    assert [call[0] for call in host.docker_calls()] == ["container", "run", "container", "run"]


@pytest.mark.parametrize(
    "changes",
    [
        {"container": "--privileged"}, {"container": "hostwright-nginx"}, {"image_id": "--privileged"},
        {"image": "-v/:/x"}, {"configuration": "/etc/passwd"}, {"release": "../../x"}, {"site": "blog"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["backup", "job"])
def test_a_record_with_invalid_values_is_refused(host: Host, verb: str, changes: dict[str, str]) -> None:
    host.record(**changes)
    result = host.run(verb, "polls", *(["tidy"] if verb == "job" else []))
    assert result.returncode == 1
    for part in ("release.json", next(iter(changes)), "owner root and mode 0644"):
        assert part in result.stderr
    assert host.docker_calls() == []


@pytest.mark.parametrize("planted", ["link", "pipe", "writable"])
def test_a_record_that_others_can_write_is_refused(host: Host, planted: str) -> None:
    path = host.run_directory / "releases/7/release.json"
    if planted == "writable":
        path.chmod(0o664)
    else:
        path.rename(host.root / "elsewhere")
        path.symlink_to(host.root / "elsewhere") if planted == "link" else os.mkfifo(path)
    result = host.run("manage", "polls", "--", "check")
    assert (result.returncode, "owner root and mode 0644" in result.stderr) == (1, True)
    assert host.docker_calls() == []


def test_a_missing_destination_is_refused(host: Host) -> None:
    host.backups.rmdir()
    result = host.run("backup", "polls")
    assert (result.returncode, "the destination is missing" in result.stderr) == (1, True)
    assert host.docker_calls() == []


def test_missing_sites_and_settings_are_refused(host: Host) -> None:
    result = host.run("status", "pols")
    assert (result.returncode, 'no site "pols" on this host. Sites: polls.' in result.stderr) == (2, True)
    assert "'../polls' is not a site name" in host.run("status", "../polls").stderr
    (host.run_directory / "current").unlink()
    assert "no live release yet" in host.run("manage", "polls", "--", "check").stderr
    (host.config / "backup.json").unlink()
    assert "no backups configured" in host.run("backup", "polls").stderr


def test_without_the_private_settings_no_backup_is_made(host: Host) -> None:
    (host.root / "etc/polls.json").unlink()
    result = host.run("backup", "polls")
    assert (result.returncode, "etc/polls.json is missing" in result.stderr) == (1, True)


def running(host: Host) -> None:
    state = {"Status": "running", "StartedAt": "x", "ExitCode": 0, "OOMKilled": False}
    host.script("inspect.json", json.dumps([{"State": state, "RestartCount": 1}]))


def test_status(host: Host) -> None:
    running(host)
    host.add_backup(90000, release=6)
    newest = host.add_backup(100)
    found = json.loads(host.run("status", "polls").stdout)
    assert found["release"]["release"] == 7
    assert (found["container"]["name"], found["container"]["status"], found["container"]["restarts"]) == (
        "polls-7",
        "running",
        1,
    )
    assert (found["backup"]["id"], found["backups"], found["problems"]) == (newest, 2, {})
    assert 100 <= found["backup"]["age_seconds"] < 110


def test_a_backup_without_a_matching_seal_is_not_listed(host: Host) -> None:
    good, changed, unsealed = host.add_backup(300), host.add_backup(200), host.add_backup(100)
    path = host.backups / f"{changed}.json"
    path.write_text(path.read_text(encoding="utf-8").replace("4096", "4097"), encoding="utf-8")
    (host.backups / f"{unsealed}.json.sha256").unlink()
    assert [one["id"] for one in json.loads(host.run("backups", "polls", "--json").stdout)] == [good]


def test_status_of_a_missing_container(host: Host) -> None:
    found = json.loads(host.run("status", "polls").stdout)
    assert (found["container"], found["backup"]) == ({"name": "polls-7", "status": "missing"}, None)


def test_the_page_has_80_columns_and_fails_if_there_is_a_problem(host: Host) -> None:
    running(host)
    host.add_backup(100)
    page = host.run("status", "polls", "--page")
    assert (page.returncode, page.stderr) == (0, "")
    assert "polls: release 7, version 1.0, container polls-7 running" in page.stdout
    assert "database 4.1 kB, 1.0 kB" in page.stdout
    assert max(map(len, page.stdout.splitlines())) <= 80
    (host.bin / "inspect.json").unlink()
    (host.config / "backup.json").unlink()
    page = host.run("status", "polls", "--page")
    assert page.returncode == 1
    assert "WRONG     The container polls-7 is missing." in page.stdout
    assert "WRONG     No backups are set up" in page.stdout


def certificate(host: Host, days: float, **facts: str) -> str:
    """Write the status of a certificate; return the problems that the command reports."""
    directory = host.root / "srv/nginx/tls"
    directory.mkdir(parents=True, exist_ok=True)
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + days * 86400))
    known = {"kind": "acme", "names": ["example.org"], "directory": "https://ca.example/", "expires": expires, **facts}
    (directory / "status.json").write_text(json.dumps({"polls": known, "shop": {"expires": "never"}}))
    found = json.loads(host.run("status", "polls").stdout)
    assert found["certificate"] == known
    return "; ".join(found["problems"].values())


def test_the_status_reports_the_certificate(host: Host) -> None:
    running(host)
    host.add_backup(100)
    assert certificate(host, 15) == ""
    page = " ".join(host.run("status", "polls", "--page").stdout.split())
    assert "TLS certificate for example.org from https://ca.example/, until 20" in page
    assert ", in 13 d" in certificate(host, 13.5)
    assert ", 1 d 12 h ago." in certificate(host, -1.5)
    problems = certificate(host, 40, error="No new certificate from https://ca.example/: it\n is down", tried="then")
    assert problems == "No new certificate from https://ca.example/: it is down (tried then)"
    assert host.run("status", "polls", "--page").returncode == 1


def test_the_table(host: Host) -> None:
    assert host.run("backups", "polls").stdout == "There is no backup of polls yet.\n"
    old, new = host.add_backup(90061, release=6), host.add_backup(100)
    head, *rows = host.run("backups", "polls").stdout.splitlines()
    assert head.split() == ["BACKUP", "AGE", "DATABASE", "PACKED", "MEDIA", "ROWS"]
    assert [row.split()[0] for row in rows] == [new, old]
    assert "1 d 1 h" in rows[1]


def test_a_file_removed_while_sizes_are_read_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A backup is being made or removed while the watch runs.
    monkeypatch.syspath_prepend(SOURCE)
    store = importlib.import_module("hostwright_host.store")
    (tmp_path / "here").write_bytes(b"123")
    directory = SimpleNamespace(glob=lambda _: [tmp_path / "gone", tmp_path / "here"])
    assert store.stored_bytes(directory, []) == 3


def test_verify_reports_damaged_backups(host: Host) -> None:
    name = host.add_backup(100)
    host.script("run.out", json.dumps({"verified": [name], "wrong": []}) + "\n")
    assert host.run("verify", "polls", name).returncode == 0
    assert host.docker_calls()[-1][-4:] == ["verify", "--output", "/site/backups", name]
    assert f"type=bind,src={host.backups},dst=/site/backups,readonly" in host.docker_calls()[-1]
    wrong = {"verified": [], "wrong": [{"id": name, "problem": "a byte"}]}
    host.script("run.out", json.dumps(wrong) + "\n")
    host.script("run.rc", "exit 1")
    result = host.run("verify", "polls")
    assert (result.returncode, json.loads(result.stdout)) == (1, wrong)

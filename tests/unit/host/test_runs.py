"""The runs that cron starts: reports of backups, drills and alarms, and the off-site repository."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.unit.host.pretended_host import Host, listening

HOUR, DAY = 3600, 24 * 3600


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def memory(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((host.root / "state/polls/backup.json").read_text(encoding="utf-8"))
    return found


def remember(host: Host, **facts: Any) -> None:
    path = host.root / "state/polls/backup.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts), encoding="utf-8")


class TestBackup:
    def test_quiet_prints_nothing_but_logs(self, host: Host) -> None:
        name = host.will_back_up()
        result = host.run("backup", "polls", "--quiet")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert f"backup {name} verified in" in host.log()

    def test_a_failure_is_printed_logged_and_stored(self, host: Host) -> None:
        host.script("run.rc", "exit 1")
        host.script("run.err", "hostwright backup: /site/backups: the destination is full.\n")
        result = host.run("backup", "polls", "--quiet")
        assert result.returncode == 1
        assert result.stderr == "hostwright backup polls: hostwright backup: /site/backups: the destination is full.\n"
        assert "backup failed (exit status 1): hostwright backup: /site/backups: the destination is full." in host.log()
        assert (memory(host)["backup"]["ok"], host.status()["last_run"]["ok"]) == (False, False)

    def test_warnings_of_the_runtime_are_printed_and_logged(self, host: Host) -> None:
        host.will_back_up()
        host.script("run.err", "one file vanished\n")
        assert host.run("backup", "polls", "--quiet").stderr == "one file vanished\n"
        assert "one file vanished" in host.log()

    def test_a_run_that_overlaps_another_does_nothing(self, host: Host) -> None:
        lock = host.root / "state/polls/backup.lock"
        lock.parent.mkdir(parents=True)
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            result = host.run("backup", "polls")
        assert (result.returncode, "is already running" in result.stderr) == (75, True)
        assert (host.docker_calls(), host.log()) == ([], "")  # not a failure

    def test_a_run_that_the_runtime_finds_in_progress_is_not_a_failure(self, host: Host) -> None:
        host.script("run.rc", "exit 75")
        host.script("run.err", "this database generation is being removed\n")
        result = host.run("backup", "polls")
        assert (result.returncode, "is being removed" in result.stderr, host.log()) == (75, True, "")

    def test_the_log_is_rotated_and_the_old_one_kept(self, host: Host) -> None:
        host.will_back_up()
        (host.backups / "log").write_text("x" * 1_000_001, encoding="utf-8")
        host.run("backup", "polls")
        assert (host.backups / "log.1").stat().st_size == 1_000_001
        assert host.log().count("\n") == 1

    def test_a_symlink_that_the_site_made_is_not_followed(self, host: Host) -> None:
        host.will_back_up()
        victim = host.root / "victim"
        victim.write_text("precious", encoding="utf-8")
        for name in ("log", "status.json", ".status.json.new"):
            (host.backups / name).symlink_to(victim)
        assert host.run("backup", "polls").returncode == 0
        assert victim.read_text(encoding="utf-8") == "precious"
        assert not (host.backups / "status.json").is_symlink()

    def test_a_pipe_that_the_site_made_does_not_block(self, host: Host) -> None:
        host.will_back_up()
        for name in ("log", "x.json.sha256", "hostwright.prom"):
            os.mkfifo(host.backups / name)
        (host.backups / ".status.json.new").mkdir()
        assert host.run("backup", "polls").returncode == 0
        assert (host.backups / "hostwright.prom").is_file()
        assert (host.backups / "status.json").is_file()

    def test_hooks_run_first_with_the_sites_name(self, host: Host) -> None:
        host.will_back_up()
        host.private(pre_hooks=[f'echo "$HOSTWRIGHT_SITE" > {host.root}/hooked; test ! -e {host.bin}/calls'])
        assert host.run("backup", "polls").returncode == 0
        assert (host.root / "hooked").read_text(encoding="utf-8") == "polls\n"

    def test_a_failing_hook_fails_the_backup(self, host: Host) -> None:
        host.will_back_up()
        host.private(pre_hooks=["echo no disk; exit 3", f"touch {host.root}/second"])
        result = host.run("backup", "polls")
        assert (result.returncode, "exit status 3: echo no disk; exit 3\nno disk" in result.stderr) == (1, True)
        assert (host.docker_calls(), (host.root / "second").exists()) == ([], False)

    def test_a_hook_that_hangs_is_ended(self, host: Host) -> None:
        host.settings(time_limit_seconds=1)
        host.private(pre_hooks=["exec sleep 30"])
        assert host.run("backup", "polls").returncode == 124


class TestHeartbeat:
    def test_the_success_url_is_called_only_after_success(self, host: Host) -> None:
        host.will_back_up()
        with listening() as (url, paths):
            host.private(heartbeat_url=url, heartbeat_fail_url=f"{url}/fail")
            host.run("backup", "polls")
            assert paths == ["/beat"]
            host.script("run.rc", "exit 1")
            host.run("backup", "polls")
            assert paths == ["/beat", "/beat/fail"]

    def test_no_url_is_called_if_another_run_is_in_progress(self, host: Host) -> None:
        host.script("state", "running")
        with listening() as (url, paths):
            host.private(heartbeat_url=url, heartbeat_fail_url=f"{url}/fail")
            assert host.run("backup", "polls").returncode == 75
            assert paths == []

    def test_a_heartbeat_that_fails_is_logged_and_fails_nothing(self, host: Host) -> None:
        host.will_back_up()
        with listening(503) as (url, paths):
            host.private(heartbeat_url=f"{url}/secret", heartbeat_fail_url="")
            result = host.run("backup", "polls", "--quiet")
            assert len(paths) == 3  # tries
        assert (result.returncode, result.stderr) == (0, "")
        assert "the heartbeat could not be sent: HTTP Error 503" in host.log()
        assert "secret" not in host.log()


class TestOffsite:
    @pytest.fixture
    def name(self, host: Host) -> str:
        host.private(offsite={"repository": "sftp:u@h:/r", "options": ["sftp.args=-p 23"], "environment": {"EXTRA": 1}})
        return host.will_back_up()

    def test_the_backup_is_sent_and_then_old_ones_are_removed(self, host: Host, name: str) -> None:
        assert host.run("backup", "polls").returncode == 0
        sent, forgotten = host.restic_calls()
        before = "sftp:u@h:/r password 1: --option sftp.args=-p 23"
        taken = f"{name[:4]}-{name[4:6]}-{name[6:8]} {name[9:11]}:{name[11:13]}:{name[13:15]}"
        files = " ".join(f"{name}{end}" for end in (".json", ".json.sha256", ".sqlite3.zst"))
        assert sent == f"{before} backup --json --tag hostwright-polls --time {taken} -- {files}"
        assert forgotten == (
            f"{before} forget --prune --tag hostwright-polls --group-by host,tags --keep-last 24 --keep-daily 14"
        )
        assert memory(host)["offsite"]["id"] == name

    def test_old_ones_are_removed_once_a_day(self, host: Host, name: str) -> None:
        assert name
        for _ in range(2):
            host.run("backup", "polls")
        assert [line.split()[6] for line in host.restic_calls()] == ["backup", "forget", "backup"]

    def test_a_repository_is_made_once(self, host: Host, name: str) -> None:
        host.script(
            "restic.rc",
            'case "$*" in *init*) touch "$here/made";; *) test -e "$here/made" || '
            '{ echo "Is there a repository at the following location?" >&2; exit 1; };; esac',
        )
        assert host.run("backup", "polls").returncode == 0
        assert [line.split()[6] for line in host.restic_calls()[:3]] == ["backup", "init", "backup"]
        assert name in host.restic_calls()[2]
        # A repository that disappears is not made again: an unmounted disk has the same symptom.
        (host.bin / "made").unlink()
        before = len(host.restic_calls())
        result = host.run("backup", "polls")
        assert (result.returncode, "which was there before, is gone" in result.stderr) == (1, True)
        assert [line.split()[6] for line in host.restic_calls()[before:]] == ["backup"]

    def test_a_lock_that_a_killed_run_left_is_removed(self, host: Host, name: str) -> None:
        assert name
        locked = "{ echo 'unable to create lock: repository is already locked exclusively by PID 1' >&2; exit 1; }"
        host.script(
            "restic.rc", f'case "$*" in *unlock*) touch "$here/free";; *) test -e "$here/free" || {locked};; esac'
        )
        assert host.run("backup", "polls").returncode == 0
        assert [line.split()[6] for line in host.restic_calls()] == ["backup", "unlock", "backup", "forget"]
        # It waits for the lock of a run on another host.
        (host.bin / "free").unlink()
        unlock = 'echo >> "$here/tries"; test $(wc -l < "$here/tries") -lt 3 || touch "$here/free"'
        host.script("restic.rc", f'case "$*" in *unlock*) {unlock};; *) test -e "$here/free" || {locked};; esac')
        assert host.run("backup", "polls").returncode == 0

    def test_an_upload_waits_for_a_check(self, host: Host, name: str) -> None:
        assert name
        host.script(
            "restic.rc",
            'case "$*" in *check*) touch "$here/on"; sleep 1; rm "$here/on";; *) test ! -e "$here/on";; esac || exit 1',
        )
        with ThreadPoolExecutor() as pool:
            check = pool.submit(host.run, "offsite-check", "polls")
            while not (host.bin / "on").exists() and not check.done():
                time.sleep(0.01)
            assert host.run("backup", "polls").returncode == 0
            assert check.result().returncode == 0

    def test_a_failed_upload_is_a_failed_backup(self, host: Host, name: str) -> None:
        error = '{"message_type": "exit_error", "code": 1, "message": "Fatal: connection refused\\nby it"}'
        host.script("restic.rc", f"echo '{error}' >&2; exit 1")
        with listening() as (url, paths):
            host.private(
                heartbeat_url=url, heartbeat_fail_url=f"{url}/fail", offsite={"repository": "r", "environment": {}}
            )
            result = host.run("backup", "polls", "--quiet")
            assert paths == ["/beat/fail"]
        assert result.returncode == 1
        assert f"The backup {name} was made and verified, but is not off-site" in result.stderr
        assert "Fatal: connection refused\n" in host.log()
        assert "offsite" not in memory(host)

    def test_an_upload_that_hangs_is_ended(self, host: Host, name: str) -> None:
        assert name
        host.settings(time_limit_seconds=1)
        host.script("restic.rc", "exec sleep 30")
        assert host.run("backup", "polls").returncode == 124

    def test_only_a_sealed_backup_is_sent(self, host: Host, name: str) -> None:
        (host.backups / f"{name}.json.sha256").unlink()
        result = host.run("backup", "polls")
        assert (result.returncode, "its seal does not match" in result.stderr) == (1, True)
        assert host.restic_calls() == []

    def test_the_check_reads_a_part_of_the_data_and_reports_damage(self, host: Host, name: str) -> None:
        assert name
        assert host.run("offsite-check", "polls").returncode == 0
        assert re.search(r"check --read-data-subset=[1-8]/8$", host.restic_calls()[-1])
        host.script("restic.rc", "echo pack is damaged; exit 1")
        result = host.run("offsite-check", "polls")
        assert (result.returncode, "pack is damaged" in result.stderr) == (1, True)
        assert "pack is damaged" in host.status()["problems"]["offsite_check"]

    def test_a_missing_off_site_backup_is_a_problem(self, host: Host, name: str) -> None:
        host.set_up_ago(3 * HOUR)
        result = host.run("watch", "polls")
        assert (result.returncode, "No fresh backup is off-site: none has been sent" in result.stderr) == (1, True)
        host.run("backup", "polls")
        assert host.status()["problems"] == {}
        assert host.status()["offsite"]["id"] == name


class TestDrill:
    ANSWER = '{"id": "%s", "seconds": {"restore": 1, "boot": 1, "total": 2.5}}\n'

    def test_it_restores_the_newest_backup_and_an_older_one(self, host: Host) -> None:
        old, new = host.add_backup(2 * DAY), host.add_backup(100)
        host.script("run.out", self.ANSWER % new)
        result = host.run("drill", "polls")
        assert result.returncode == 0
        runs = [call for call in host.docker_calls() if call[0] == "run"]
        assert [run[run.index("--backup") + 1] for run in runs] == [new, old]
        text = " ".join(runs[0])
        for part in (
            "--name polls-drill",
            "--network none --read-only",
            f"type=bind,src={host.backups}/{new}.json,dst=/site/backups/{new}.json,readonly",
            f"type=bind,src={host.data}/drill,dst=/site/scratch --env",
            f"drill --output /site/backups --backup {new} --scratch /site/scratch",
        ):
            assert part in text
        for part in ("dst=/site/data", "dst=/run/secrets"):
            assert part not in text
        assert not (host.data / "drill").exists()
        drill = host.status()["drill"]
        assert (drill["ok"], drill["recovery"], len(drill["backups"])) == (True, 2.5, 2)

    def test_the_release_it_boots_has_its_secrets(self, host: Host) -> None:
        secrets = host.root / "run/polls/7"
        secrets.mkdir(parents=True)
        host.script("run.out", self.ANSWER % host.add_backup(100))
        assert host.run("drill", "polls").returncode == 0
        (run,) = (call for call in host.docker_calls() if call[0] == "run")
        assert f"type=bind,src={secrets},dst=/run/secrets,readonly" in run

    def test_it_sees_neither_secrets_at_rest_nor_other_backups(self, host: Host) -> None:
        old, new = host.add_backup(2 * DAY), host.add_backup(100)
        host.script("run.out", self.ANSWER % new)
        assert host.run("drill", "polls").returncode == 0
        run, _ = (call for call in host.docker_calls() if call[0] == "run")
        sources = [Path(word.split(",")[1].removeprefix("src=")) for word in run if word.startswith("type=bind,")]
        for hidden in (host.config / "secrets", host.backups / f"{old}.json"):
            assert not [source for source in sources if source in (hidden, *hidden.parents)]
        assert host.config / "releases/7.json" in sources
        assert {source.name for source in sources if source.parent == host.backups} == {
            f"{new}.json", f"{new}.json.sha256", f"{new}.sqlite3.zst"
        }  # fmt: skip

    def test_the_scratch_directory_is_empty_and_is_removed_after_a_failure(self, host: Host) -> None:
        host.add_backup(100)
        (host.data / "drill").mkdir()
        (host.data / "drill/left").touch()
        host.script("run.rc", f'ls -A {host.data}/drill > "$here/seen"; touch {host.data}/drill/db.sqlite3; exit 1')
        assert host.run("drill", "polls").returncode == 1
        assert (host.bin / "seen").read_text(encoding="utf-8") == ""
        assert not (host.data / "drill").exists()

    def test_a_very_deep_scratch_directory_is_removed(self, host: Host) -> None:
        host.add_backup(100)
        deep = "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')"
        host.script("run.rc", f'cd {host.data}/drill && {sys.executable} -c "{deep}"; exit 1')
        assert host.run("drill", "polls").returncode == 1
        left = (host.data / "drill").exists()
        subprocess.run(["rm", "-rf", "--", host.data / "drill"], check=True)  # it is too deep for pytest
        assert not left

    def test_a_failure_is_reported_like_a_failed_backup(self, host: Host) -> None:
        name = host.add_backup(100)
        host.script("run.rc", "exit 1")
        host.script("run.err", "3 rows of polls_choice instead of 4\n")
        with listening() as (url, paths):
            host.private(heartbeat_url=url, heartbeat_fail_url=f"{url}/fail")
            result = host.run("drill", "polls", "--quiet")
            assert paths == ["/beat/fail"]
        assert result.returncode == 1
        assert f"{name} could not be restored and booted: 3 rows of polls_choice instead of 4" in result.stderr
        assert "drill failed" in host.log()
        assert "3 rows of polls_choice instead of 4" in host.status()["problems"]["drill"]
        assert 'hostwright_drill_last_run_success{site="polls"} 0\n' in (host.backups / "hostwright.prom").read_text()

    def test_a_drill_without_backups_fails(self, host: Host) -> None:
        result = host.run("drill", "polls")
        assert (result.returncode, "there is no backup" in result.stderr) == (1, True)

    def test_a_drill_without_enough_space_fails(self, host: Host) -> None:
        host.add_backup(100, database={"bytes": 1 << 60})
        result = host.run("drill", "polls")
        assert (result.returncode, "not enough space" in result.stderr) == (1, True)
        assert host.docker_calls() == []

    def test_an_older_backup_that_retention_removes_meanwhile_is_skipped(self, host: Host) -> None:
        old, new = host.add_backup(2 * DAY), host.add_backup(100)
        host.script("run.out", self.ANSWER % new)
        host.script("run.rc", f'case "$*" in *{old}*) rm {host.backups}/{old}.*; exit 1;; esac; exit 0')
        assert host.run("drill", "polls").returncode == 0
        assert len(host.status()["drill"]["backups"]) == 1


class TestWatch:
    def test_without_problems_nothing_is_printed_or_logged(self, host: Host) -> None:
        host.add_backup(HOUR)
        result = host.run("watch", "polls")
        assert (result.returncode, result.stdout, result.stderr, host.log()) == (0, "", "", "")
        assert host.status()["problems"] == {}

    def test_an_alarm_at_twice_the_interval_and_the_duration(self, host: Host) -> None:
        host.add_backup(2 * HOUR - 20)
        assert host.run("watch", "polls").returncode == 0
        for path in host.backups.glob("*-r7.*"):
            path.unlink()
        host.add_backup(2 * HOUR + 20, seconds={"total": 60})
        assert host.run("watch", "polls").returncode == 0
        for path in host.backups.glob("*-r7.*"):
            path.unlink()
        name = host.add_backup(2 * HOUR + 20)
        result = host.run("watch", "polls")
        assert result.returncode == 1
        assert f"The newest verified backup, {name}, is 2 h old; one is due every 1 h." in result.stderr

    def test_an_alarm_is_reported_at_a_change_and_once_a_day_but_always_logged(self, host: Host) -> None:
        host.add_backup(5 * HOUR)
        with listening() as (url, paths):
            host.private(heartbeat_url=url, heartbeat_fail_url=f"{url}/fail")
            results = [host.run("watch", "polls") for _ in range(3)]
            assert [bool(one.stderr) for one in results] == [True, False, False]
            assert [one.returncode for one in results] == [1, 1, 1]
            assert host.log().count("is 5 h old") == 3
            assert paths == ["/beat/fail"]
            alarm = memory(host)["alarm"]
            remember(host, alarm={**alarm, "told": alarm["told"] - DAY})
            assert host.run("watch", "polls").stderr
            remember(host, **memory(host), drill={"ok": False, "message": "it broke"})
            assert "it broke" in host.run("watch", "polls").stderr
            assert paths == ["/beat/fail"] * 3

    def test_the_end_of_an_alarm_is_reported_once(self, host: Host) -> None:
        host.add_backup(5 * HOUR)
        host.run("watch", "polls")
        host.add_backup(10)
        results = [host.run("watch", "polls") for _ in range(2)]
        assert [one.returncode for one in results] == [0, 0]
        assert "The alarm has ended" in results[0].stdout
        assert results[1].stdout == ""

    def test_before_the_first_backup_the_age_counts_from_the_settings(self, host: Host) -> None:
        assert host.run("watch", "polls").returncode == 0
        host.set_up_ago(3 * HOUR)
        assert "No backup has been made since they were set up 3 h ago" in host.run("watch", "polls").stderr

    def test_drills_that_stopped_are_a_problem(self, host: Host) -> None:
        host.add_backup(10)
        host.set_up_ago(3 * DAY)
        assert "There was no drill in 3 d; one is due every 1 d." in host.run("watch", "polls").stderr
        remember(host, drill={"ok": True, "moment": time.time() - 1.5 * DAY})
        assert host.run("watch", "polls").returncode == 0
        remember(host, drill={"ok": True, "moment": time.time() - 5 * DAY})
        assert "The last drill was 5 d ago" in host.run("watch", "polls").stderr
        host.settings(drill_interval_seconds=0)
        assert host.run("watch", "polls").returncode == 0

    def test_a_backup_ahead_of_the_clock_is_a_problem(self, host: Host) -> None:
        host.add_backup(-2 * HOUR)
        assert "ahead of this host's clock" in host.run("watch", "polls").stderr

    def test_an_unmounted_destination_is_a_problem(self, host: Host) -> None:
        host.backups.rmdir()
        assert "is missing: mount it" in host.run("watch", "polls").stderr


class TestReports:
    def test_metrics_are_written_for_node_exporter(self, host: Host) -> None:
        directory = host.root / "textfile"
        directory.mkdir()
        host.settings(metrics_directory=str(directory))
        host.will_back_up()
        host.run("backup", "polls")
        text = (directory / "hostwright_polls.prom").read_text(encoding="utf-8")
        assert text == (host.backups / "hostwright.prom").read_text(encoding="utf-8")
        assert (directory / "hostwright_polls.prom").stat().st_mode & 0o777 == 0o644
        values = dict(re.findall(r'^hostwright_(\w+)\{site="polls"\} (\S+)$', text, re.MULTILINE))
        assert abs(float(values["backup_newest_timestamp_seconds"]) - time.time()) < 10
        assert values["backup_database_bytes"] == "4096"
        assert values["backups"] == values["backup_last_run_success"] == "1"
        assert "drill_last_run_success" not in values
        for line in text.splitlines():
            assert re.fullmatch(r'# (HELP|TYPE) hostwright_\w+ .+|hostwright_\w+\{site="polls"\} [0-9.e+]+', line)

    def test_the_state_is_written_for_the_readiness_probe(self, host: Host) -> None:
        host.add_backup(100)
        host.run("watch", "polls")
        found = json.loads((host.run_directory / "backup.json").read_text(encoding="utf-8"))
        assert abs(time.time() - found["time"] - 100) < 10
        assert (found["stale_after_seconds"], found["drill"]) == (2 * HOUR + 2, None)
        assert (host.run_directory / "backup.json").stat().st_mode & 0o777 == 0o644

    def test_a_report_that_cannot_be_written_fails_nothing(self, host: Host) -> None:
        host.settings(metrics_directory=str(host.root / "nowhere"))
        host.will_back_up()
        assert host.run("backup", "polls").returncode == 0
        assert "nowhere/hostwright_polls.prom cannot be written" in host.log()

    def test_a_file_that_backups_share_is_counted_once(self, host: Host) -> None:
        host.add_backup(2 * HOUR, media={"bytes": 1_000_000, "new_bytes": 5_000_000})
        host.run("watch", "polls")
        before = host.status()["stored_bytes"]
        assert 1_000_000 < before < 1_010_000
        name = host.add_backup(HOUR, media={"bytes": 1_020_000, "new_bytes": 20_000})
        (host.backups / f"{name}.sqlite3.zst").unlink()
        (host.backups / f"{name}.sqlite3.zst").hardlink_to(next(host.backups.glob("*.zst")))
        path = host.backups / f"{name}.media"
        path.mkdir()
        (path / "picture").write_bytes(b"x" * 50_000)  # not counted: the manifest has the size of new files
        host.run("watch", "polls")
        assert 20_000 < host.status()["stored_bytes"] - before < 25_000

    def test_fresh_fails_only_for_stale_backups(self, host: Host) -> None:
        host.add_backup(100)
        assert host.run("backups", "polls", "--fresh").returncode == 0
        for path in host.backups.glob("*-r7.*"):
            path.unlink()
        host.add_backup(5 * HOUR)
        result = host.run("backups", "polls", "--fresh")
        assert (result.returncode, "is 5 h old" in result.stderr) == (1, True)
        (host.config / "backup.json").unlink()
        assert host.run("backups", "polls", "--fresh").returncode == 0

    @pytest.mark.parametrize("change", [{"format": 1}, {"id": "20261122T120000Z-r1"}, {"archive": None}])
    def test_a_backup_that_a_restore_would_refuse_is_not_fresh(self, host: Host, change: dict[str, Any]) -> None:
        good, other = host.add_backup(3 * HOUR), host.add_backup(100, **change)
        stale = host.run("backups", "polls", "--fresh")
        assert (stale.returncode, f"The newest verified backup, {good}, is 3 h" in stale.stderr) == (1, True)
        assert f"not usable: {other}" in stale.stderr
        assert host.run("backups", "polls").stdout.splitlines()[-1].startswith(f"{other} not usable: it")
        found = json.loads(host.run("status", "polls").stdout)
        assert (found["backup"]["id"], list(found["unusable"])) == (good, [other])
        assert f"not usable: {other}" in " ".join(host.run("status", "polls", "--page").stdout.split())

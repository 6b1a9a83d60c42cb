"""The role backup: it refuses invalid values without showing secrets, and writes the requested settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
SECRET = "dont-tell"
OFFSITE = {"repository": f"rest:https://user:{SECRET}@vault/", "password": SECRET}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("schedule", {"backup_schedule": "61 * * * *"}, "backup_schedule: The minute '61'"),
    ("drill", {"backup_drill_schedule": "* * *"}, "backup_drill_schedule: '* * *' has 3 fields"),
    ("watch", {"backup_watch_schedule": "never"}, "backup_watch_schedule: 'never' has 1 fields"),
    ("site", {"backup_site": "../polls"}, "backup_site: '../polls'"),
    ("keep nothing", {"backup_keep": {"last": 0}}, "backup_keep: {'last': 0} must give"),
    ("keep fewer", {"backup_keep": {"last": 9, "daily": -1}}, "backup_keep:"),
    ("keep words", {"backup_keep": {"last": "many"}}, "backup_keep:"),
    ("keep as before", {"backup_keep": 48}, "backup_keep: 48 must give"),
    ("keep years", {"backup_keep": {"last": 1, "yearly": 1}}, "(last, hourly, daily, weekly, monthly)"),
    ("level", {"backup_compression_level": 20}, "backup_compression_level: 20"),
    ("time", {"backup_time_limit_seconds": 0}, "backup_time_limit_seconds: 0"),
    ("directory", {"backup_directory": "backups"}, "backup_directory: 'backups'"),
    ("own directory", {"backup_directory": "/srv/hostwright/x"}, "backup_directory: '/srv/hostwright/x'"),
    ("metrics", {"backup_metrics_directory": "x"}, "backup_metrics_directory: 'x'"),
    ("mail", {"backup_mail_to": 'a"\nb'}, "backup_mail_to:"),
    ("heartbeat", {"backup_heartbeat_url": f"ftp://{SECRET}"}, "backup_heartbeat_url: this and"),
    ("login", {"backup_heartbeat_url": f"https://user:{SECRET}@hc.example.org/"}, "backup_heartbeat_url: this and"),
    ("fail URL", {"backup_heartbeat_fail_url": SECRET}, "backup_heartbeat_url: this and"),
    ("password", {"backup_offsite": {**OFFSITE, "password": ""}}, "backup_offsite: repository and"),
    ("no password", {"backup_offsite": {**OFFSITE, "password": None}}, "backup_offsite: repository and"),
    ("repository", {"backup_offsite": {"password": SECRET}}, "backup_offsite: repository and"),
    ("check", {"backup_offsite": {**OFFSITE, "check_schedule": "61 * * * *"}}, "backup_offsite.check_schedule: The"),
]
RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("defaults", {}),
    (
        "all of it",
        {
            "backup_schedule": "*/30 6-21 * * *",
            "backup_drill_schedule": "",
            "backup_watch_schedule": "",
            "backup_keep": {"last": 3, "daily": "7"},
            "backup_mail_to": "a@example.org,b@example.org",
            "backup_heartbeat_url": "https://hc.example.org/uuid/",
            "backup_offsite": {**OFFSITE, "options": ["sftp.args=-p 23"], "environment": {"KEY": "x"}},
            "backup_pre_hooks": ["true"],
        },
    ),
    ("a query", {"backup_heartbeat_url": "https://up.example.org/push/token?status=up"}),
]
# One host for each case; one file collects the role's results.
PLAYBOOK = """\
- hosts: all
  gather_facts: false
  connection: local
  vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - block:
        - ansible.builtin.include_role: {name: hostwright.django.backup, tasks_from: preflight, public: true}
        - ansible.builtin.set_fact:
            out:
              settings: "{{ __backup_settings | string }}"
              cron: "{{ __backup_cron }}"
              files: "{{ __backup_private_files }}"
      rescue:
        - ansible.builtin.set_fact:
            out:
              problem: "{{ ansible_failed_result.msg }}"
    - ansible.builtin.copy:
        content: "{{ dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, 'out'))) | to_json }}"
        dest: "{{ playbook_dir }}/results.json"
        mode: "0600"
      run_once: true
"""


@pytest.fixture(scope="module")
def output_and_results(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, dict[str, Any]]]:
    """The output of a run, and the role's result for each case."""
    directory = tmp_path_factory.mktemp("check")
    cases = [(name, variables) for name, variables, _ in WRONG] + RIGHT
    hosts = {name.replace(" ", "_"): {"backup_site": "polls", **variables} for name, variables in cases}
    (directory / "templates").symlink_to(PROJECT / "roles/backup/templates")
    (directory / "play.yml").write_text(PLAYBOOK, encoding="utf-8")
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}), encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", "hosts.yml", "play.yml"],
        cwd=directory, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    return done.stdout, {name.replace("_", " "): result for name, result in found.items()}


@pytest.fixture
def results(output_and_results: tuple[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The role's result for each case."""
    return output_and_results[1]


@pytest.mark.parametrize(("name", "words"), [(name, words) for name, _, words in WRONG])
def test_an_invalid_value_is_refused(results: dict[str, dict[str, Any]], name: str, words: str) -> None:
    assert words in results[name]["problem"]
    assert "Nothing was changed." in results[name]["problem"]


def test_messages_show_no_secret(output_and_results: tuple[str, dict[str, dict[str, Any]]]) -> None:
    output, results = output_and_results
    assert "backup_offsite: repository and" in output
    assert SECRET not in output
    assert not [name for name, _, _ in WRONG if SECRET in str(results[name])]


def test_defaults(results: dict[str, dict[str, Any]]) -> None:
    found = results["defaults"]
    settings = json.loads(found["settings"])
    assert (settings["interval_seconds"], settings["drill_interval_seconds"]) == (3600, 86400)
    assert settings["keep"] == {"last": 24, "hourly": 48, "daily": 14, "weekly": 8, "monthly": 12}
    assert settings["directory"] == "/var/backups/hostwright/polls"
    assert [file["path"] for file in found["files"]] == ["/etc/hostwright/polls.json"]
    assert [line.split(" root ")[1] for line in found["cron"].splitlines() if " root " in line] == [
        "/usr/local/sbin/hostwright backup polls --quiet",
        "/usr/local/sbin/hostwright drill polls --quiet",
        "/usr/local/sbin/hostwright watch polls",
    ]
    assert 'MAILTO="root"' in found["cron"].splitlines()


def test_the_failure_url_has_fail_before_the_query(results: dict[str, dict[str, Any]]) -> None:
    values = json.loads(results["a query"]["files"][0]["content"])
    assert values["heartbeat_fail_url"] == "https://up.example.org/push/token/fail?status=up"


def test_nearly_every_variable_changed(results: dict[str, dict[str, Any]]) -> None:
    found = results["all of it"]
    settings = json.loads(found["settings"])
    assert (settings["interval_seconds"], settings["drill_interval_seconds"]) == (8.5 * 3600, 0)
    assert settings["keep"] == {"last": 3, "hourly": 0, "daily": 7, "weekly": 0, "monthly": 0}
    private = {file["path"]: file["content"] for file in found["files"]}
    assert private["/etc/hostwright/polls.restic"] == f"{SECRET}\n"
    values = json.loads(private["/etc/hostwright/polls.json"])
    assert values["heartbeat_fail_url"] == "https://hc.example.org/uuid/fail"
    assert values["offsite"] == {
        "repository": OFFSITE["repository"], "environment": {"KEY": "x"}, "options": ["sftp.args=-p 23"],
    }  # fmt: skip
    assert [line.split(" root ")[1].split()[1] for line in found["cron"].splitlines() if " root " in line] == [
        "backup",
        "offsite-check",
    ]
    # The files that everybody may read contain no secret.
    assert SECRET not in found["settings"] + found["cron"]

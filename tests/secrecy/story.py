"""Releases of a site with a secret, with verbose output, while processes and containers are watched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.faults.site import NAME, PATIENCE, Run, Site, ended

# The value of the site's secret CANARY (molecule/release/hosts.yml).
CANARY = "canary-5d1f0c7ab2e94"
Container = dict[str, Any]
LOUD = ("-vvv", "--diff")

# On the host or on this machine, until the end of its input: report every process whose command line or environment
# contains the first line of the input; on the host report every started container too. The environment of the site's
# processes is skipped: the runtime gives them their secrets as environment variables.
WATCH = """\
import json, os, subprocess, sys, threading, time
where, wanted = sys.argv[1], sys.stdin.readline().strip().encode()
def report_containers():
    events = subprocess.Popen(
        ["docker", "events", "--filter", "event=start", "--format", "{{.ID}}"], stdout=subprocess.PIPE, text=True)
    print("ready", flush=True)
    for line in events.stdout:
        found = subprocess.run(["docker", "container", "inspect", line.strip()], capture_output=True, text=True)
        if found.returncode == 0:
            print(json.dumps({"container": json.loads(found.stdout)[0]}), flush=True)
def scan():
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            text = open(f"/proc/{pid}/cmdline", "rb").read()
            line = text.replace(b"\\0", b" ").decode(errors="replace")
            if os.stat(f"/proc/{pid}").st_uid != 10001:
                text += open(f"/proc/{pid}/environ", "rb").read()
        except OSError:
            continue
        if wanted in text and int(pid) not in seen:
            seen.add(int(pid))
            print(json.dumps({"process": f"{where}: {line}"}), flush=True)
def watch():
    while True:
        scan()
        time.sleep(0.06)
seen = {os.getpid()}
threading.Thread(target=watch, daemon=True).start()
if where == "host":
    threading.Thread(target=report_containers, daemon=True).start()
else:
    print("ready", flush=True)
sys.stdin.read()
os._exit(0)
"""


@dataclass
class Seen:
    """Command lines of processes that have the canary, and containers from ``docker inspect``."""

    processes: list[str] = field(default_factory=list)
    containers: list[Container] = field(default_factory=list)


@contextmanager
def watched(site: Site) -> Iterator[Seen]:
    """Watch the host's processes and containers, and this machine's processes; the result is complete at the end."""
    on_host = ["docker", "exec", "--interactive", site.container, "python3", "-c", WATCH, "host"]
    here = [sys.executable, "-c", WATCH, "here"]
    watchers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for command in (on_host, here)
    ]
    for watcher in watchers:
        assert watcher.stdin
        assert watcher.stdout
        watcher.stdin.write(f"{CANARY}\n")
        watcher.stdin.flush()
        assert watcher.stdout.readline() == "ready\n"
    seen = Seen()
    yield seen
    for watcher in watchers:
        output, _ = watcher.communicate(timeout=PATIENCE)
        for report in map(json.loads, output.splitlines()):
            seen.processes += [report["process"]] if "process" in report else []
            seen.containers += [report["container"]] if "container" in report else []


@dataclass(frozen=True)
class Story:
    """The output of each playbook, and the processes and containers seen meanwhile."""

    site: Site
    runs: dict[str, Run]
    seen: Seen

    @cached_property
    def containers(self) -> list[Container]:
        """The containers that were started meanwhile, and those that exist now."""
        there = self.site.on_host("docker", "ps", "--all", "--quiet").split()
        return [*self.seen.containers, *json.loads(self.site.on_host("docker", "container", "inspect", *there))]


def make_story(site: Site) -> Story:
    """Deploy, fail to deploy, back up, verify, drill, roll back and restore."""
    options = json.dumps({"app_threads": 3, "app_pre_release": ["check"], "site_egress": True})
    hopeless = json.dumps({"app_threads": 1, "app_pre_release": ["check --database nowhere"]})
    runs: dict[str, Run] = {}
    with watched(site) as seen:
        runs["deploy"] = site.deploy(*LOUD, "-e", options)
        runs["fail"] = site.deploy(*LOUD, "--tags", "release", "-e", hopeless)
        outputs = [site.on_host("hostwright", verb, NAME) for verb in ("backup", "verify", "drill")]
        runs["backup"] = Run(0, "".join(outputs))
        runs["rollback"] = ended(site.begin(*LOUD, playbook="playbooks/rollback.yml"))
        runs["restore"] = ended(site.begin(*LOUD, "-e", "backup_restore=latest", playbook="playbooks/restore.yml"))
    return Story(site, runs, seen)

"""After any kill the site is completely on the old or the new release, and the next deployment succeeds.

HOSTWRIGHT_KILLS=full kills in every step in every way, for hours; without it a few moments are tried, the most critical
ones among them.
HOSTWRIGHT_SEED repeats the moments of a run. Without it the few moments are the same in every run, so that a new
failure has its cause in a change and not in chance.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.release.steps import Step

from tests.faults.site import BUSY, NAME, PATIENCE, ROOT, Site, Traffic, kill_group, wait_until
from tests.support.ledger import CHANGES

RENAMED = "renamed"  # a moment, not a step: `current` names the new release
# The steps of a release that migrates, with their approximate minimum duration in seconds; the moment in it is random.
STEPS: dict[str, float] = {
    Step.SWEEP: 0.02,
    Step.PREPARE: 0.15,
    Step.LOAD: 0.5,
    Step.REHEARSE: 0.3,
    Step.START: 0.5,
    Step.WAIT_LOADED: 0.4,
    Step.REST: 0.3,
    Step.HOLD: 0.001,
    Step.DRAIN: 0.005,
    Step.GUARD: 0.01,
    Step.COPY: 0.03,
    Step.MIGRATE: 0.1,
    Step.WAIT_READY: 0.03,
    Step.COMMIT: 0.01,
    RENAMED: 0.02,
    Step.RETIRE: 0.5,
}
WAYS = ("ansible", "module", "engine", "host", "restart")
# Critical moments, which every run tries.
WORST = (
    ("module", RENAMED),
    ("host", RENAMED),
    ("host", Step.COPY),
    ("engine", Step.MIGRATE),
    ("module", Step.COPY),
    ("restart", Step.WAIT_LOADED),
)
MOMENTS = 5  # in each step, of each way
HOLD = 12.0  # seconds: the longest hold of a killed release, and some for the answer
# Seconds until the site must serve again where requests may fail. No request may fail if only the release is killed.
OUTAGE = {"ansible": 0.0, "module": 0.0, "engine": 70.0, "host": 70.0, "restart": 70.0}
FULL = os.environ.get("HOSTWRIGHT_KILLS") == "full"
SEED = int(os.environ.get("HOSTWRIGHT_SEED") or (time.time() if FULL else 1795402775))

# On the host: wait for a step of the release (`renamed`: for the rename of `current`), then for the delay, then kill. A
# very short step may be missed: then the next one is used. The release's process is the one that has the site's lock.
# Before a kill of the host the process is stopped, so that it does not continue.
KILL = """\
import os, signal, subprocess, sys, time
site, root, step, way, delay, *steps = sys.argv[1:]
awaited = steps[steps.index(step):]
progress, lock = f"{root}/config/{site}/progress", f"{root}/config/{site}/lock"
current = f"{root}/web/{site}/run/current"
def now():
    try:
        return open(progress).read().strip()
    except OSError:
        return ""
def holder():
    inode = f":{os.stat(lock).st_ino}"
    with open("/proc/locks") as locks:
        found = [line.split() for line in locks]
    return next(int(words[4]) for words in found if words[1] == "FLOCK" and words[5].endswith(inode))
old = os.readlink(current)
limit = time.monotonic() + 60
print("ready", flush=True)
while os.readlink(current) == old if step == "renamed" else now() not in awaited:
    if time.monotonic() > limit:
        sys.exit(f"step not reached: {step}")
    time.sleep(0.0003)
time.sleep(float(delay))
if way == "module":
    os.kill(holder(), signal.SIGKILL)
elif way == "host":
    os.kill(holder(), signal.SIGSTOP)
elif way == "engine":
    subprocess.run(["systemctl", "reset-failed", "docker.service", "docker.socket"])
    os.kill(int(open("/run/docker.pid").read()), signal.SIGKILL)
elif way == "restart":
    print(now(), flush=True)
    subprocess.run(["systemctl", "restart", "docker"])
print(now() or "afterwards", flush=True)
"""


@dataclass(frozen=True)
class Kill:
    """A kill: what is killed, the step, the delay after its begin in seconds, and the release's migration."""

    number: int
    way: str
    step: str
    delay: float
    change: str

    def __str__(self) -> str:
        return f"{self.number}: {self.way}, {self.delay * 1000:.1f} ms after '{self.step}', {self.change}"


def kills() -> Iterator[Kill]:
    """Yield the kills of this run."""
    chance = random.Random(SEED)
    if FULL:
        chosen = [(way, step) for step in STEPS for way in WAYS for _ in range(MOMENTS)]
        chance.shuffle(chosen)
    else:
        chosen = [*WORST, *((way, chance.choice(list(STEPS))) for way in ("ansible", "module"))]
    for number, (way, step) in enumerate(chosen, 1):
        yield Kill(
            number, way, step, chance.uniform(0, STEPS[step]), chance.choice(["column", "data", "rebuild", "rename"])
        )


def test_the_changes_are_known() -> None:
    assert {kill.change for kill in kills()} <= set(CHANGES)


@pytest.mark.parametrize("kill", list(kills()), ids=str)
def test_a_kill(site: Site, traffic: Traffic, kill: Kill) -> None:
    print(f"HOSTWRIGHT_SEED={SEED}, {kill}")
    site.ledger.next(kill.change)
    old = site.record
    begin = time.time()
    watcher = subprocess.Popen(
        ["docker", "exec", site.container, "python3", "-c", KILL, NAME, ROOT, kill.step, kill.way, str(kill.delay),
         *STEPS],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watcher.stdout
    assert watcher.stdout.readline() == "ready\n"
    deployment = site.begin_release()
    where = watcher.stdout.readline().strip()
    killed = time.time()
    if kill.way == "host":
        site.reboot()
    if kill.way in ("ansible", "host"):
        kill_group(deployment)
    output = deployment.communicate(timeout=PATIENCE)[0] if deployment.returncode is None else ""
    status = watcher.wait(PATIENCE)
    # The watcher may be killed with the host after its last line.
    assert status == 0 or (kill.way == "host" and where), f"the kill did not happen ({status}): {output}"
    wait_until("the Engine answers", site.engine_answers, 60)
    since = time.time()
    wait_until("the site serves", lambda: traffic.answered(since) > 0, OUTAGE[kill.way] or HOLD)
    served, live = traffic.answered(since), site.record
    print(f"killed in '{where}', release {old['release']} -> {live['release']}, served after {served - killed:.1f} s")
    if kill.way == "module" and kill.step == RENAMED:
        assert live["release"] != old["release"]
        states = site.containers()
        print(f"the old release is {states[old['container']]}, its guard {states.get(f'{NAME}-release')}")
        assert states[old["container"]] == "exited" or states[f"{NAME}-release"] == "running"
        late = site.on_host("docker", "exec", old["container"], "python3", "manage.py", "write", "1", check=False)
        assert late == "", "the old release acknowledged a write that the new one does not have"
    wait_until("the release on the host has ended", site.nobody_releases, 60)
    again = site.release()
    assert again.status == 0, again.output
    assert BUSY not in again.output
    assert site.record["version"] == site.ledger.version
    site.assert_whole(traffic)
    wait_until("all requests of that time are answered", lambda: traffic.settled(time.time() - 1), 40)
    lost = traffic.failed(begin)
    outage = [request for request in lost if OUTAGE[kill.way] and request.end > killed and request.start < served]
    assert [request for request in lost if request not in outage] == []
    print(f"{len(outage)} requests failed, for {max((r.end for r in outage), default=killed) - killed:.1f} s")

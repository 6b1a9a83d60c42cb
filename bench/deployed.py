"""The ledger on a host of the measurements: released as a user does, looked at from outside and from inside."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench.lab import BIN, DIRECTORY, PROJECT, TIME_LIMIT, Lab, LabError, call
from tests.support import load
from tests.support.ledger import Ledger

HOST = "site"
NAME = "ledger"
ROOT = Path("/srv/hostwright")
# All releases of a measurement are kept: what their database generations hold is compared at the end.
KEEP = 500
# The management command that writes all the time: how many ids a call writes, and how often (seconds).
WRITES = 100
WRITE_PAUSE = 0.1
# A load that nobody stops ends after so many seconds.
LONGEST = 3600

# On the host: tell by its clock when a hold begins and ends, until standard input is closed.
WATCH = """\
import os, select, sys, time
held = False
while not select.select([sys.stdin], [], [], 0.005)[0]:
    if os.path.exists(sys.argv[1]) != held:
        held = not held
        print(time.time(), flush=True)
"""

# In the site's image, where the SQLite is a safe one: what generations of the database hold, and which of their ids the
# live one lacks.
LOOK = """\
import hashlib, json, sys
from pathlib import Path
from hostwright import snapshot
databases = Path("/site/data/databases")
def ids(connection):
    return [key for key, in connection.execute("SELECT key FROM entries_entry WHERE key != ''")]
with snapshot.reading(databases / sys.argv[1] / "db.sqlite3") as live:
    there = ids(live)
answer = {"present": there if "--ids" in sys.argv else [], "generations": {}}
for generation in sys.argv[2].split(",") if sys.argv[2] else []:
    digest = hashlib.sha256()
    with snapshot.reading(databases / generation / "db.sqlite3") as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
        for table, in tables:
            digest.update(table.encode())
            for row in connection.execute(f'SELECT * FROM "{table}" ORDER BY rowid'):
                digest.update(repr(row).encode())
        missing = sorted(set(ids(connection)) - set(there))
    answer["generations"][generation] = {"hash": digest.hexdigest(), "missing": missing}
print(json.dumps(answer))
"""


@dataclass(frozen=True)
class Command:
    """A playbook run: its seconds, exit status and output."""

    seconds: float
    status: int
    output: str

    @property
    def changed(self) -> int:
        """How many tasks have changed something."""
        return sum(map(int, re.findall(r"\bchanged=(\d+)", self.output)))


@dataclass
class Traffic:
    """What happened to a site under load.

    ``holds`` are their beginnings and ends as the host saw them, ``commanded`` the ids that the management command
    acknowledged, ``cut`` how many of its calls did not end well.
    """

    requests: list[load.Request] = field(default_factory=list)
    holds: list[tuple[float, float]] = field(default_factory=list)
    commanded: list[str] = field(default_factory=list)
    calls: int = 0
    cut: int = 0

    @property
    def failed(self) -> list[load.Request]:
        """The failed requests."""
        return [request for request in self.requests if request.error]

    @property
    def acknowledged(self) -> list[str]:
        """All ids that the site has acknowledged, to whomever."""
        return [request.id for request in self.requests if request.acknowledged] + self.commanded

    def latencies(self, holds: bool) -> list[float]:
        """Seconds that requests waited which met a hold, or those which met none."""
        return [
            request.latency
            for request in self.requests
            if not request.error and self._meets(request.end - request.latency, request.end) == holds
        ]

    def _meets(self, begin: float, end: float) -> bool:
        return any(begin < hold[1] and end > hold[0] for hold in self.holds)


class Site:
    """The ledger on its host."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.ledger = Ledger(DIRECTORY / NAME)
        inventory = {"prod": {"hosts": {HOST: {}}, "vars": self._variables}}
        (DIRECTORY / "inventory" / "prod.yml").write_text(yaml.safe_dump(inventory))

    @property
    def _variables(self) -> dict[str, Any]:
        return {
            "site_name": NAME, "site_source": str(self.ledger.directory), "site_domains": ["localhost"],
            "app_keep_releases": KEEP, "image_archive_directory": str(DIRECTORY / "images"),
        }  # fmt: skip

    def run(self, playbook: str, *arguments: str, project: Path = PROJECT, must: bool = True) -> Command:
        """Run a shipped playbook for the host, as a user does.

        Args:
            playbook: path in the project.
            arguments: more of them.
            project: another checkout of Hostwright.
            must: whether a failure ends the measurement.

        Raises:
            LabError: it failed and must not.
        """
        command = [
            str(BIN / "ansible-playbook"), "--inventory", str(PROJECT / "bench" / "inventory.yml"),
            "--inventory", str(DIRECTORY / "inventory"), "--limit", HOST, *arguments, str(project / playbook),
        ]  # fmt: skip
        environment = {**self.lab.environment, "ANSIBLE_CONFIG": str(project / "ansible.cfg")}
        started = time.monotonic()
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIME_LIMIT,
            check=False,
        )  # fmt: skip
        seconds = time.monotonic() - started
        if must and done.returncode != 0:
            raise LabError(f"'{playbook} {' '.join(arguments)}' failed:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
        return Command(seconds, done.returncode, done.stdout)

    def release_first(self) -> None:
        """Deploy to the bare host."""
        self.lab.will_remove(f"{NAME}:{self.ledger.version}")
        self.run("deploy.yml")

    def release(self, *arguments: str, project: Path = PROJECT, must: bool = True) -> Command:
        """Release what the ledger's directory holds."""
        self.lab.will_remove(f"{NAME}:{self.ledger.version}")
        return self.run("deploy.yml", "--tags", "release", *arguments, project=project, must=must)

    def manage(self, *words: str) -> str:
        """Run a management command in the live release."""
        return self.lab.on(HOST, "hostwright", "manage", NAME, "--", *words)

    @property
    def record(self) -> dict[str, Any]:
        """The live release's record."""
        record: dict[str, Any] = json.loads(self.lab.on(HOST, "cat", f"{ROOT}/web/{NAME}/run/current/release.json"))
        return record

    @property
    def audit(self) -> list[dict[str, Any]]:
        """The lines of the host's log of deployments."""
        text = self.lab.on(HOST, "cat", f"{ROOT}/config/{NAME}/deployments.jsonl")
        return [json.loads(line) for line in text.splitlines()]

    def look(self, *generations: int, ids: bool = False) -> dict[str, Any]:
        """Open the database, the live generation and others, by a program in the image.

        Returns:
            ``present`` (ids, if asked for) and ``generations``: by number ``hash``, and the ids ``missing`` in the live
            one.
        """
        record = self.record
        names = ",".join(map(str, generations))
        words = ["-c", LOOK, str(record["generation"]), names, *(["--ids"] if ids else [])]
        answer: dict[str, Any] = json.loads(self.in_image(record["image"], *words).splitlines()[-1])
        return answer

    def in_image(self, image: str, *words: str) -> str:
        """Run Python in a container of an image, with what the live release has; return what it prints.

        It gets less than half a core, to be little of a burden on a site under load.
        """
        places = {"data": f"data/{NAME}", "config": f"config/{NAME}", "run": f"web/{NAME}/run"}
        mounts = (f"--volume={ROOT / host}:/site/{name}" for name, host in places.items())
        record = self.record
        secrets = ROOT / "config" / NAME / "secrets" / str(record["release"])
        return self.lab.on(
            HOST, "docker", "run", "--rm", "--network=none", "--cpus=0.4", "--read-only", "--tmpfs=/tmp", *mounts,
            f"--volume={secrets}:/run/secrets:ro", f"--env=HOSTWRIGHT_CONFIG={record['configuration']}",
            "--entrypoint=python3", image, *words,
        )  # fmt: skip

    @contextmanager
    def under_load(self, rate: float, commands: bool = True) -> Iterator[Traffic]:
        """Send load until the context ends; what became of it is complete then.

        Args:
            rate: requests a second.
            commands: have a management command write all the time, too.
        """
        traffic = Traffic()
        over = threading.Event()
        watcher = subprocess.Popen(
            ["docker", "exec", "--interactive", f"hostwright-bench-{HOST}", "python3", "-c", WATCH,
             f"{ROOT}/web/{NAME}/run/hold"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        output = DIRECTORY / "load.json"
        output.unlink(missing_ok=True)
        sender = subprocess.Popen(
            [sys.executable, "-m", "tests.support.load", "--url", f"http://{self.lab.address(HOST)}",
             "--seconds", str(LONGEST), "--rate", str(rate), "--output", str(output)],
            cwd=PROJECT, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        writer = threading.Thread(target=self._write, args=(traffic, over))
        if commands:
            writer.start()
        try:
            yield traffic
        finally:
            sender.send_signal(signal.SIGTERM)
            over.set()
            sender.wait(TIME_LIMIT)
            if commands:
                writer.join()
            told, _ = watcher.communicate(timeout=TIME_LIMIT)
        traffic.requests = load.read(output)
        moments = [float(line) for line in told.splitlines()]
        traffic.holds = list(zip(moments[::2], moments[1::2], strict=False))

    def _write(self, traffic: Traffic, over: threading.Event) -> None:
        """Call the management command again and again, and note what it acknowledges."""
        command = [
            "docker", "exec", f"hostwright-bench-{HOST}", "hostwright", "manage", NAME, "--",
            "write", str(WRITES), "--pause", str(WRITE_PAUSE),
        ]  # fmt: skip
        while not over.wait(0.2):
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
            traffic.commanded += [
                line for line in done.stdout.splitlines() if re.fullmatch(r"command-[0-9a-f-]{36}", line)
            ]
            traffic.calls += 1
            traffic.cut += done.returncode != 0

    def bring_image(self) -> str:
        """Build the ledger's version and bring its image to the host, without a release; return its name."""
        image = f"{NAME}:{self.ledger.version}"
        self.lab.will_remove(image)
        self.lab.playbook(
            "build", "workstation", image_name=NAME, image_source=str(self.ledger.directory),
            image_version=self.ledger.version, image_archive_directory=str(DIRECTORY / "images"), image_export=False,
        )  # fmt: skip
        call("sh", "-c", f"docker save {image} | docker exec --interactive hostwright-bench-{HOST} docker load --quiet")
        return image


def checkout_without(directory: Path, changes: Sequence[tuple[str, str, str]]) -> Path:
    """Copy Hostwright, and change some of it: for comparisons with what it would be without.

    Args:
        directory: gets the copy.
        changes: file, text, and what takes its place.

    Raises:
        LabError: a file has not that text.
    """
    ignored = shutil.ignore_patterns(".git", ".venv", ".cache", ".ansible", "*_cache", "__pycache__")
    shutil.copytree(PROJECT, directory, ignore=ignored)
    collections = directory / ".ansible" / "collections" / "ansible_collections" / "hostwright"
    collections.mkdir(parents=True)
    (collections / "django").symlink_to(directory)
    (directory / ".cache").symlink_to(PROJECT / ".cache")
    for path, old, new in changes:
        text = (directory / path).read_text()
        if old not in text:
            raise LabError(f"{path} has no '{old}' any more: bench/release.py has to be told what the guard is now")
        (directory / path).write_text(text.replace(old, new))
    return directory

"""The ledger on a host of the measurements: released as a user does, observed from outside and from inside."""

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
# All releases of a measurement are kept, because their database generations are compared at the end.
KEEP = 500
# The management command that writes all the time: ids per call, and seconds between two ids.
WRITES = 100
WRITE_PAUSE = 0.1
# The load ends after this time at the latest, seconds.
LONGEST = 3600

# On the host: print the time when a hold begins and ends, by the host's clock, until standard input is closed.
WATCH = """\
import os, select, sys, time
held = False
while not select.select([sys.stdin], [], [], 0.005)[0]:
    if os.path.exists(sys.argv[1]) != held:
        held = not held
        print(time.time(), flush=True)
"""

# In the site's image, with its safe SQLite: report the content of generations, and their ids that the live one lacks.
INSPECT = """\
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
    """A run of a playbook: seconds, exit status and output."""

    seconds: float
    status: int
    output: str

    @property
    def changed(self) -> int:
        """The number of tasks that changed something."""
        return sum(map(int, re.findall(r"\bchanged=(\d+)", self.output)))


@dataclass
class Traffic:
    """The load on a site and its results.

    ``holds`` are the beginnings and ends of holds as the host saw them, ``commanded`` the ids that the management
    command acknowledged, ``cut`` the number of its calls that failed.
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
        """All ids that the site has acknowledged, to requests and to the management command."""
        return [request.id for request in self.requests if request.acknowledged] + self.commanded

    def latencies(self, holds: bool) -> list[float]:
        """Return the latencies, in seconds, of the requests that met a hold, or of those that did not."""
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
            arguments: more arguments of the command.
            project: another checkout of Hostwright.
            must: raise an error if the playbook fails.

        Raises:
            LabError: it failed, and ``must`` is set.
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
        """Release the version in the ledger's directory."""
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

    def inspect(self, *generations: int, ids: bool = False) -> dict[str, Any]:
        """Read the live generation and others with a program in the image.

        Returns:
            ``present``: the live generation's ids, if ``ids`` is set. ``generations``: by number, the ``hash`` of the
            content and the ids ``missing`` in the live generation.
        """
        record = self.record
        names = ",".join(map(str, generations))
        words = ["-c", INSPECT, str(record["generation"]), names, *(["--ids"] if ids else [])]
        answer: dict[str, Any] = json.loads(self.in_image(record["image"], *words).splitlines()[-1])
        return answer

    def in_image(self, image: str, *words: str) -> str:
        """Run Python in a container of an image, with the live release's volumes and secrets; return its output.

        It gets less than half a core, so that it disturbs a site under load little.
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
        """Send load until the context ends; the yielded object is complete then.

        Args:
            rate: requests per second.
            commands: run a management command that writes all the time, too.
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
            watched, _ = watcher.communicate(timeout=TIME_LIMIT)
        traffic.requests = load.read(output)
        moments = [float(line) for line in watched.splitlines()]
        traffic.holds = list(zip(moments[::2], moments[1::2], strict=False))

    def _write(self, traffic: Traffic, over: threading.Event) -> None:
        """Run the management command repeatedly, and record the ids that it acknowledges."""
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
        """Build the ledger's version and load its image on the host, without a release; return the image's name."""
        image = f"{NAME}:{self.ledger.version}"
        self.lab.will_remove(image)
        self.lab.playbook(
            "build", "workstation", image_name=NAME, image_source=str(self.ledger.directory),
            image_version=self.ledger.version, image_archive_directory=str(DIRECTORY / "images"), image_export=False,
        )  # fmt: skip
        call("sh", "-c", f"docker save {image} | docker exec --interactive hostwright-bench-{HOST} docker load --quiet")
        return image


def checkout_without(directory: Path, changes: Sequence[tuple[str, str, str]]) -> Path:
    """Copy Hostwright and replace some of its code, for comparisons.

    Args:
        directory: directory of the copy.
        changes: file, old text, new text.

    Raises:
        LabError: a file does not contain the old text.
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
            raise LabError(f"{path} does not contain '{old}' any more: adapt WITHOUT_GUARD in bench/release.py")
        (directory / path).write_text(text.replace(old, new))
    return directory

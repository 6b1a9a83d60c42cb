"""The ledger on the scenario's host: deployed as a user does, used by visitors, inspected from inside its image."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import load, role_app
from tests.support.ledger import Ledger, compare

PROJECT = Path(__file__).resolve().parents[2]
NAME = "ledger"
ROOT = "/srv/hostwright"
HOST = "web"
RATE = 20.0
LONGEST = 6 * 3600
PATIENCE = 180.0
BUSY = "another release of ledger is running"

# In the site's image, with its safe SQLite: report the content of the live database.
READ_DATABASE = """\
import hashlib, json, sqlite3, sys
connection = sqlite3.connect("file:" + sys.argv[1] + "?mode=rw", uri=True, timeout=30)
last = int(sys.argv[2])
connection.execute("BEGIN")
digest = hashlib.sha256()
for name, sql in connection.execute("SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name"):
    digest.update(repr((name, sql)).encode())
for name, in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall():
    if name != "sqlite_sequence":
        limit = f"WHERE id <= {last}" if last and name == "entries_entry" else ""
        for row in connection.execute(f'SELECT * FROM "{name}" {limit} ORDER BY rowid'):
            digest.update(repr((name, row)).encode())
print(json.dumps({
    "ids": [key for key, in connection.execute("SELECT key FROM entries_entry WHERE key != ''")],
    "last": connection.execute("SELECT max(id) FROM entries_entry").fetchone()[0] or 0,
    "digest": digest.hexdigest(),
    "integrity": connection.execute("PRAGMA integrity_check").fetchone()[0],
    "foreign_keys": len(connection.execute("PRAGMA foreign_key_check").fetchall()),
}))
"""

# On the host: report the content of the site's directories.
READ_DIRECTORIES = """\
import json, os, sys
from pathlib import Path
site, root = sys.argv[1], Path(sys.argv[2])
run, data, config = root / "web" / site / "run", root / "data" / site, root / "config" / site
print(json.dumps({
    "run": sorted(set(os.listdir(run)) - {"backup.json"}),
    "releases": {n: sorted(os.listdir(run / "releases" / n)) for n in os.listdir(run / "releases")},
    "data": sorted(os.listdir(data)),
    "generations": sorted(os.listdir(data / "databases")),
    "config": sorted(os.listdir(config)),
    "memory": sorted(os.listdir(Path("/run/hostwright/secrets") / site)),
    "configured": sorted(os.listdir(config / "releases")),
    "records": {n: json.loads(path.read_text()) for n in os.listdir(run / "releases")
                if (path := run / "releases" / n / "release.json").exists()},
    "current": os.readlink(run / "current").rpartition("/")[2],
}))
"""


class Traffic:
    """Visitors who read and write all the time; no request is repeated."""

    def __init__(self, url: str) -> None:
        self._load = load.Load(url, RATE)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._load.run(LONGEST),), daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._load.stop)
        self._thread.join(PATIENCE)

    @property
    def ended(self) -> list[load.Request]:
        return [request for request in list(self._load.requests) if request.end]

    @property
    def acknowledged(self) -> list[str]:
        return [request.id for request in self.ended if request.acknowledged]

    def failed(self, since: float) -> list[load.Request]:
        """Return the failed requests that ended after a moment."""
        return [request for request in self.ended if request.error and request.end >= since]

    def settled(self, moment: float) -> bool:
        """Return whether every request that began before a moment has ended."""
        return all(request.end for request in list(self._load.requests) if request.start < moment)

    def answered(self, since: float) -> float:
        """Return when the first request that began after ``since`` was answered well; 0 if none was."""
        good = [request.end for request in self.ended if not request.error and request.start >= since]
        return min(good, default=0.0)


@dataclass(frozen=True)
class Content:
    """The content of the live database; ``digest`` is that of its schema and rows up to a given entry."""

    ids: list[str]
    last: int
    digest: str
    integrity: str
    foreign_keys: int


@dataclass(frozen=True)
class Run:
    """The result of a playbook."""

    status: int
    output: str

    @property
    def one_line(self) -> str:
        """The output as one line."""
        return re.sub(r"\s+", " ", self.output)


class Site:
    """The ledger on its host; ``container`` is the host's name on this machine."""

    def __init__(self, container: str, url: str, inventories: list[str], directory: Path, name: str) -> None:
        self.name = name
        self.container = container
        self.url = url
        self._inventories = inventories
        self.directory = directory
        self.ledger = Ledger(directory / NAME)

    @classmethod
    def of_environment(cls, name: str = NAME) -> Site:
        """Return the site, or another one, on the host that molecule/faults/tasks/pytest.yml names."""
        given = {name: os.environ[f"FAULTS_{name}"] for name in ("CONTAINER", "URL", "INVENTORIES", "DIRECTORY")}
        return cls(given["CONTAINER"], given["URL"], given["INVENTORIES"].split(":"), Path(given["DIRECTORY"]), name)

    def variant(self, name: str, files: Mapping[str, str]) -> str:
        """Make a copy of the ledger with version 9.0 and text appended to files; return its directory."""
        project = self.directory / name
        shutil.rmtree(project, ignore_errors=True)
        shutil.copytree(self.ledger.directory, project)
        (project / "VERSION").write_text("9.0\n")
        for path, text in files.items():
            with (project / path).open("a") as file:
                file.write(f"\n{text}\n")
        return str(project)

    def begin(self, *arguments: str, playbook: str = "deploy.yml") -> subprocess.Popen[str]:
        """Start deploy.yml or another playbook, as a user does."""
        return self._run("ansible-playbook", "--limit", HOST, *arguments, str(PROJECT / playbook))

    def _run(self, *command: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        return subprocess.Popen(
            [*command, *(f"--inventory={path}" for path in self._inventories)],
            env=environment,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def deploy(self, *arguments: str) -> Run:
        """Deploy and wait for the end."""
        return ended(self.begin(*arguments))

    def begin_release(self, source: str = "", *arguments: str) -> subprocess.Popen[str]:
        """Start to release a project, by default the ledger, on the provisioned host."""
        return self.begin("--tags", "release", "-e", f"site_source={source or self.ledger.directory}", *arguments)

    def release(self, source: str = "", *arguments: str) -> Run:
        """Release a project, by default the ledger, and wait for the end."""
        return ended(self.begin_release(source, *arguments))

    def reboot(self) -> None:
        """Kill the host with all its processes, and start it again."""
        for verb in ("kill", "start"):
            subprocess.run(["docker", verb, self.container], check=True, capture_output=True, timeout=PATIENCE)

    def engine_answers(self) -> bool:
        """Return whether the host's Engine answers."""
        command = ["docker", "exec", self.container, "docker", "info"]
        return subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE).returncode == 0

    def nobody_releases(self) -> bool:
        """Return whether no release is running on the host, even if its playbook was killed."""
        lock = f"{ROOT}/config/{NAME}/lock"
        command = ["docker", "exec", self.container, "flock", "--nonblock", lock, "true"]
        return subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE).returncode == 0

    def on_host(self, *command: str, check: bool = True) -> str:
        """Run a command on the host; return its output."""
        done = subprocess.run(
            ["docker", "exec", self.container, *command], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout

    def directories(self) -> dict[str, Any]:
        """Return the content of the site's directories, with the records."""
        found: dict[str, Any] = json.loads(self.on_host("python3", "-c", READ_DIRECTORIES, self.name, ROOT))
        return found

    @property
    def record(self) -> dict[str, Any]:
        """The live release's record."""
        record: dict[str, Any] = json.loads(self.on_host("cat", f"{ROOT}/web/{self.name}/run/current/release.json"))
        return record

    def state(self) -> dict[str, Any]:
        """Return what a refused deployment must not change: containers and the content of the site's directories."""
        listed = self.on_host("docker", "ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}")
        return {"containers": sorted(listed.splitlines()), **self.directories()}

    def module(self, **arguments: object) -> Run:
        """Call the release module as the role does, without a playbook."""
        given = {
            **role_app.defaults(),
            "site": self.name,
            "source_digest": "none",
            "image_digest": "none",
            "domains": ["localhost"],
            **arguments,
        }
        module = ["--module-name", "hostwright.django.release", "--args", json.dumps(given)]
        return ended(self._run("ansible", HOST, "--become", *module))

    def content(self, last: int = 0) -> Content:
        """Read the live database, up to an entry, with a program in the site's image."""
        live = self.record
        database = f"/site/data/databases/{live['generation']}/db.sqlite3"
        words = ["docker", "exec", live["container"], "python3", "-c", READ_DATABASE, database, str(last)]
        return Content(**json.loads(self.on_host(*words)))

    def containers(self) -> dict[str, str]:
        """Return all containers on the host, with their states."""
        listed = self.on_host("docker", "ps", "--all", "--format", "{{.Names}} {{.State}}")
        return dict(line.split() for line in listed.splitlines())

    def assert_whole(self, traffic: Traffic) -> None:
        """Assert that each acknowledged id is present once, the right containers run, and no release left a trace."""
        acknowledged = traffic.acknowledged
        content, left = self.content(), self.directories()
        tally = compare(acknowledged, content.ids)
        assert tally.right, str(tally)
        assert (content.integrity, content.foreign_keys) == ("ok", 0)
        live = left["records"][left["current"]]
        expected = {
            live["container"]: "running",
            f"{live['container']}-writer": "running",
            "hostwright-nginx": "running",
        }
        assert self.containers() == expected
        assert left["run"] == ["current", "releases"]
        assert set(left["releases"]) == set(left["records"])
        files = {name for names in left["releases"].values() for name in names}
        assert files == {"app.sock", "release.json", "static"}, files
        assert left["data"] == ["databases"]
        generations = {str(record["generation"]) for record in left["records"].values()}
        assert set(left["generations"]) == generations
        assert "progress" not in left["config"]
        assert left["memory"] == sorted(left["records"])
        assert left["configured"] == sorted(f"{number}.json" for number in left["records"])


def ended(process: subprocess.Popen[str]) -> Run:
    """Wait for the end of a playbook."""
    output, _ = process.communicate(timeout=PATIENCE)
    return Run(process.returncode, output)


def wait_until(what: str, holds: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition is true, for at most ``seconds``."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a running playbook and all its processes."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)

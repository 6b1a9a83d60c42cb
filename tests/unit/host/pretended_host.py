"""A host's directories, with substitutes for docker and restic that record their calls."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[3] / "roles" / "host" / "files"
COLLECTIONS = SOURCE.parents[2] / ".ansible" / "collections"
MANIFEST = {"id": "20261122T203000Z-r7", "time": "2026-11-22T20:30:00Z", "rows_total": 3, "release": 7}
PLACES = {"root": "srv", "private": "etc", "state": "state", "volatile": "run"}
# Its output is in files: inspect.json, state (of a one-shot container), run.out, run.err; run.rc is a script.
DOCKER = """#!/bin/sh
here=$(dirname "$0")
for word in "$@"; do printf '%s\\n' "$word"; done >> "$here/calls"; echo >> "$here/calls"
case "$1 $2 $3" in
  "container inspect --format"*) test -f "$here/state" || exit 1; cat "$here/state";;
  "container inspect "*) test -f "$here/inspect.json" || exit 1; cat "$here/inspect.json";;
  "run "*) cat "$here/run.err" >&2; cat "$here/run.out"; . "$here/run.rc";;
  "exec "*) exit 3;;
esac
"""
# Records the repository and the arguments; the script restic.rc is its behaviour.
RESTIC = """#!/bin/sh
here=$(dirname "$0")
echo "$RESTIC_REPOSITORY $(cat "$RESTIC_PASSWORD_FILE") $EXTRA: $*" >> "$here/restic.calls"
. "$here/restic.rc"
"""


class Host:
    """The host of a test; its docker makes no backup unless ``will_back_up`` was called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        for name, text in (("docker", DOCKER), ("restic", RESTIC)):
            (self.bin / name).write_text(text, encoding="utf-8")
            (self.bin / name).chmod(0o755)
        self.script("run.out", "progress\n" + json.dumps(MANIFEST) + "\n")
        self.script("run.err", "")
        self.script("run.rc", "exit 0")
        self.script("restic.rc", "exit 0")
        self.backups = root / "backups"
        self.run_directory = root / "srv/web/polls/run"
        self.data = root / "srv/data/polls"
        self.config = root / "srv/config/polls"
        for directory in (self.backups, self.run_directory / "releases/7", self.data, self.config, root / "etc"):
            directory.mkdir(parents=True)
        (self.run_directory / "current").symlink_to("releases/7")
        self.record(generation=3)
        self.settings()
        self.private()

    def script(self, name: str, text: str) -> None:
        """Write a file that determines the behaviour of docker or restic."""
        (self.bin / name).write_text(text, encoding="utf-8")

    def record(self, **changes: Any) -> None:
        """Write the live release's record."""
        record = {
            "site": "polls",
            "release": 7,
            "version": "1.0",
            "container": "polls-7",
            "image": "polls:1.0",
            "image_id": "sha256:abc",
            "configuration": "/site/config/releases/7.json",
            **changes,
        }
        path = self.run_directory / "releases/7/release.json"
        path.write_text(json.dumps(record), encoding="utf-8")
        path.chmod(0o644)

    def settings(self, **changes: Any) -> None:
        """Write the settings as the role backup does."""
        values = {
            "directory": str(self.backups),
            "interval_seconds": 3600,
            "drill_interval_seconds": 86400,
            "keep": {"last": 24, "daily": 14, "weekly": 0},
            "level": 3,
            "time_limit_seconds": 60,
            "metrics_directory": "",
            **changes,
        }
        (self.config / "backup.json").write_text(json.dumps(values), encoding="utf-8")

    def private(self, **values: Any) -> None:
        """Write the private part of the settings."""
        (self.root / "etc/polls.json").write_text(json.dumps(values), encoding="utf-8")
        (self.root / "etc/polls.restic").write_text("password\n", encoding="utf-8")

    def set_up_ago(self, seconds: float) -> None:
        """Set the time at which the settings were written to some seconds ago."""
        moment = time.time() - seconds
        os.utime(self.config / "backup.json", (moment, moment))

    def add_backup(self, age: float, release: int = 7, **changes: Any) -> str:
        """Write a sealed backup of an age (seconds); return its id."""
        moment = time.gmtime(time.time() - age)
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', moment)}-r{release}"
        manifest = {
            "format": 2,
            "id": name,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", moment),
            "release": release,
            "site": "polls",
            "version": "1.0",
            "image": "polls:1.0",
            "archive": {"name": f"{name}.sqlite3.zst", "bytes": 1000, "sha256": "0" * 64},
            "database": {"bytes": 4096},
            "config": {"name": f"{name}.config.tar", "sha256": "0" * 64},
            "rows": {"polls_choice": 3},
            "media": {"bytes": 10},
            "rows_total": 3,
            "seconds": {"total": 2.5},
            **changes,
        }
        text = json.dumps(manifest)
        (self.backups / f"{name}.sqlite3.zst").write_text("archive", encoding="utf-8")
        (self.backups / f"{name}.json").write_text(text, encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        (self.backups / f"{name}.json.sha256").write_text(f"{digest}  {name}.json\n", encoding="ascii")
        return name

    def will_back_up(self, age: float = 0) -> str:
        """Write a backup and make docker report it; return its id."""
        name = self.add_backup(age)
        self.script("run.out", (self.backups / f"{name}.json").read_text(encoding="utf-8") + "\n")
        return name

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the host command."""
        places = [f"--{name}={self.root}/{place}" for name, place in PLACES.items()]
        return subprocess.run(
            [sys.executable, "-m", "hostwright_host", *places, *words],
            env={**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}", "PYTHONPATH": f"{SOURCE}:{COLLECTIONS}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def docker_calls(self) -> list[list[str]]:
        """Return the arguments of docker's calls."""
        text = (self.bin / "calls").read_text(encoding="utf-8") if (self.bin / "calls").exists() else ""
        return [call.split("\n") for call in text.split("\n\n") if call]

    def restic_calls(self) -> list[str]:
        """Return restic's calls: repository, password, arguments."""
        path = self.bin / "restic.calls"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def log(self) -> str:
        """Return the log beside the backups."""
        path = self.backups / "log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def status(self) -> dict[str, Any]:
        """Return the published state."""
        found: dict[str, Any] = json.loads((self.backups / "status.json").read_text(encoding="utf-8"))
        return found


@contextmanager
def listening(status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Serve a heartbeat's URL; yield it and the list of requested paths."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/beat", paths
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

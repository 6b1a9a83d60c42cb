"""A site's runtime without Docker: an interpreter with the image's start-up code, and a release in a directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.accounts import Writes, read_writes
from bench.lab import PROJECT, TIME_LIMIT, LabError

RUNTIME = PROJECT / "roles" / "image" / "files" / "runtime"
MEASURED = PROJECT / "bench" / "measured.py"
# The values that the role `app` sets.
SQLITE = {"synchronous": "NORMAL", "busy_timeout": 5000, "mmap_size": 0, "journal_size_limit": 67108864}
# Interval between two readings of the size of a -wal, seconds.
WAL_INTERVAL = 0.02


@dataclass(frozen=True)
class Done:
    """A measured command: seconds, peak memory in bytes, whether its time limit ``ended`` it, its output."""

    seconds: float
    memory: int
    status: int
    ended: bool
    output: str
    errors: str

    @property
    def answer(self) -> Any:
        """The last line of output, which is JSON."""
        return json.loads(self.output.splitlines()[-1])


class Runtime:
    """A release of a site in a directory, with one database file."""

    def __init__(self, root: Path) -> None:
        """Prepare the interpreter, and write configuration and record."""
        self.root = root
        self.backups = root / "backups"
        self.database = root / "databases" / "1" / "db.sqlite3"
        self.record = root / "run" / "releases" / "1" / "release.json"
        for directory in (self.backups, self.database.parent, self.record.parent, root / "secrets", root / "media"):
            directory.mkdir(parents=True)
        self.python = _interpreter(root)
        (root / "run" / "current").symlink_to("releases/1")
        (root / "secrets" / "secret_key").write_text("the site's key\n")
        write_record(self.record, 1)
        self._configuration = root / "config" / "releases" / "1.json"
        self._configuration.parent.mkdir(parents=True)
        self._configuration.write_text(
            json.dumps(
                {
                    "environment": "production",
                    "debug": False,
                    "database": str(self.database),
                    "secret_key_file": str(root / "secrets" / "secret_key"),
                    "secrets_directory": str(root / "secrets"),
                    "allowed_hosts": ["localhost"],
                    "scheme": "https",
                    "static_url": None,
                    "media_root": str(root / "media"),
                    "sqlite": SQLITE,
                    "server": {
                        "processes": 1, "threads": 2, "backlog": 256, "stop_timeout": 10,
                        "socket": str(self.record.with_name("app.sock")),
                    },
                    "health_path": "/",
                    "environment_variables": {},
                }
            )
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """The variables that image and container set."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "HOSTWRIGHT"))}
        return kept | {"HOSTWRIGHT_CONFIG": str(self._configuration), "PYTHONDONTWRITEBYTECODE": "1"}

    def verb(self, *words: str | Path) -> Done:
        """Run a verb of the runtime, which must succeed."""
        return succeeded(run([str(self.python), "-m", "hostwright", *map(str, words)], self.environment))

    def backup(self) -> Done:
        """Make a backup; its answer is the manifest."""
        return self.verb("backup", "--output", self.backups, "--record", self.record, "--keep", '{"last": 100}')

    def module(self, *words: str | Path) -> Any:
        """Run a module of the measurements under the site's interpreter; return its answer."""
        return succeeded(run([str(self.python), "-m", *map(str, words)], self.environment, aloud=True)).answer

    def writing(self, rate: float, number: int = 0, corrections: bool = False) -> Writing:
        """Return a process that writes to the database ``rate`` times per second; ``number`` is its seed."""
        return Writing(self, rate, number, corrections)


class Running:
    """A module of the measurements that runs in the background, at most until the context ends."""

    def __init__(self, site: Runtime, *words: str | Path) -> None:
        self._site = site
        self._command = [str(site.python), "-m", *map(str, words)]

    def __enter__(self) -> Running:
        self._process = subprocess.Popen(
            self._command, cwd=PROJECT, env=self._site.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        return self

    def answer(self) -> Any:
        """Wait for the end; return the answer."""
        output = self._process.communicate(timeout=TIME_LIMIT)[0]
        if self._process.returncode != 0:
            raise LabError(f"'{' '.join(self._command)}' failed ({self._process.returncode})")
        return json.loads(output.splitlines()[-1])

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()


class Writing:
    """Writes to the database from a separate process until the context ends; ``writes`` has the result then."""

    def __init__(self, site: Runtime, rate: float, number: int, corrections: bool) -> None:
        self.site = site
        self.log = site.root / f"writes-{number}.json"
        self.command = [
            str(site.python), "-m", "bench.accounts", str(site.database), "--seed", str(number), "write",
            "--rate", str(rate), "--busy-timeout", str(SQLITE["busy_timeout"]), "--log", str(self.log),
            *(["--corrections"] if corrections else []),
        ]  # fmt: skip
        self.writes = Writes((), (), (), 0)

    def __enter__(self) -> Writing:
        self._process = subprocess.Popen(
            self.command, cwd=PROJECT, env=self.site.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        if self._process.stdout is None or self._process.stdout.readline() != b"writing\n":
            self._process.kill()
            raise LabError(f"the writer did not start: '{' '.join(self.command)}'")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(TIME_LIMIT)
        finally:
            self._process.kill()
            self._process.communicate()
        if kind is not None:
            return
        if status != 0:
            raise LabError(f"the writer ended ({status})")
        self.writes = read_writes(self.log)


def run(command: Sequence[str], environment: Mapping[str, str], limit: float = TIME_LIMIT, aloud: bool = False) -> Done:
    """Run a command for at most ``limit`` seconds and measure it; ``aloud`` shows its error output."""
    with tempfile.TemporaryDirectory(prefix="hostwright-bench-") as scratch:
        result = Path(scratch) / "result"
        with (
            (Path(scratch) / "output").open("w+") as output,
            (Path(scratch) / "errors").open("w+") as errors,
            subprocess.Popen(
                [sys.executable, "-IS", str(MEASURED), str(limit), str(result), *command],
                cwd=PROJECT, env=dict(environment),
                stdin=subprocess.DEVNULL, stdout=output, stderr=None if aloud else errors,
            ) as process,
        ):  # fmt: skip
            try:
                status = process.wait()
            except BaseException:
                process.terminate()
                raise
            texts = []
            for file in (output, errors):
                file.seek(0)
                texts.append(file.read())
        if status != 0:
            raise LabError(f"'{' '.join(command)}' could not be run: {texts[1].strip()}")
        return Done(**json.loads(result.read_text()), output=texts[0], errors=texts[1])


def succeeded(done: Done) -> Done:
    """Require that a command succeeded.

    Raises:
        LabError: it failed; the message has the end of its output.
    """
    if done.ended or done.status != 0:
        how = f"did not end within {done.seconds:.0f} s" if done.ended else f"failed ({done.status})"
        raise LabError(f"a command of the measurement {how}: {done.errors.strip()[-2000:]}")
    return done


def write_record(path: Path, release: int) -> None:
    """Write the record of a release."""
    record = {"site": "bench", "release": release, "generation": 1, "version": str(release), "image": "bench:1"}
    path.write_text(json.dumps(record | {"image_id": "sha256:0"}))


@contextmanager
def watching_wal(database: Path) -> Iterator[list[int]]:
    """Watch the ``-wal`` of a database; the only item of the yielded list is the greatest size in bytes so far."""
    peak, stop = [0], threading.Event()
    wal = database.with_name(f"{database.name}-wal")

    def watch() -> None:
        while not stop.wait(WAL_INTERVAL):
            if wal.exists():
                peak[0] = max(peak[0], wal.stat().st_size)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def settle() -> None:
    """Flush pending writes to disk, so that they do not affect the next measurement."""
    os.sync()
    time.sleep(1)


def _interpreter(root: Path) -> Path:
    """Make an interpreter with an image's hostwright.pth and the packages of the tests."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "venv")], check=True)
    python = root / "venv" / "bin" / "python"
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([sys.executable, "-c", find], check=True, capture_output=True, text=True).stdout.strip()
    prefix = root / "opt"
    prefix.mkdir()
    for name in ("requirements", "server"):
        (prefix / name).symlink_to(packages)
    (prefix / "runtime").symlink_to(RUNTIME)
    write = (
        f"import sys; sys.path.insert(0, {str(RUNTIME)!r}); from hostwright import install; from pathlib import Path"
    )
    text = subprocess.run(
        [sys.executable, "-c", f"{write}; print(install.pth(Path({str(prefix)!r})), end='')"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    site = subprocess.run([python, "-c", find], check=True, capture_output=True, text=True).stdout.strip()
    (Path(site) / "hostwright.pth").write_text(text)
    return python

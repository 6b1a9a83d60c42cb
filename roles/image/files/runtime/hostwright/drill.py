"""The drill: restore a backup into a scratch directory, boot the release on it, and probe it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hostwright import configuration, current, restore
from hostwright.catalogue import TEMPORARY
from hostwright.errors import BackupError, ConfigurationError

_BOOT_SECONDS = 60
_PAUSE = 0.05
_EXCERPT = 25
# Names that a drill creates in its scratch directory.
_OWN = ("db.sqlite3", "run", "config", "log", "answer", TEMPORARY)


def drill(output: Path, wanted: str, scratch: Path) -> dict[str, Any]:
    """Prove that a backup can be restored and that the site runs on it.

    As in a real restore, the database is restored, and migrations that the image has and the backup lacks are applied.
    Then ``migrate --check`` runs, and the image's own server on a socket in the scratch directory.

    Args:
        output: directory of the backups.
        wanted: as in ``restore.restore``.
        scratch: directory that is empty or has only files of a killed drill; it is emptied again at the end.

    Returns:
        ``id``, ``rows_total``, ``migrated``, ``health`` and ``seconds``.

    Raises:
        BackupError: the restore, the migrations, the check or the probe failed; the message ends with the log's tail.
    """
    start = time.monotonic()
    configuration.require().require_socket()
    _require_own(scratch)
    # The first process of a container has no default handlers, and a terminated drill must clean up.
    signal.signal(signal.SIGTERM, _exit)
    _empty(scratch)
    try:
        database = scratch / "db.sqlite3"
        restored = restore.restore(output, wanted, database)
        seconds = {"restore": restored["seconds"]["total"]}
        environment = _environment(scratch, database)
        begin = time.monotonic()
        migrated = _migrate(environment)
        seconds["migrate"] = round(time.monotonic() - begin, 3)
        begin = time.monotonic()
        probed = _boot(environment, scratch)
        seconds["boot"] = round(time.monotonic() - begin, 3)
    finally:
        _empty(scratch)
    seconds["total"] = round(time.monotonic() - start, 3)
    return {
        "id": restored["manifest"]["id"],
        "rows_total": restored["manifest"]["rows_total"],
        "migrated": migrated,
        "health": probed["health"],
        "seconds": seconds,
    }


def _environment(scratch: Path, database: Path) -> dict[str, str]:
    """Write the configuration of a release within the scratch directory, where it is the live one.

    Only the paths of database and socket and the number of processes differ from the real release's configuration.
    """
    number = current.number()
    data = json.loads(configuration.require_path().read_text(encoding="utf-8"))
    socket = scratch / "run" / "releases" / number / "app.sock"
    socket.parent.mkdir(parents=True)
    (scratch / "run" / "current").symlink_to(Path("releases") / number)
    data["database"] = str(database)
    data["server"] = {**(data.get("server") or {}), "socket": str(socket), "processes": 1}
    path = scratch / "config" / f"{number}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(data), encoding="utf-8")
    return {**os.environ, "HOSTWRIGHT_CONFIG": str(path)}


def _migrate(environment: Mapping[str, str]) -> bool:
    """Apply migrations that the image has and the backup lacks; return whether there were any."""
    if _run(environment, "manage.py", "migrate", "--check", "--noinput").returncode == 0:
        return False
    for options in (["--noinput"], ["--check", "--noinput"]):
        done = _run(environment, "manage.py", "migrate", *options)
        if done.returncode:
            raise BackupError(f"migrate {' '.join(options)} failed on the restored database:\n{_end(done.stdout)}")
    return True


def _boot(environment: Mapping[str, str], scratch: Path) -> dict[str, Any]:
    log = scratch / "log"
    with (
        _started(environment, log, "serve") as server,
        _started(environment, scratch / "answer", "probe", "--timeout", str(_BOOT_SECONDS)) as probe,
    ):
        while probe.poll() is None and server.poll() is None:
            time.sleep(_PAUSE)
        ended = server.poll() is not None
    answer = (scratch / "answer").read_text(encoding="utf-8").strip()
    if ended or probe.returncode:
        why = "the server has ended" if ended else answer
        raise BackupError(
            f"The site does not run on the restored database: {why}\n{_end(log.read_text(encoding='utf-8'))}"
        )
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return found


@contextlib.contextmanager
def _started(environment: Mapping[str, str], log: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a verb of the runtime within the body; then kill it and its children."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "hostwright", *words],
            env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _run(environment: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", check=False,
    )  # fmt: skip


def _end(log: str) -> str:
    return "\n".join(log.splitlines()[-_EXCERPT:])


def _require_own(directory: Path) -> None:
    """Refuse a directory with files that are not a drill's."""
    if not directory.is_dir():
        raise ConfigurationError(f"{directory}: the scratch directory is missing.")
    foreign = [path.name for path in directory.iterdir() if not path.name.startswith(_OWN)]
    if foreign:
        raise ConfigurationError(f"{directory}: the scratch directory contains {foreign[0]}: use an empty directory.")


def _empty(directory: Path) -> None:
    """Remove the content of the scratch directory, but not the directory: it may be a mount."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _exit(_number: int, _frame: object) -> None:
    sys.exit(128 + signal.SIGTERM)

"""Run the WSGI server on the release's socket, and the site's background processes."""

import os
import signal
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hostwright import configuration, current, sqlite, worker
from hostwright.configuration import Configuration
from hostwright.errors import BusyError, ConfigurationError


def serve() -> NoReturn:
    """Wait until this release may start, then replace this process by the server, which so receives the signals.

    The release may start if ``current`` names it, or once if the committer has created the file ``go``.
    """
    release = configuration.require()
    current.wait(release, may_start=True)
    sqlite.require_safe()
    remove_stale_socket(release.require_socket())
    os.umask(0o027)
    os.execv(sys.executable, command(release))  # noqa: S606 (the server gets the signals)


def work(words: Sequence[str]) -> NoReturn:
    """Run a management command of the release that ``current`` names: as a worker, or once, as a job.

    The environment variable ``HOSTWRIGHT_WORKER`` names the worker. It is not an option, so that the runtime of an
    older image ignores it and runs the command. A job's command is a child process: the first process of a container
    ignores SIGTERM unless it has a handler, and few commands have one.

    Args:
        words: the command and its arguments, as for ``manage.py``.

    Raises:
        ConfigurationError: there is no command.
    """
    if not words:
        raise ConfigurationError("work: name a management command, for example: work process_tasks --queue mail.")
    release = configuration.require()
    name = os.environ.get("HOSTWRIGHT_WORKER")
    if name:
        worker.Worker(release, name, words).run()
    current.wait(release, may_start=False)
    child = os.posix_spawn(sys.executable, [sys.executable, "manage.py", *words], os.environ)
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(child, number))
    ended, status = os.wait()
    while ended != child:  # the first process of a container also adopts orphans
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


def command(release: Configuration) -> list[str]:
    """Return the command line of Granian.

    SIGTERM ends it gracefully: it accepts no new connections, and a process ends after its last request, or is killed
    after ``stop_timeout``. Nginx writes the access log.

    -P excludes the working directory from the import path, so that a package of the project cannot replace one of the
    server. The application is given as a file: Granian would search a module name in the working directory, which may
    be a package itself if it has an ``__init__.py``.
    """
    server = release.server
    return [
        sys.executable, "-P", "-m", "granian",
        "--working-dir", str(Path.cwd()),
        "--interface", "wsgi",
        "--http", "1",
        "--no-ws",
        "--uds", str(release.require_socket()),
        "--uds-permissions", "0660",
        "--workers", str(server.processes),
        "--blocking-threads", str(server.threads),
        "--backlog", str(server.backlog),
        "--workers-kill-timeout", str(server.stop_timeout),
        "--respawn-failed-workers",
        "--log-level", "info",
        "--no-access-log",
        f"{Path(__file__).with_name('wsgi.py')}:application",
    ]  # fmt: skip


def remove_stale_socket(path: Path) -> None:
    """Remove the socket of a killed server: Granian does not start if it exists.

    Raises:
        BusyError: a server answers on it.
        ConfigurationError: the directory is missing or not writable, or the path is not a socket.
    """
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"{path.parent}: the socket's directory is missing, or user {os.getuid()} cannot write there."
        )
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"{path}: is not a socket. Remove it, so that the server can start.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise BusyError(f"{path}: another server answers on this socket.")


def develop(port: int) -> NoReturn:
    """Migrate the development database, then replace this process by Django's server, which reloads changed code.

    Args:
        port: TCP port, on all addresses of the container.
    """
    from hostwright import migrations

    migrations.migrate()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "manage.py", "runserver", f"0.0.0.0:{port}"])  # noqa: S606

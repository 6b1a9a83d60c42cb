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
    """Replace this process by the server, so that it gets the container's signals itself.

    It waits until ``current`` names this release, or takes the file ``go``, which the committer made for one start.
    """
    release = configuration.require()
    current.wait(release, may_start=True)
    sqlite.require_safe()
    remove_stale_socket(release.require_socket())
    os.umask(0o027)
    os.execv(sys.executable, command(release))  # noqa: S606 (the server gets the signals)


def work(words: Sequence[str]) -> NoReturn:
    """Run a management command of the release that ``current`` names: as its worker, or once, as a job.

    ``HOSTWRIGHT_WORKER`` in the environment names the worker. It is no option, so that an older image's runtime, which
    does not know it, runs the command all the same. A job's command is a child: the first process of a container
    ignores SIGTERM unless it has a handler, and few commands have one.

    Args:
        words: the command and its arguments, as ``manage.py`` gets them.

    Raises:
        ConfigurationError: there are none.
    """
    if not words:
        raise ConfigurationError("work: which management command? For example: work process_tasks --queue mail.")
    release = configuration.require()
    name = os.environ.get("HOSTWRIGHT_WORKER")
    if name:
        worker.Worker(release, name, words).run()
    current.wait(release, may_start=False)
    child = os.posix_spawn(sys.executable, [sys.executable, "manage.py", *words], os.environ)
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(child, number))
    ended, status = os.wait()
    while ended != child:  # what others have left behind is this process's, too
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


def command(release: Configuration) -> list[str]:
    """Build the command line of Granian.

    SIGTERM ends it gracefully: it accepts nothing new, and a process ends after its last request, or is killed
    after ``stop_timeout``. Nginx keeps the access log.

    -P keeps the project's packages from being taken for the server's. The application is named by its file, since by
    its module's name Granian looks for it in the working directory: with an ``__init__.py`` there, in the package that
    the directory is then.
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
    """Remove the socket that a killed server left: Granian would not start beside it.

    Raises:
        BusyError: a server answers on it.
        ConfigurationError: the directory is missing or not writable, or the path is no socket.
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
        raise ConfigurationError(f"{path}: is no socket; the server will not remove it.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise BusyError(f"{path}: another server answers on this socket.")


def develop(port: int) -> NoReturn:
    """Migrate the development database, then replace this process by Django's server, which reloads on a save.

    Args:
        port: TCP, on all addresses of the container.
    """
    from hostwright import migrations

    migrations.migrate()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "manage.py", "runserver", f"0.0.0.0:{port}"])  # noqa: S606

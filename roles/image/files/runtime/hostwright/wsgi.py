"""The WSGI application of the server: the project's own, and the answers to the readiness probe."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from hostwright import configuration, migrations, project
from hostwright.errors import HostwrightError
from hostwright.probe import READY_PATH

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class Readiness:
    """Answer the readiness probe; pass every other request to the project, with the visitor's address."""

    def __init__(
        self, application: Application, unready: Callable[[], str | None], backups: Callable[[], dict[str, Any] | None]
    ) -> None:
        """Wrap a project's application.

        Args:
            application: the project's application.
            unready: returns why the site cannot serve, or None if it can.
            backups: returns the age of the newest backup, or None if unknown. It is only reported: a site with stale
                backups is ready.
        """
        self._application = application
        self._unready = unready
        self._backups = backups

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request (PEP 3333)."""
        if environ.get("PATH_INFO") != READY_PATH:
            # A Unix socket has no addresses. Only Nginx connects, and it overwrites this header of the visitor.
            if address := environ.get("HTTP_X_REAL_IP"):
                environ["REMOTE_ADDR"] = address
            return self._application(environ, start_response)
        reason = self._unready()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
        answer: dict[str, Any] = {"status": "unready", "reason": reason} if reason else {"status": "ready"}
        if found := self._backups():
            answer["backup"] = found
        body = json.dumps(answer).encode() + b"\n"
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response(f"{status.value} {status.phrase}", headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


class DatabaseCheck:
    """Check that the site's database opens and has no pending migrations.

    Once nothing is pending, migrations are not compared again: they are never reversed under a running release.
    """

    def __init__(self) -> None:
        """Start with the migrations unchecked."""
        self._migrated = False

    def __call__(self) -> str | None:
        """Return the reason why the site cannot serve, or None."""
        from django.db import DatabaseError, close_old_connections, connections

        connection = connections["default"]
        if not connection.is_in_memory_db() and not Path(connection.settings_dict["NAME"]).exists():
            return f"the database {connection.settings_dict['NAME']} does not exist"
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM sqlite_schema")
                cursor.fetchone()
            if not self._migrated:
                left = migrations.pending()["pending"]
                if left:
                    return f"pending migrations: {', '.join(left)}"
                self._migrated = True
        except (DatabaseError, HostwrightError) as error:
            return f"cannot open the database: {error}"
        finally:
            close_old_connections()
        return None


def backup_freshness() -> dict[str, Any] | None:
    """Return the age of the newest backup from the file that the host writes beside ``current``; None without one."""
    release = configuration.load()
    if release is None or release.server.socket is None:
        return None
    try:
        found = json.loads((release.server.socket.parents[2] / "backup.json").read_text(encoding="utf-8"))
        if found["time"] is None:
            return {"age_seconds": None, "stale": None, "drill": found["drill"]}
        age = time.time() - found["time"]
        return {"age_seconds": round(age), "stale": age > found["stale_after_seconds"], "drill": found["drill"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load() -> Readiness:
    """Import the project's application. If that fails, print one message and end the whole server.

    Otherwise Granian would restart its process again and again, and fill the log with tracebacks.
    """
    try:
        with project.explained("the WSGI application"):
            return Readiness(project.wsgi_application(), DatabaseCheck(), backup_freshness)
    except HostwrightError as error:
        print(f"hostwright serve: {error}", file=sys.stderr, flush=True)
        server = multiprocessing.parent_process()
        if server is not None and server.pid is not None:
            os.kill(server.pid, signal.SIGTERM)
        raise SystemExit(error.exit_status) from error


application = load()

"""Notices of a run's result: syslog, the log beside the backups, the heartbeat. Cron mails the command's output."""

from __future__ import annotations

import contextlib
import http.client
import os
import syslog
import time
import urllib.request
from pathlib import Path

from ansible_collections.hostwright.django.plugins.module_utils.host import files

from hostwright_host.errors import CommandError
from hostwright_host.site import Settings
from hostwright_host.store import written

_LOG_BYTES = 1_000_000
"""Size at which the log is rotated; the old log is kept as ``log.1``."""
_HEARTBEAT_TRIES = 3
_HEARTBEAT_TIMEOUT = 10.0


def note(site: str, text: str, directory: Path | None = None, level: int = syslog.LOG_INFO) -> None:
    """Write a message, line by line, to syslog and to the log beside the backups.

    A log that cannot be written is reported to syslog; it fails nothing.
    """
    moment = written(time.time())
    lines = text.splitlines()
    for line in lines:
        syslog.syslog(level, f"{site}: {line}")
    if directory is None:
        return
    try:
        _append(directory / "log", "".join(f"{moment} {line}\n" for line in lines))
    except OSError as error:
        syslog.syslog(syslog.LOG_WARNING, f"{site}: the log in {directory} cannot be written: {error}")


def _append(path: Path, text: str) -> None:
    """Append to the log without following links or blocking on a FIFO: the containers' user owns its directory."""
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_size > _LOG_BYTES:
            files.replace(path, path.with_name(f"{path.name}.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as handle:
        handle.write(text)


def beat(site: str, settings: Settings, well: bool) -> None:
    """Call the heartbeat's URL, or the one for failures. A call that fails is logged; it fails nothing."""
    url = settings.secret("heartbeat_url" if well else "heartbeat_fail_url")
    if not url:
        return
    problem = ""
    for attempt in range(_HEARTBEAT_TRIES):
        time.sleep(attempt)
        try:
            with urllib.request.urlopen(url, timeout=_HEARTBEAT_TIMEOUT):  # noqa: S310 (http or https: role backup)
                return
        except (OSError, ValueError, http.client.HTTPException) as error:
            # The URL is a secret: anybody who knows it can send heartbeats.
            problem = str(error).replace(url, "the URL")
    note(site, f"the heartbeat could not be sent: {problem}", settings.directory, syslog.LOG_WARNING)


def failed(site: str, settings: Settings | None, what: str, error: CommandError) -> None:
    """Log a failure and call the heartbeat's URL for failures; the command prints it too, for cron's mail."""
    directory = settings.directory if settings else None
    note(site, f"{what} failed (exit status {error.exit_status}): {error}", directory, syslog.LOG_ERR)
    if settings:
        beat(site, settings, well=False)

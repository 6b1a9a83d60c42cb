"""The off-site repository: restic sends verified backups to it, encrypted."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hostwright_host.errors import TIMED_OUT, CommandError
from hostwright_host.health import ended
from hostwright_host.site import Settings, Site
from hostwright_host.store import Backup

_PRUNE_INTERVAL = 24 * 3600.0
_CHECK_PARTS = 8
"""Number of parts of the data; a check reads one part."""
_NO_REPOSITORY = "Is there a repository at the following location?"
_LOCKED = "repository is already locked"
_LOCK_WAIT = 600.0
"""Seconds to wait for another host's lock: hosts of a group share their schedules."""


def send(site: Site, settings: Settings, backup: Backup) -> None:
    """Send a backup, remove the off-site backups that are not kept any more, store the result.

    Raises:
        CommandError: restic failed; the message has its output.
    """
    started = time.time()
    directory = settings.directory
    files = sorted(path.name for path in directory.glob(f"{backup.id}.*"))
    tag = f"hostwright-{site.name}"
    taken = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(backup.taken))
    words: tuple[str, ...] = ("backup", "--json", "--tag", tag, "--time", taken)
    before = site.memory().get("offsite") or {}
    repository = hashlib.sha256(str(settings.offsite["repository"]).encode()).hexdigest()
    result = _restic(site, settings, (*words, "--", *files), directory)
    # A known repository that is missing is an unmounted disk: no new one is made in its place.
    if result.returncode and _NO_REPOSITORY in result.stderr and before.get("repository") != repository:
        _require(_restic(site, settings, ("init",), directory), "make the repository")
        result = _restic(site, settings, (*words, "--", *files), directory)
    if _NO_REPOSITORY in result.stderr:
        raise CommandError(
            "The off-site repository, which was there before, is gone: is its disk mounted? To start a new one, run "
            f"restic init on this host, or set another one (backup_offsite).\n{result.stderr.strip()}"
        )
    _require(result, f"send {backup.id}")
    found = _message(result.stdout, "summary")
    pruned = float(before.get("pruned") or 0)
    if time.time() - pruned > _PRUNE_INTERVAL:
        keep = [word for name, number in settings.keep.items() if number for word in (f"--keep-{name}", str(number))]
        words = ("forget", "--prune", "--tag", tag, "--group-by", "host,tags", *keep)
        _require(_restic(site, settings, words, directory), "remove old backups")
        pruned = time.time()
    site.remember(
        offsite=ended(
            True, "", started, id=backup.id, taken=backup.taken, pruned=pruned, repository=repository,
            snapshot=found.get("snapshot_id"), added_bytes=found.get("data_added"),
        )
    )  # fmt: skip


def check(site: Site, settings: Settings) -> None:
    """Check the repository's structure and one part of its data, the next part each week; store the result.

    Raises:
        CommandError: the repository is damaged or cannot be reached.
    """
    if not settings.offsite:
        raise CommandError(f"{site.name} has no off-site repository (backup_offsite).", 2)
    started = time.time()
    part = int(started // (7 * 24 * 3600)) % _CHECK_PARTS + 1
    try:
        words = ("check", f"--read-data-subset={part}/{_CHECK_PARTS}")
        _require(_restic(site, settings, words, settings.directory), "check the repository")
    except CommandError as error:
        site.remember(offsite_check=ended(False, str(error), started))
        raise
    site.remember(offsite_check=ended(True, "", started, part=part))


def _restic(site: Site, settings: Settings, words: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run restic; remove a lock that a killed run left (unlock removes it only if its process is gone).

    Waits up to 10 minutes for another host's lock, and for this host's own runs of restic until they end.
    """
    with site.lock("restic", wait=True):
        until = time.monotonic() + min(settings.time_limit, _LOCK_WAIT)
        pause = 0
        while True:
            result = _once(site, settings, words, directory)
            if not result.returncode or _LOCKED not in result.stderr or time.monotonic() > until:
                return result
            _require(_once(site, settings, ("unlock",), directory), "unlock the repository")
            time.sleep(pause)
            pause = min(2 * pause + 1, 15)


def _once(site: Site, settings: Settings, words: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        "HOME": "/root",
        **os.environ,
        "TZ": "UTC",
        **{name: str(value) for name, value in (settings.offsite.get("environment") or {}).items()},
        "RESTIC_REPOSITORY": str(settings.offsite["repository"]),
        "RESTIC_PASSWORD_FILE": str(site.password_path),
    }
    options = [word for option in settings.offsite.get("options") or [] for word in ("--option", str(option))]
    try:
        return subprocess.run(
            ["restic", *options, *words],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=settings.time_limit,
        )
    except FileNotFoundError as error:
        raise CommandError("There is no restic on this host: run the role backup.") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(
            f"restic {words[0]} did not end within {settings.time_limit:g} s and was killed.", TIMED_OUT
        ) from error


def _require(result: subprocess.CompletedProcess[str], what: str) -> None:
    if result.returncode:
        error = _message(result.stderr, "exit_error").get("message") or (result.stderr or result.stdout).strip()
        raise CommandError(f"restic could not {what}: {error or f'exit status {result.returncode}'}")


def _message(output: str, kind: str) -> dict[str, Any]:
    """Return the last JSON message of a kind in restic's output; empty if there is none."""
    for line in reversed(output.splitlines()):
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and message.get("message_type") == kind:
            return message
    return {}

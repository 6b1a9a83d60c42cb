"""The runs that cron starts: backup, drill, watch, check of the off-site repository. Each reports its result."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import syslog
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.hostwright.django.plugins.module_utils.contract import (
    APP_GID,
    APP_UID,
    BACKUPS,
    CONFIGURATION,
    DATA,
    MEDIA,
    RUN,
    SECRETS,
    configuration_of,
)
from ansible_collections.hostwright.django.plugins.module_utils.host.files import remove_tree

from hostwright_host import offsite
from hostwright_host.containers import Mount, OneShot, report_of
from hostwright_host.errors import TIMED_OUT, BusyError, CommandError
from hostwright_host.health import Health, ended, publish, span
from hostwright_host.notices import beat, failed, note
from hostwright_host.site import Settings, Site, field
from hostwright_host.store import Backup, backups, require_directory

_ALARM_INTERVAL = 24 * 3600.0
"""Seconds after which an alarm that is still active is reported again."""
_MEMORY = "/dev/shm"  # noqa: S108 (each copy is in a directory of its own that only root may enter)
_SPARE = 64 << 20
"""Bytes that a drill needs in addition to the database."""


@contextlib.contextmanager
def _reported(site: Site, settings: Settings, what: str) -> Iterator[None]:
    """Report and store a failure; BusyError is not a failure."""
    started = time.time()
    try:
        try:
            yield
        except OSError as error:
            raise CommandError(str(error)) from error
    except BusyError:
        raise
    except CommandError as error:
        failed(site.name, settings, what, error)
        site.remember(**{what: ended(False, str(error), started)})
        publish(site, settings)
        raise


def backup(site: Site) -> dict[str, Any]:
    """Make a verified backup, send it to the off-site repository if there is one, and call the heartbeat.

    Returns:
        The new backup's manifest.
    """
    settings = site.settings()
    started = time.time()
    with site.lock("backup"), _reported(site, settings, "backup"):
        for command in settings.secrets.get("pre_hooks") or []:
            _run_hook(site, settings, str(command))
        manifest = _back_up_current_generation(site, settings)
        name = str(manifest.get("id"))
        if settings.offsite:
            made = next((one for one in backups(settings.directory) if one.id == name), None)
            if made is None:
                raise CommandError(f"{settings.directory}: the backup {name} is missing, or its seal does not match.")
            try:
                offsite.send(site, settings, made)
            except CommandError as error:
                raise CommandError(
                    f"The backup {name} was made and verified, but is not off-site: {error}", error.exit_status
                ) from error
        site.remember(backup=ended(True, f"{name} verified", started, id=name))
        note(site.name, f"backup {name} verified in {time.time() - started:.1f} s", settings.directory)
        publish(site, settings)
        beat(site.name, settings, well=True)
    return manifest


def _run_hook(site: Site, settings: Settings, command: str) -> None:
    try:
        result = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd="/",
            env={**os.environ, "HOSTWRIGHT_SITE": site.name},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=settings.time_limit,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(
            f"The pre-backup hook did not end within {settings.time_limit:g} s: {command}", TIMED_OUT
        ) from error
    if result.returncode:
        raise CommandError(
            f"The pre-backup hook ended with exit status {result.returncode}: {command}\n{result.stdout.strip()}"
        )


def _back_up_current_generation(site: Site, settings: Settings) -> dict[str, Any]:
    """Back up; if a release commits a new database generation meanwhile, back that up, too."""
    while True:
        record = site.current()
        require_directory(settings.directory)
        with _tls_copy(site) as tls:
            result = backup_container(site, settings, record, tls).run(record)
        manifest = report_of(result, "backup")
        if result.stderr:
            # The runtime's warnings go to the operator; they are no part of the report.
            sys.stderr.write(result.stderr)
            note(site.name, result.stderr, settings.directory, syslog.LOG_WARNING)
        if site.current().get("generation") == record.get("generation"):
            return manifest


def backup_container(site: Site, settings: Settings, record: dict[str, Any], tls: Path | None = None) -> OneShot:
    """Return the container that makes a backup."""
    mounts = [
        Mount(site.data, DATA, writable=True),
        Mount(site.config, CONFIGURATION),
        *_run_and_media(site),
        *([Mount(tls, "/site/tls")] if tls else []),
        Mount(settings.directory, BACKUPS, writable=True),
    ]
    verb = [
        "backup", "--output", BACKUPS, "--record", f"{RUN}/releases/{record.get('release')}/release.json",
        "--keep", json.dumps(settings.keep), "--level", settings.text("level"),
        "--time-limit", settings.text("time_limit_seconds"),
        *(["--media", MEDIA] if site.media.is_dir() else []),
    ]  # fmt: skip
    return OneShot(site, "backup", mounts, verb, settings.time_limit)


def _run_and_media(site: Site) -> list[Mount]:
    return [Mount(site.run, RUN), *([Mount(site.media, MEDIA)] if site.media.is_dir() else [])]


@contextlib.contextmanager
def _tls_copy(site: Site) -> Iterator[Path | None]:
    """Copy the site's certificate and key into memory for the backup container: only Nginx and root may read the key.

    Yields:
        The directory of the copy; None if the site has no certificate.
    """
    if not site.tls.is_dir():
        yield None
        return
    with tempfile.TemporaryDirectory(dir=_MEMORY, prefix="hostwright-") as scratch:
        place = Path(scratch) / site.name
        shutil.copytree(site.tls, place)
        for path in (Path(scratch), place, *place.iterdir()):
            _chown(path)
        yield Path(scratch)


def verify(site: Site, ids: list[str]) -> dict[str, Any]:
    """Read backups again and compare them with their manifests; no ids mean all backups.

    Returns:
        The runtime's report: ``verified`` and ``wrong``.
    """
    settings = site.settings()
    require_directory(settings.directory)
    record = site.current()
    verb = ["verify", "--output", BACKUPS, *ids]
    result = OneShot(site, "verify", [Mount(settings.directory, BACKUPS)], verb, settings.time_limit).run(record)
    if result.returncode == 1 and result.stdout.startswith("{"):
        result.returncode = 0  # the report has the damaged backups
    return report_of(result, "verification")


def drill(site: Site) -> list[dict[str, Any]]:
    """Restore and boot the newest backup and a random older one in a scratch directory.

    Returns:
        The runtime's report for each.
    """
    settings = site.settings()
    started = time.time()
    with site.lock("drill"), _reported(site, settings, "drill"):
        require_directory(settings.directory)
        found = backups(settings.directory)
        if not found:
            raise CommandError(f"{settings.directory}: there is no backup to restore.")
        done = [_drill_one(site, settings, found[-1])]
        while len(found) > 1:
            chosen = random.choice(found[:-1])  # noqa: S311 (not for cryptography)
            try:
                done.append(_drill_one(site, settings, chosen))
                break
            except CommandError:
                # If retention removed it meanwhile, try another one.
                left = [one.id for one in backups(settings.directory)]
                if chosen.id in left:
                    raise
                found = [one for one in found if one.id in left]
        recovery = float((done[0].get("seconds") or {}).get("total") or 0)
        names = " and ".join(str(one.get("id")) for one in done)
        message = f"{names} restored and booted"
        site.remember(drill=ended(True, message, started, recovery=recovery, backups=done))
        note(site.name, f"drill: {message} in {time.time() - started:.1f} s", settings.directory)
        publish(site, settings)
    return done


def _drill_one(site: Site, settings: Settings, chosen: Backup) -> dict[str, Any]:
    record = site.current()
    scratch = site.data / "drill"
    # The lock allows one drill at a time, so a directory found here was left by a killed drill.
    remove_tree(scratch)
    needed, free = chosen.database_bytes + _SPARE, shutil.disk_usage(site.data).free
    if free < needed:
        raise CommandError(
            f"{site.data}: not enough space to restore {chosen.id}: "
            f"{needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free."
        )
    scratch.mkdir(mode=0o700)
    try:
        _chown(scratch)
        files = sorted(settings.directory.glob(f"{chosen.id}.*"))  # of this backup only
        mounts = [
            *_release_mounts(site, record),
            *(Mount(path, f"{BACKUPS}/{path.name}") for path in files),
            Mount(scratch, "/site/scratch", writable=True),
        ]
        verb = ["drill", "--output", BACKUPS, "--backup", chosen.id, "--scratch", "/site/scratch"]
        container = OneShot(site, "drill", mounts, verb, settings.time_limit, memory="1g")
        result = container.run(record)
        try:
            return report_of(result, "drill")
        except CommandError as error:
            raise CommandError(f"{chosen.id} could not be restored and booted: {error}", error.exit_status) from error
    finally:
        with contextlib.suppress(OSError):  # the next drill removes it, or reports why it cannot
            remove_tree(scratch)


def _release_mounts(site: Site, record: dict[str, Any]) -> list[Mount]:
    """Return the live release's mounts except the database, all read-only.

    The project's code runs in this container, so it does not see the secrets at rest, of this release or of others.
    """
    release = field(record, "release")
    configuration = Mount(site.config / "releases" / f"{release}.json", configuration_of(release))
    secrets = site.secrets(release)
    # Without its secrets the release does not boot, and the runtime reports what is missing.
    return [configuration, *_run_and_media(site), *([Mount(secrets, SECRETS)] if secrets.is_dir() else [])]


def _chown(path: Path) -> None:
    """Give a file or directory to the containers' user; only root can do that, and only root needs to."""
    if os.geteuid() == 0:
        os.chown(path, APP_UID, APP_GID)


def check_offsite(site: Site) -> None:
    """Check the off-site repository."""
    settings = site.settings()
    with site.lock("offsite_check"), _reported(site, settings, "offsite_check"):
        offsite.check(site, settings)
        note(site.name, "the off-site repository passed its check", settings.directory)
        publish(site, settings)


def watch(site: Site) -> str:
    """Raise an alarm if backups or drills are late or failed: at each change, and once a day while it is active.

    Returns:
        The message that the alarm has ended, once; otherwise an empty string.

    Raises:
        CommandError: the alarm; its message is empty if it was reported in the last 24 hours.
    """
    settings = site.settings()
    with site.lock("watch"):
        health = Health.of(site, settings)
        problems = health.problems()
        before = site.memory().get("alarm") or {}
        kinds = sorted(problems)
        text = "\n".join(problems[kind] for kind in kinds)
        publish(site, settings)
        if kinds:
            note(site.name, text, settings.directory, syslog.LOG_ERR)
            if kinds == before.get("kinds") and health.now - float(before.get("told") or 0) < _ALARM_INTERVAL:
                raise CommandError("")
            since = before.get("since") if before.get("kinds") else health.now
            site.remember(alarm={"kinds": kinds, "since": since, "told": health.now})
            beat(site.name, settings, well=False)
            raise CommandError(text)
        if before.get("kinds"):
            site.remember(alarm={})
            duration = span(health.now - float(before.get("since") or health.now))
            text = f"The alarm has ended after {duration}: {', '.join(before['kinds'])}."
            note(site.name, text, settings.directory)
            return text
        return ""

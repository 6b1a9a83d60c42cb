"""The command's text output: the status page (80 columns) and the table of backups."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.hostwright.django.plugins.module_utils.manifest import size

from hostwright_host import certificates
from hostwright_host.containers import container_state
from hostwright_host.errors import CommandError
from hostwright_host.health import Health, first_line, span
from hostwright_host.site import Site, field
from hostwright_host.store import Backup, written

_WIDTH = 80
_LABEL = 12


def status(site: Site) -> dict[str, Any]:
    """Return the state of the live release, its container, its certificate and its backups, with all problems."""
    record = site.current()
    container = container_state(field(record, "container"))
    found: dict[str, Any] = {"site": site.name, "release": record, "container": container}
    if site.settings_path.exists():
        found |= Health.of(site, site.settings()).summary(site)
    else:
        found |= {"backup": None, "backups": 0, "problems": {"none": "No backups are set up: run the role backup."}}
    found["certificate"] = certificates.status(site)
    found["problems"] = {**certificates.problems(found["certificate"], time.time()), **found["problems"]}
    if container["status"] != "running":
        down = f"The container {container['name']} is {container['status']}."
        found["problems"] = {"down": down, **found["problems"]}
    return found


def page(found: Mapping[str, Any]) -> str:
    """Format the status as text."""
    record, container = found["release"], found["container"]
    release = f"{found['site']}: release {record.get('release')}, version {record.get('version')}"
    lines = [f"{release}, container {container['name']} {container['status']}"]
    if found["certificate"]:
        lines += _part("TLS", _certificate(found["certificate"]))
    if "interval_seconds" in found:
        lines += _part("backups", _backups(found))
        for label, run in (("last run", "last_run"), ("drill", "drill")):
            lines += _part(label, _run(found[run]))
        if found["offsite"]:
            lines += _part("off-site", _run(found["offsite"]))
        if found["offsite_check"]:
            lines += _part("", f"checked {_run(found['offsite_check'])}")
    for text in found["problems"].values():
        lines += _part("WRONG", text)
    return "\n".join(lines)


def _part(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"  {label:<{_LABEL - 2}}", subsequent_indent=" " * _LABEL, break_on_hyphens=False
    )


def _certificate(known: Mapping[str, Any]) -> str:
    source = known.get("directory") or "the control node"
    return f"certificate for {', '.join(known.get('names') or [])} from {source}, until {known.get('expires')}"


def _backups(found: Mapping[str, Any]) -> str:
    due = f"one is due every {span(found['interval_seconds'])}"
    wrong = f"; not usable: {', '.join(found['unusable'])}" if found["unusable"] else ""
    newest = found["backup"]
    if not newest:
        return f"none yet; {due}{wrong}"
    return (
        f"{found['backups']}, {size(found['stored_bytes'])} on disk; the newest is {newest['id']}, "
        f"{span(newest['age_seconds'])} old ({due}): database {size(newest['database_bytes'])}, "
        f"{size(newest['archive_bytes'])} packed, {newest['rows_total']} rows; "
        f"media {size(newest['media_bytes'])}; made and verified in {newest['seconds']:.1f} s{wrong}"
    )


def _run(run: Mapping[str, Any] | None) -> str:
    if not run:
        return "none yet"
    outcome = "ok" if run.get("ok") else f"FAILED: {first_line(run)}"
    ids = str(run.get("id") or "") or ", ".join(str(one.get("id")) for one in run.get("backups") or [])
    recovery = f"; the newest was restored and booted in {run['recovery']:.1f} s" if run.get("recovery") else ""
    return f"{run.get('time')}, {outcome}{': ' + ids if ids else ''}{recovery}"


def table(backups: Sequence[Backup], unusable: Mapping[str, str], now: float) -> str:
    """Format backups as a table, newest first, then the unusable ones with the reasons."""
    rows = [("BACKUP", "AGE", "DATABASE", "PACKED", "MEDIA", "ROWS")] + [
        (
            backup.id, span(now - backup.taken), size(backup.database_bytes), size(backup.archive_bytes),
            size(backup.media_bytes), str(backup.rows),
        )
        for backup in reversed(backups)
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([*lines, *(f"{name} not usable: {unusable[name]}" for name in reversed(list(unusable)))])


def as_data(backups: Sequence[Backup]) -> list[dict[str, Any]]:
    """Return backups, oldest first, as JSON types."""
    return [
        {
            "id": backup.id,
            "time": written(backup.taken),
            "release": backup.manifest.get("release"),
            "version": backup.manifest.get("version"),
            "database_bytes": backup.database_bytes,
            "archive_bytes": backup.archive_bytes,
            "media_bytes": backup.media_bytes,
            "rows_total": backup.rows,
            "seconds": backup.seconds,
        }
        for backup in backups
    ]


def require_fresh(site: Site) -> None:
    """Raise an error if the backups are stale; a site without configured backups passes.

    Raises:
        CommandError: the problems of the backups.
    """
    if not site.settings_path.exists():
        return
    problems = Health.of(site, site.settings()).backup_problems()
    if problems:
        raise CommandError(" ".join(problems.values()))

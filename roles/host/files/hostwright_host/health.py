"""The health of a site's backups: age of the newest, result of the last drill, state of the off-site repository."""

from __future__ import annotations

import json
import syslog
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from hostwright_host.notices import note
from hostwright_host.site import Settings, Site, write
from hostwright_host.store import Backup, look, stored_bytes, written

_CLOCK_TOLERANCE = 300.0
"""Seconds that a backup may be ahead of the clock: clocks are corrected."""
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Health:
    """The state of a site's backups at a time (seconds since the epoch)."""

    now: float
    settings: Settings
    backups: list[Backup]
    """Usable backups, oldest first."""
    unusable: Mapping[str, str]
    """The reason for each unusable backup, by id."""
    memory: Mapping[str, Any]
    set_up: float
    """When the settings were written: before the first backup, ages count from then."""

    @classmethod
    def of(cls, site: Site, settings: Settings) -> Health:
        """Read a site's backups and the results of its last runs."""
        return cls(time.time(), settings, *look(settings.directory), site.memory(), settings.path.stat().st_mtime)

    @property
    def newest(self) -> Backup | None:
        """The newest verified backup."""
        return self.backups[-1] if self.backups else None

    @property
    def age(self) -> float:
        """Seconds since the newest verified backup was taken, or since backups were set up."""
        return self.now - (self.newest.taken if self.newest else self.set_up)

    @property
    def stale_after(self) -> float:
        """Age in seconds from which backups are stale: twice the interval plus the duration of a backup."""
        return 2 * self.settings.interval + (self.newest.seconds if self.newest else 0.0)

    def backup_problems(self) -> dict[str, str]:
        """Return the problems of the backups, by kind."""
        found = {}
        beside = f"; not usable: {', '.join(self.unusable)}" if self.unusable else ""
        every = f"one is due every {span(self.settings.interval)}{beside}"
        newest = self.newest
        if not self.settings.directory.is_dir():
            found["missing"] = f"{self.settings.directory}, the backups' directory, is missing: mount it."
        elif newest is None:
            if self.age > self.stale_after:
                found["stale"] = f"No backup has been made since they were set up {span(self.age)} ago; {every}."
        elif self.age > self.stale_after:
            found["stale"] = f"The newest verified backup, {newest.id}, is {span(self.age)} old; {every}."
        elif self.age < -_CLOCK_TOLERANCE:
            found["clock"] = f"The newest backup, {newest.id}, is {span(-self.age)} ahead of this host's clock."
        sent = self._run("offsite")
        if self.settings.offsite and self.now - float(sent.get("taken") or self.set_up) > self.stale_after:
            last = f"the last that was sent is {sent['id']}" if "id" in sent else "none has been sent"
            found["offsite"] = f"No fresh backup is off-site: {last}; {every}."
        return found

    def problems(self) -> dict[str, str]:
        """Return the problems of backups, drills and the off-site repository, by kind."""
        found = self.backup_problems()
        drill = self._run("drill")
        if drill and not drill.get("ok"):
            found["drill"] = f"The last drill, {drill.get('time')}, failed: {first_line(drill)}"
        elif self.settings.drill_interval:
            age = self.now - float(drill.get("moment") or self.set_up)
            if age > 2 * self.settings.drill_interval:
                found["drill"] = (
                    f"The last drill was {span(age)} ago" if drill else f"There was no drill in {span(age)}"
                ) + f"; one is due every {span(self.settings.drill_interval)}."
        check = self._run("offsite_check")
        if self.settings.offsite and check and not check.get("ok"):
            found["offsite_check"] = f"The last check of the off-site repository failed: {first_line(check)}"
        return found

    def summary(self, site: Site) -> dict[str, Any]:
        """Return the whole state as JSON types."""
        newest = self.newest
        return {
            "site": site.name,
            "time": written(self.now),
            "backup": newest and {
                "id": newest.id,
                "time": written(newest.taken),
                "moment": round(newest.taken),
                "age_seconds": round(self.age),
                "release": newest.manifest.get("release"),
                "version": newest.manifest.get("version"),
                "archive_bytes": newest.archive_bytes,
                "database_bytes": newest.database_bytes,
                "media_bytes": newest.media_bytes,
                "rows_total": newest.rows,
                "seconds": newest.seconds,
            },
            "backups": len(self.backups),
            "unusable": dict(self.unusable),
            "stored_bytes": stored_bytes(self.settings.directory, self.backups),
            "interval_seconds": round(self.settings.interval),
            "stale_after_seconds": round(self.stale_after),
            "last_run": self._run("backup") or None,
            "drill": self._run("drill") or None,
            "offsite": self._run("offsite") or None,
            "offsite_check": self._run("offsite_check") or None,
            "problems": self.problems(),
        }  # fmt: skip

    def _run(self, name: str) -> dict[str, Any]:
        return dict(self.memory.get(name) or {})


def ended(ok: bool, message: str, started: float, **facts: Any) -> dict[str, Any]:
    """Return the result of a run that started at a time (seconds since the epoch), as the memory stores it."""
    now = time.time()
    return {
        "ok": ok, "time": written(now), "moment": round(now), "seconds": round(now - started, 1), "message": message,
        **facts,
    }  # fmt: skip


def first_line(run: Mapping[str, Any]) -> str:
    """Return the first line of a run's message."""
    return next(iter(str(run.get("message") or "").splitlines()), "it gave no reason.")


def span(seconds: float) -> str:
    """Format a time span (seconds) with its largest unit and the next smaller one."""
    rest = max(round(seconds), 0)
    for (size, unit), (smaller, below) in pairwise(_UNITS):
        if rest >= size:
            number = rest % size // smaller
            return f"{rest // size} {unit}" + (f" {number} {below}" if number else "")
    return f"{rest} s"


def publish(site: Site, settings: Settings) -> None:
    """Write the state beside the backups, for node_exporter and for the site's readiness probe.

    A report that cannot be written is logged; it fails nothing.
    """
    health = Health.of(site, settings)
    summary = health.summary(site)
    text = metrics(summary)
    ready = {
        "time": health.newest and health.newest.taken,
        "stale_after_seconds": summary["stale_after_seconds"],
        "drill": summary["drill"] and summary["drill"]["ok"],
    }
    places: list[tuple[Path, str, int]] = [
        (settings.directory / "status.json", json.dumps(summary, indent=1) + "\n", 0o600),
        (settings.directory / "hostwright.prom", text, 0o600),
        (site.run / "backup.json", json.dumps(ready) + "\n", 0o644),
    ]
    if settings.metrics_directory:
        places.append((settings.metrics_directory / f"hostwright_{site.name}.prom", text, 0o644))
    for path, content, mode in places:
        try:
            write(path, content, mode)
        except OSError as error:
            note(site.name, f"{path} cannot be written: {error}", settings.directory, syslog.LOG_WARNING)


def metrics(summary: Mapping[str, Any]) -> str:
    """Format the state for node_exporter's textfile collector, without unknown values."""
    newest, run, drill, sent = (summary[name] or {} for name in ("backup", "last_run", "drill", "offsite"))
    values: tuple[tuple[str, str, float | None], ...] = (
        ("backup_newest_timestamp_seconds", "When the newest verified backup was taken.", newest.get("moment")),
        ("backup_newest_duration_seconds", "How long the newest backup took.", newest.get("seconds")),
        ("backup_database_bytes", "Size of the newest backup's database, unpacked.", newest.get("database_bytes")),
        ("backup_archive_bytes", "Size of the newest backup's database, packed.", newest.get("archive_bytes")),
        ("backup_media_bytes", "Size of the newest backup's media files.", newest.get("media_bytes")),
        ("backup_rows", "Rows of the newest backup, all tables.", newest.get("rows_total")),
        ("backups", "Number of verified backups.", summary["backups"]),
        ("backups_stored_bytes", "Bytes that all backups take on disk.", summary["stored_bytes"]),
        ("backup_interval_seconds", "Time between two backups, by the schedule.", summary["interval_seconds"]),
        ("backup_stale_after_seconds", "Age from which backups are stale.", summary["stale_after_seconds"]),
        ("backup_last_run_timestamp_seconds", "When the last backup ended.", run.get("moment")),
        ("backup_last_run_success", "Whether the last backup succeeded.", run.get("ok")),
        ("drill_last_run_timestamp_seconds", "When the last drill ended.", drill.get("moment")),
        ("drill_last_run_success", "Whether the last drill succeeded.", drill.get("ok")),
        ("drill_recovery_seconds", "How long the newest backup took to restore and boot.", drill.get("recovery")),
        ("offsite_newest_timestamp_seconds", "When the newest off-site backup was taken.", sent.get("taken")),
        ("backup_problems", "Number of problems with the backups.", len(summary["problems"])),
    )
    return "".join(
        f"# HELP hostwright_{name} {text}\n# TYPE hostwright_{name} gauge\n"
        f'hostwright_{name}{{site="{summary["site"]}"}} {float(value):.10g}\n'
        for name, text, value in values
        if value is not None
    )

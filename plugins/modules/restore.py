"""Restore a site's database, or list its backups."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.formatters import bytes_to_human
from ansible_collections.hostwright.django.plugins.module_utils.contract import BACKUPS_ROOT
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine
from ansible_collections.hostwright.django.plugins.module_utils.release.backups import CHOOSE, BackupDirectory, check
from ansible_collections.hostwright.django.plugins.module_utils.release.errors import ReleaseError
from ansible_collections.hostwright.django.plugins.module_utils.release.module import (
    ARGUMENTS,
    HOLD_ARGUMENTS,
    perform,
    result_of,
    site_of,
)
from ansible_collections.hostwright.django.plugins.module_utils.release.record import Record
from ansible_collections.hostwright.django.plugins.module_utils.release.releases import Releases
from ansible_collections.hostwright.django.plugins.module_utils.release.restore import RestoreRequest, Source
from ansible_collections.hostwright.django.plugins.module_utils.release.site import Site
from ansible_collections.hostwright.django.plugins.module_utils.release.spec import words_of

DOCUMENTATION = r"""
module: restore
short_description: Restore a Django site from a backup, import a database, or list the backups
description:
  - Makes a new release of the live release's image and configuration on a database that is filled from a backup, by the
    same transaction as M(hostwright.django.release). The backup is verified, unpacked into a new database generation
    and migrated, and the release is started on it and probed, before any request waits. If the restore fails, the live
    release still serves.
  - The previous release keeps the database as it was before the restore. M(hostwright.django.rollback) with
    C(schema=generation) brings it back.
  - Missing uploaded files are restored; existing ones are neither overwritten nor removed.
  - Without O(backup) and O(file) the backups are listed.
options:
  directory:
    description: Directory of the backups. The default is the directory that the role backup has set up.
    type: path
  control_node:
    description:
      - Whether O(directory) or O(file) is on the control node. The backup, or the file with its C(-wal) or C(-journal),
        is copied to the host for the duration of the restore.
      - In that case O(directory) may be an archive that M(hostwright.django.copy_backup) has fetched.
    type: bool
    default: false
  backup:
    description: V(latest), a backup's id, or a time (ISO 8601, UTC without a zone); a time means the last backup made
      until then.
    type: str
  file:
    description: Database on the host to import instead of a backup - an SQLite file, or one packed as C(.sqlite3.zst).
    type: path
  post_restore:
    description: Management commands that run in the new release when it is live.
    type: list
    elements: str
    default: []
  time_limit:
    description: Seconds that verification and unpacking may take.
    type: int
    default: 3600
extends_documentation_fragment: [hostwright.django.release, hostwright.django.release.hold]
attributes:
  check_mode:
    description: Checks the backup's files and returns a summary of its content.
    support: full
  diff_mode:
    description: Shows the live release and the backup.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: List the backups
  hostwright.django.restore:
    site: polls

- name: Restore the newest one
  hostwright.django.restore:
    site: polls
    backup: latest

- name: Import a database
  hostwright.django.restore:
    site: polls
    file: /root/import/db.sqlite3
"""

RETURN = r"""
backups:
  description: The backups, the oldest one first, with C(id), C(time), C(release), C(rows_total), C(bytes) and more.
  type: list
  elements: dict
  returned: when nothing is restored
table:
  description: The backups as lines of text, the newest one first.
  type: list
  elements: str
  returned: when nothing is restored
chosen:
  description: The chosen backup, with the names of its files; empty for a file.
  type: dict
  returned: in check mode, when a backup or a file is named
summary:
  description: What would be restored, as lines of text.
  type: list
  elements: str
  returned: in check mode, when a backup or a file is named
release:
  description: Number of the new live release.
  type: int
  returned: when something was restored
previous:
  description: Number of the release that was live before.
  type: int
  returned: when something was restored
backup:
  description: Id of the backup, or the name of the imported file.
  type: str
  returned: when something was restored
backup_time:
  description: When the backup was made; empty for an imported file.
  type: str
  returned: when something was restored
rows_total:
  description: Rows that were restored.
  type: int
  returned: when something was restored
media_restored:
  description: Number of missing uploaded files that were restored.
  type: int
  returned: when something was restored
migrations:
  description: Migrations that were applied to the restored database.
  type: list
  elements: str
  returned: when something was restored
held:
  description: Seconds during which requests waited, or were answered 503.
  type: float
  returned: when something was restored
rpo_seconds:
  description: Age of the backup when the restore began; empty for an imported file.
  type: int
  returned: when something was restored
rto_seconds:
  description: Seconds from the beginning of the restore until the restored site served.
  type: float
  returned: when something was restored
live_database_missing:
  description: Whether the live release's database was missing, so that it could not be kept.
  type: bool
  returned: when something was restored
live_database_problem:
  description: Why the live release's database could not be guarded; the release was stopped before the switch.
  type: str
  returned: when something was restored
step:
  description: Step that failed.
  type: str
  returned: failure
"""

DIRECTORY = Path(BACKUPS_ROOT)


def directory_of(site: Site, given: str | None) -> Path:
    """Return the directory of the site's backups: the given one, the configured one, or the default one."""
    settings = site.configuration / "backup.json"
    if given:
        return Path(given)
    if settings.exists():
        return Path(json.loads(settings.read_text())["directory"])
    return DIRECTORY / site.name


def source_of(site: Site, given: dict[str, Any]) -> Source | None:
    """Return the backup or file to restore, None if the options name none.

    Raises:
        ReleaseError: it does not exist, or belongs to another site.
    """
    if given["file"]:
        file = Path(given["file"])
        if not file.is_file():
            raise ReleaseError("choose the database", f"there is no file {file}")
        return Source(file.parent, file=file.name)
    if not given["backup"]:
        return None
    backups = BackupDirectory.of(directory_of(site, given["directory"]))
    backup = backups.choose(given["backup"])
    if (of := backup.manifest["site"]) != site.name:
        raise ReleaseError(CHOOSE, f"{backup.id} is a backup of the site {of}, not of {site.name}. Nothing was changed")
    return Source(backups.directory, backup)


def listed(directory: Path) -> dict[str, Any]:
    """Return the module's result for a list of the backups in a directory."""
    found = BackupDirectory.of(directory)
    return {"changed": False, "backups": [backup.described() for backup in found.whole], "table": found.table()}


def found(source: Source, current: Record | None) -> dict[str, Any]:
    """Return the module's result in check mode: what would be restored.

    Raises:
        ReleaseError: a file of the backup is damaged.
    """
    size = bytes_to_human(source.bytes)
    result = {"changed": True, "backup": source.name, "chosen": {}, "summary": [f"{source.name}, {size}"]}
    if source.backup:
        check(source.backup)
        chosen = source.backup.described()
        result["chosen"] = chosen
        result["summary"] = [
            f"{chosen['id']}, made {chosen['time']} by release {chosen['release']}",
            f"{chosen['image']}, {chosen['rows_total']} rows in {len(chosen['rows'])} tables",
            size,
        ]
    return {**result, "diff": difference(current, source)}


def difference(current: Record | None, source: Source) -> dict[str, str]:
    """Return the live release, and the source that replaces its database, as text for ``--diff``."""
    before = f"release: {current.release}\nimage: {current.image}\n" if current else ""
    lines = [f"restored from: {source.name}", f"bytes: {source.bytes}"]
    if source.backup:
        manifest = source.backup.manifest
        lines += [f"made: {manifest['time']}", f"by: {manifest['image']}, release {manifest['release']}"]
        lines += [f"rows: {manifest['rows_total']}", *(f"rows of {name}: {n}" for name, n in manifest["rows"].items())]
    return {"before": before, "after": f"{before}{os.linesep.join(lines)}\n"}


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            **HOLD_ARGUMENTS,
            "directory": {"type": "path"},
            "backup": {"type": "str"},
            "file": {"type": "path"},
            "post_restore": {"type": "list", "elements": "str", "default": []},
            "time_limit": {"type": "int", "default": 3600},
        },
        mutually_exclusive=[("backup", "file")],
        supports_check_mode=True,
    )
    given: dict[str, Any] = module.params
    site = site_of(module)
    releases = Releases(site, Engine(), audit={"by": given["by"]})

    def restore() -> dict[str, Any]:
        source = source_of(site, given)
        if source is None:
            return listed(directory_of(site, given["directory"]))
        if module.check_mode:
            return found(source, site.current_record())
        commands = tuple(words_of("post_restore", line) for line in given["post_restore"])
        diff = difference(site.current_record(), source)
        request = RestoreRequest(given["hold_seconds"], given["maintenance"], commands, float(given["time_limit"]))
        outcome = releases.restore(source, request)
        return {**result_of(module, outcome), **outcome.restored, "diff": diff}

    perform(module, releases, restore)


if __name__ == "__main__":
    main()

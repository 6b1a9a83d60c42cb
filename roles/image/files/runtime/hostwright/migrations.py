"""The project's migrations: which are pending, and to apply them."""

import os
from pathlib import Path
from typing import Any

from hostwright import configuration, project
from hostwright.errors import HostwrightError, ProjectError


def pending() -> dict[str, Any]:
    """Compare the project's migrations with those that the database has applied.

    A missing database is not created. Django must be set up.

    Returns:
        ``pending`` (``["polls.0002_x"]`` in the order of application), ``head`` (the last applied migration by
        application) and ``unknown`` (applied ones that this code does not have).

    Raises:
        ProjectError: the migrations contradict each other.
    """
    from django.db import connections
    from django.db.migrations.executor import MigrationExecutor
    from django.db.migrations.recorder import MigrationRecorder

    connection = connections["default"]
    exists = connection.is_in_memory_db() or Path(connection.settings_dict["NAME"]).exists()
    with project.explained("the migrations"):
        executor: Any = MigrationExecutor(connection if exists else None)
        conflicts = executor.loader.detect_conflicts()
        if conflicts:
            names = "; ".join(f"{app}: {', '.join(sorted(leaves))}" for app, leaves in sorted(conflicts.items()))
            raise ProjectError(
                f"Conflicting migrations ({names}). Run `manage.py makemigrations --merge` in the project."
            )
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        head: dict[str, str] = {}
        unknown: list[str] = []
        if exists:
            recorder: Any = MigrationRecorder(connection)
            if recorder.has_table():
                known = set(executor.loader.disk_migrations)
                for app, name in recorder.migration_qs.order_by("id").values_list("app", "name"):
                    head[app] = name
                    if (app, name) not in known:
                        unknown.append(f"{app}.{name}")
            connection.close()
    return {
        "pending": [f"{migration.app_label}.{migration.name}" for migration, _ in plan],
        "head": head,
        "unknown": unknown,
    }


def migrate() -> dict[str, Any]:
    """Apply all pending migrations to the configured database and put it on disk for good.

    Returns:
        ``applied`` and ``head`` as of ``pending``.

    Raises:
        HostwrightError: names the migration that failed.
    """
    release = configuration.load()
    if release is not None and release.database is not None:
        release.database.parent.mkdir(parents=True, exist_ok=True)
    project.setup()
    before = pending()

    from django.core.management import call_command

    try:
        call_command("migrate", interactive=False)
    except (Exception, SystemExit) as error:
        raise HostwrightError(_failure(error)) from error
    if release is not None and release.database is not None:
        _persist(release.database)
    return {"applied": before["pending"], "head": pending()["head"]}


def _failure(error: BaseException) -> str:
    from django.db import DatabaseError, connections

    text = f"{type(error).__name__}: {error}"
    try:
        connections.close_all()
        left = pending()["pending"]
    except (HostwrightError, DatabaseError) as second:
        left = []
        text += f" (and afterwards: {second})"
    name = left[0] if left else "after the last migration"
    place = project.project_line(error, Path.cwd())
    return f"The migration failed at {name}: {text}" + (f"\n  at {place}" if place else "")


def _persist(database: Path) -> None:
    """Move the WAL into the database file and flush both; ``synchronous=NORMAL`` leaves that to a later checkpoint."""
    from django.db import connections

    connection = connections["default"]
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cursor.fetchone()
    connection.close()
    for path in (database, database.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""List, apply and reverse the project's migrations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hostwright import project
from hostwright.errors import HostwrightError, ProjectError
from hostwright.overlay import like
from hostwright.snapshot import flush


def pending() -> dict[str, Any]:
    """Compare the project's migrations with those recorded in the database.

    A missing database is not created. Django must be set up.

    Returns:
        ``pending`` (``["polls.0002_x"]`` in the order of application), ``applied``, ``head`` (the last applied
        migration by application) and ``unknown`` (applied ones that this code does not have).

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
        applied: list[str] = []
        unknown: list[str] = []
        if exists:
            recorder: Any = MigrationRecorder(connection)
            if recorder.has_table():
                known = set(executor.loader.disk_migrations)
                for app, name in recorder.migration_qs.order_by("id").values_list("app", "name"):
                    head[app] = name
                    applied.append(f"{app}.{name}")
                    if (app, name) not in known:
                        unknown.append(f"{app}.{name}")
            connection.close()
    return {
        "pending": [f"{migration.app_label}.{migration.name}" for migration, _ in plan],
        "applied": applied,
        "head": head,
        "unknown": unknown,
    }


def migrate(database: Path | None = None) -> dict[str, Any]:
    """Apply all pending migrations.

    Args:
        database: migrate this database instead of the one in the settings, and flush it. No connection may be open.
            This process uses it from now on.

    Returns:
        ``applied``, and ``head`` as in ``pending``.

    Raises:
        HostwrightError: a migration failed; the message names it.
    """
    project.setup()
    if database is not None:
        use(database)
    before = pending()

    from django.core.management import call_command

    try:
        call_command("migrate", interactive=False)
    except (Exception, SystemExit) as error:
        raise HostwrightError(_failure(error)) from error
    head = pending()["head"]
    if database is not None:
        _persist(database)
    return {"applied": before["pending"], "head": head}


def reverse(names: Sequence[str], database: Path) -> dict[str, Any]:
    """Reverse applied migrations.

    Args:
        names: migrations, such as ``["polls.0002_x"]``.
        database: as in ``migrate``.

    Returns:
        ``applied`` (an empty list), and ``head`` as in ``pending``.

    Raises:
        HostwrightError: a migration cannot be reversed.
    """
    project.setup()
    use(database)
    from django.core.management import call_command

    kept = [name for name in pending()["applied"] if name not in names]
    for app in sorted({name.partition(".")[0] for name in names}):
        of_app = [name.partition(".")[2] for name in kept if name.partition(".")[0] == app]
        try:
            call_command("migrate", app, of_app[-1] if of_app else "zero", interactive=False)
        except (Exception, SystemExit) as error:
            why = f"{type(error).__name__}: {error}"
            raise HostwrightError(f"The migrations of {app} cannot be reversed: {why}") from error
    head = pending()["head"]
    _persist(database)
    return {"applied": [], "head": head}


def use(database: Path) -> None:
    """Make this process use another database than the one in the settings. Django must be set up."""
    from django.conf import settings
    from django.db import connections

    connections.close_all()
    for place in (settings.DATABASES["default"], connections["default"].settings_dict):
        place["NAME"] = like(place["NAME"], database)


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
    """Checkpoint the WAL into the database file and flush it; ``synchronous=NORMAL`` would leave that for later."""
    from django.db import connections

    connection = connections["default"]
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        busy = cursor.fetchone()[0]
    connection.close()
    if busy:
        raise HostwrightError(f"{database}: another process reads it, so its WAL cannot be checkpointed.")
    flush(database)
    flush(database.parent)

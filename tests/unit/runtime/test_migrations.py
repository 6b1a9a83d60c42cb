"""List pending migrations and apply them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostwright.errors import HostwrightError

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release

SECOND = """
    from django.db import migrations
    from time import sleep

    def fill(apps, schema_editor):
        {body}

    class Migration(migrations.Migration):
        dependencies = [("notes", "0001_initial")]
        operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
"""


def test_pending_creates_nothing_and_is_empty_after_migrate(release: Release) -> None:
    before = release.pending()
    assert before == {
        "pending": ["contenttypes.0001_initial", "contenttypes.0002_remove_content_type_name", "notes.0001_initial"],
        "applied": [],
        "head": {},
        "unknown": [],
    }
    assert not release.database.parent.exists()
    assert release.migrate()["applied"] == before["pending"]
    after = release.pending()
    assert after["pending"] == []
    assert after["applied"] == before["pending"]
    assert after["head"] == {"contenttypes": "0002_remove_content_type_name", "notes": "0001_initial"}
    assert release.migrate()["applied"] == []
    # The WAL is empty: all changes are in the database file.
    assert sorted(path.name for path in release.database.parent.iterdir()) == ["db.sqlite3"]
    assert sqlite3.connect(release.database).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_migrate_leaves_its_changes_in_the_database_file(release: Release, tmp_path: Path) -> None:
    release.migrate()
    release.write({"notes/migrations/0002_fill.py": SECOND.format(body="pass")})
    # A second connection keeps the WAL from being checkpointed when migrate closes its own.
    other = sqlite3.connect(release.database)
    other.execute("SELECT count(*) FROM notes_note").fetchone()
    release.migrate()
    (tmp_path / "alone.sqlite3").write_bytes(release.database.read_bytes())
    other.close()
    query = "SELECT name FROM django_migrations WHERE app = 'notes' ORDER BY id DESC"
    assert sqlite3.connect(tmp_path / "alone.sqlite3").execute(query).fetchone() == ("0002_fill",)


def test_a_wal_that_cannot_be_checkpointed_is_reported(release: Release) -> None:
    release.configuration["sqlite"]["busy_timeout"] = 100
    release.migrate()
    release.write({"notes/migrations/0002_fill.py": SECOND.format(body="pass")})
    reader = sqlite3.connect(release.database, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM notes_note").fetchone()
    with pytest.raises(HostwrightError, match="another process reads it"):
        release.migrate()
    reader.close()


def test_a_migration_that_fails_is_named(release: Release) -> None:
    release.migrate()
    release.write({"notes/migrations/0002_fill.py": SECOND.format(body="raise ValueError('no such colour')")})
    with pytest.raises(HostwrightError) as failure:
        release.migrate()
    assert "The migration failed at notes.0002_fill: ValueError: no such colour" in str(failure.value)
    assert "at notes/migrations/0002_fill.py:6: raise ValueError" in str(failure.value)
    assert release.pending()["pending"] == ["notes.0002_fill"]


def test_a_database_ahead_of_the_code_is_recognised(release: Release) -> None:
    release.write({"notes/migrations/0002_fill.py": SECOND.format(body="pass")})
    release.migrate()
    (release.project / "notes" / "migrations" / "0002_fill.py").unlink()
    found = release.pending()
    assert (found["pending"], found["unknown"]) == ([], ["notes.0002_fill"])
    assert found["head"]["notes"] == "0002_fill"


def test_conflicting_migrations_are_refused(release: Release) -> None:
    for name in ("0002_one", "0002_two"):
        release.write({f"notes/migrations/{name}.py": SECOND.format(body="pass")})
    with pytest.raises(HostwrightError, match="notes: 0002_one, 0002_two"):
        release.pending()


def test_a_migration_finds_the_paths_in_the_project_s_types(release: Release) -> None:
    release.settings('MEDIA_ROOT = BASE_DIR / "media"')
    body = """from django.conf import settings
        (settings.MEDIA_ROOT / "x").touch()
        (settings.DATABASES["default"]["NAME"].parent / "y").touch()"""
    release.write({"notes/migrations/0002_fill.py": SECOND.format(body=body)})
    release.migrate()
    assert (release.root / "media" / "x").exists()
    assert (release.database.parent / "y").exists()

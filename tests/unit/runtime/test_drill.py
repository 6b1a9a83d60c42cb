"""Drills: the release boots on the restored database, and nothing remains."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.runtime.ledgers import damage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.runtime.conftest import Release


@pytest.fixture
def scratch(release: Release) -> Path:
    path = release.root / "scratch"
    path.mkdir()
    release.migrate()
    release.shell("from notes.models import Note; Note.objects.create(text='a'); print(1)")
    return path


def still_running(scratch: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(scratch).encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_text(encoding="utf-8"))
        except OSError:
            continue
    return found


def test_the_release_runs_on_the_restored_database(release: Release, scratch: Path) -> None:
    manifest = release.answer("backup", "--output", release.backups)
    before = release.database.read_bytes()
    found = release.answer("drill", "--output", release.backups, "--scratch", scratch)
    assert (found["id"], found["rows_total"]) == (manifest["id"], manifest["rows_total"])
    assert (found["migrated"], found["health"]) == (False, {"path": "/", "status": 200})
    assert set(found["seconds"]) == {"restore", "migrate", "boot", "total"}
    assert list(scratch.iterdir()) == []
    assert still_running(scratch) == []
    # The live release was not touched.
    assert release.database.read_bytes() == before
    assert not release.socket.exists()


def test_a_backup_from_before_a_migration_is_migrated(release: Release, scratch: Path) -> None:
    release.answer("backup", "--output", release.backups)
    release.write(
        {
            "notes/models.py": """
                from django.db import models

                class Note(models.Model):
                    text = models.TextField()
                    stars = models.IntegerField(default=0)
            """,
            "notes/migrations/0002_stars.py": """
                from django.db import migrations, models

                class Migration(migrations.Migration):
                    dependencies = [("notes", "0001_initial")]
                    operations = [migrations.AddField("note", "stars", models.IntegerField(default=0))]
            """,
        }
    )
    found = release.answer("drill", "--output", release.backups, "--scratch", scratch)
    assert (found["migrated"], found["health"]["status"]) == (True, 200)


def test_a_migration_that_fails_on_old_data_fails_the_drill(release: Release, scratch: Path) -> None:
    release.answer("backup", "--output", release.backups)
    release.write(
        {
            "notes/migrations/0002_broken.py": """
                from django.db import migrations

                class Migration(migrations.Migration):
                    dependencies = [("notes", "0001_initial")]
                    operations = [migrations.RunSQL("INSERT INTO nowhere VALUES (1)")]
            """,
        }
    )
    result = release.verb("drill", "--output", release.backups, "--scratch", scratch)
    assert result.returncode == 1
    assert "failed on the restored database" in result.stderr
    assert "no such table: nowhere" in result.stderr
    assert list(scratch.iterdir()) == []


def test_a_site_that_does_not_run_fails_the_drill_at_once(release: Release, scratch: Path) -> None:
    release.answer("backup", "--output", release.backups)
    release.write({"mysite/wsgi.py": "import nonsense\n"})
    start = time.monotonic()
    result = release.verb("drill", "--output", release.backups, "--scratch", scratch)
    assert result.returncode == 1
    assert "does not run on the restored database: the server has ended" in result.stderr
    assert "mysite/wsgi.py:1: import nonsense" in result.stderr
    assert time.monotonic() - start < 40
    assert (list(scratch.iterdir()), still_running(scratch)) == ([], [])


def test_an_error_page_fails_the_drill(release: Release, scratch: Path) -> None:
    release.answer("backup", "--output", release.backups)
    release.configuration["health_path"] = "/broken"
    command = "from hostwright import drill; drill._BOOT_SECONDS = 3; from hostwright import __main__; import sys; "
    command += (
        f"sys.exit(__main__.main(['drill', '--output', {str(release.backups)!r}, '--scratch', {str(scratch)!r}]))"
    )
    result = release.command("-c", command)
    assert result.returncode == 1
    assert "Last answer to GET /broken (Host: notes.example.org): 500" in result.stderr
    assert "RuntimeError: broken on purpose" in result.stderr
    assert (list(scratch.iterdir()), still_running(scratch)) == ([], [])


def test_a_damaged_backup_fails_the_drill(release: Release, scratch: Path) -> None:
    manifest = release.answer("backup", "--output", release.backups)
    damage(release.backups / manifest["archive"]["name"])
    result = release.verb("drill", "--output", release.backups, "--backup", manifest["id"], "--scratch", scratch)
    assert (result.returncode, "the archive is damaged" in result.stderr) == (1, True)
    assert list(scratch.iterdir()) == []


def test_only_remains_of_a_killed_drill_are_removed(release: Release, scratch: Path) -> None:
    release.answer("backup", "--output", release.backups)
    (scratch / "run" / "releases").mkdir(parents=True)
    (scratch / "db.sqlite3-wal").touch()
    release.answer("drill", "--output", release.backups, "--scratch", scratch)
    assert list(scratch.iterdir()) == []
    (scratch / "precious").touch()
    result = release.verb("drill", "--output", release.backups, "--scratch", scratch)
    assert (result.returncode, "contains precious" in result.stderr) == (2, True)
    assert [path.name for path in scratch.iterdir()] == ["precious"]
    result = release.verb("drill", "--output", release.backups, "--scratch", scratch / "nowhere")
    assert (result.returncode, "is missing" in result.stderr) == (2, True)


def test_a_terminated_drill_cleans_up(
    release: Release, scratch: Path, serve: Callable[..., subprocess.Popen[str]]
) -> None:
    release.answer("backup", "--output", release.backups)
    release.write({"mysite/wsgi.py": "import time\ntime.sleep(60)\n"})
    drill = serve("drill", "--output", str(release.backups), "--scratch", str(scratch))
    limit = time.monotonic() + 30
    while not (scratch / "log").exists():
        assert time.monotonic() < limit
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(drill.pid, signal.SIGTERM)
    drill.communicate(timeout=20)
    assert drill.returncode == 128 + signal.SIGTERM
    assert (list(scratch.iterdir()), still_running(scratch)) == ([], [])

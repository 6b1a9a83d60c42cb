"""Static files are collected in two parts and keep their times."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import django
import pytest

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release

MANIFEST = """
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
    }
"""
ADMIN = """
    INSTALLED_APPS += [f"django.contrib.{name}" for name in ("admin", "auth", "messages", "sessions")]
    SILENCED_SYSTEM_CHECKS = ["admin.E403", "admin.E408", "admin.E409", "admin.E410"]
"""


def test_vendor_files_are_separate_from_the_project_s_files(release: Release, tmp_path: Path) -> None:
    release.settings(ADMIN + MANIFEST)
    css = release.project / "notes" / "static" / "notes" / "notes.css"
    os.utime(css, (1_700_000_000, 1_700_000_000))
    packages = Path(django.__file__).parents[1]
    output = tmp_path / "static"
    counts = release.answer("collect", "--output", output, "--requirements", packages, configured=False)

    hashed = json.loads((output / "site" / "staticfiles.json").read_text(encoding="utf-8"))["paths"]
    own, base = hashed["notes/notes.css"], hashed["admin/css/base.css"]
    assert sorted(
        path.relative_to(output / "site").as_posix() for path in (output / "site").rglob("*") if path.is_file()
    ) == sorted(["notes/notes.css", own, "staticfiles.json"])
    for name in ("admin/css/base.css", base):
        assert (output / "vendor" / name).is_file()
    for name in ("notes/notes.css", own):
        assert (output / "site" / name).stat().st_mtime == 1_700_000_000
    assert counts == {"vendor": sum(1 for path in (output / "vendor").rglob("*") if path.is_file()), "site": 3}
    assert sorted(path.name for path in output.iterdir()) == ["site", "vendor"]


def test_a_second_run_replaces_the_output(release: Release, tmp_path: Path) -> None:
    output = tmp_path / "static"
    (output / "site").mkdir(parents=True)
    (output / "site" / "old.css").touch()
    assert release.answer("collect", "--output", output, configured=False) == {"vendor": 0, "site": 1}
    assert [path.name for path in (output / "site").rglob("*.css")] == ["notes.css"]


def test_a_missing_file_that_a_style_sheet_names_is_reported(release: Release, tmp_path: Path) -> None:
    release.settings(MANIFEST)
    release.write({"notes/static/notes/notes.css": "body { background: url('gone.png') }\n"})
    result = release.verb("collect", "--output", tmp_path / "static", configured=False)
    assert result.returncode == 1
    assert "collectstatic" in result.stderr
    assert "gone.png" in result.stderr


def test_without_staticfiles_there_is_nothing_to_collect(release: Release, tmp_path: Path) -> None:
    release.settings('INSTALLED_APPS.remove("django.contrib.staticfiles")')
    found = release.answer("collect", "--output", tmp_path / "static", configured=False)
    assert (found["vendor"], found["site"]) == (0, 0)


MODELS = """
    from django.db import models
    from django.templatetags.static import static
    CSS = static("notes/notes.css")
    class Note(models.Model):
        text = models.TextField()
"""
# As debug_toolbar does: use the storage as soon as the applications are ready.
APPS = """
    from django.apps import AppConfig
    from django.contrib.staticfiles.storage import staticfiles_storage

    class NotesConfig(AppConfig):
        name = "notes"

        def ready(self):
            from notes import models
            models.READY = staticfiles_storage.path("x"), staticfiles_storage.url("notes/notes.css")
"""
URLS = """
    from django.templatetags.static import static
    from django.urls import path
    from django.views.generic import RedirectView
    urlpatterns = [path("", RedirectView.as_view(url=static("notes/notes.css")))]
"""


@pytest.mark.parametrize("hashed", [False, True], ids=["plain", "manifest"])
@pytest.mark.parametrize("overlay", [True, False], ids=["overlay", "no overlay"])
def test_static_names_are_known_while_the_project_is_imported(
    release: Release, tmp_path: Path, hashed: bool, overlay: bool
) -> None:
    storages = (MANIFEST if hashed else "") + f"    STATIC_ROOT = {str(release.static)!r}\n"
    release.settings(storages)
    release.write({"notes/models.py": MODELS, "notes/apps.py": APPS, "mysite/urls.py": URLS})
    if not overlay:
        release.variables["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
    output = tmp_path / "static"
    counts = release.answer("collect", "--output", output, configured=False)
    assert counts == {"vendor": 0, "site": 3 if hashed else 1}
    names = {path.name for path in (output / "site").rglob("*.css")}
    assert len(names) == (2 if hashed else 1)
    if not overlay:
        release.settings(storages + "    DEBUG = False")
    shown = release.shell("from notes import models; print(models.CSS, *models.READY)")
    [name] = names - {"notes.css"} if hashed else names
    assert shown == f"/static/notes/{name} {release.static}/x /static/notes/{name}"


def test_a_name_that_is_not_collected_ends_the_build(release: Release, tmp_path: Path) -> None:
    release.settings(MANIFEST)
    release.write({"notes/models.py": MODELS.replace("notes.css", "gone.css")})
    result = release.verb("collect", "--output", tmp_path / "static", configured=False)
    assert result.returncode == 1
    assert "notes/models.py:4" in result.stderr
    assert "Missing staticfiles manifest entry for 'notes/gone.css'" in result.stderr


def test_a_location_of_the_project_s_own_is_refused(release: Release, tmp_path: Path) -> None:
    release.settings(
        """
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {
            "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage", "OPTIONS": {"location": "/app/own"},
        },
    }
    """
    )
    result = release.verb("collect", "--output", tmp_path / "static", configured=False)
    assert (result.returncode, "sets its own location (/app/own)" in result.stderr) == (1, True)

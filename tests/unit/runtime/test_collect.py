"""Static files are collected in two parts, and keep their times."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import django

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


def test_vendor_files_apart_from_the_project_s_own(release: Release, tmp_path: Path) -> None:
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


def test_again_replaces_the_output(release: Release, tmp_path: Path) -> None:
    output = tmp_path / "static"
    (output / "site").mkdir(parents=True)
    (output / "site" / "old.css").touch()
    assert release.answer("collect", "--output", output, configured=False) == {"vendor": 0, "site": 1}
    assert [path.name for path in (output / "site").rglob("*.css")] == ["notes.css"]


def test_a_missing_file_that_a_style_sheet_names_is_told(release: Release, tmp_path: Path) -> None:
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

"""Collect the static files while the image is built, in two parts: those of the requirements, and the project's own.

They are collected into their final directory before the project is imported completely, so that code that asks for the
name of a static file while it is imported finds the manifest of hashed names, as when the site runs.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hostwright import preflight, project
from hostwright.configuration import STATIC_ROOT
from hostwright.errors import ProjectError
from hostwright.overlay import like

_COMPRESSED = (".gz", ".br", ".zst")


def collect(output: Path, requirements: Path) -> dict[str, Any]:
    """Run Django's collectstatic into ``STATIC_ROOT``, and split what it collects.

    Args:
        output: target of the directories ``vendor`` (files of the requirements, such as the admin's) and ``site`` (all
            other files, and the manifest of hashed names). Both are replaced.
        requirements: directory of the project's requirements.

    Returns:
        The number of files by part.

    Raises:
        ProjectError: collectstatic failed; the message names the file.
    """
    shutil.rmtree(STATIC_ROOT, ignore_errors=True)
    STATIC_ROOT.mkdir(parents=True)
    settings = preflight.load_settings()
    settings.STATIC_ROOT = like(settings.STATIC_ROOT, STATIC_ROOT)  # with the overlay off, too
    with preflight.some_database(settings):
        _set_up(settings)
    from django.apps import apps

    parts = {name: output / name for name in ("vendor", "site")}
    for part in parts.values():
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    if not apps.is_installed("django.contrib.staticfiles"):
        return {"vendor": 0, "site": 0, "note": "django.contrib.staticfiles is not installed: nothing to collect"}
    return _split(parts, _sources(), _collect(), requirements.resolve())


def _set_up(settings: Any) -> None:
    """Set up Django with plain names of static files: hashes are unknown until all files are collected."""
    storages = settings.STORAGES
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = {**storages, "staticfiles": plain}
    project.setup()
    settings.STORAGES = storages
    # Discard storages that were created with the temporary setting.
    from django.test.signals import storages_changed

    storages_changed(setting="STORAGES")


def _collect() -> dict[str, str]:
    """Run collectstatic; return original names by hashed name."""
    from django.contrib.staticfiles.storage import staticfiles_storage
    from django.core.files.storage import FileSystemStorage
    from django.core.management import call_command

    storage: Any = staticfiles_storage
    if not isinstance(storage, FileSystemStorage):
        raise ProjectError(
            f"The static files storage {type(storage).__name__} does not write files to STATIC_ROOT, so Nginx "
            "cannot serve them. Use Django's StaticFilesStorage or ManifestStaticFilesStorage."
        )
    if Path(storage.location) != STATIC_ROOT:
        raise ProjectError(
            f"STORAGES['staticfiles'] sets its own location ({storage.location}): remove it; STATIC_ROOT applies."
        )
    with project.explained("collectstatic"):
        call_command("collectstatic", interactive=False, verbosity=0)
    names: Mapping[str, str] = getattr(storage, "hashed_files", {})
    return {hashed: original for original, hashed in names.items()}


def _sources() -> dict[str, Path]:
    """Return the source of each static file by name; the first finder wins, as in collectstatic."""
    from django.contrib.staticfiles.finders import get_finders

    found: dict[str, Path] = {}
    for finder in get_finders():
        for path, storage in finder.list([]):
            prefix = getattr(storage, "prefix", None)
            name = Path(prefix, path) if prefix else Path(path)
            found.setdefault(name.as_posix(), Path(storage.path(path)))
    return found


def _split(
    parts: Mapping[str, Path], sources: Mapping[str, Path], hashed: Mapping[str, str], requirements: Path
) -> dict[str, Any]:
    counts = dict.fromkeys(parts, 0)
    newest = max((path.stat().st_mtime for path in sources.values()), default=0.0)
    for path in sorted(STATIC_ROOT.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(STATIC_ROOT).as_posix()
        source = _source(name, sources, hashed)
        part = "vendor" if source is not None and source.resolve().is_relative_to(requirements) else "site"
        target = parts[part] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(path)
        # The source's time, so that Last-Modified and ETag are the same after each build.
        modified = source.stat().st_mtime if source is not None else newest
        os.utime(target, (modified, modified))
        target.chmod(0o644)
        counts[part] += 1
    for top in parts.values():
        for directory in (top, *(path for path in top.rglob("*") if path.is_dir())):
            directory.chmod(0o755)
            os.utime(directory, (newest, newest))
    return counts


def _source(name: str, sources: Mapping[str, Path], hashed: Mapping[str, str]) -> Path | None:
    for candidate in (name, *(name.removesuffix(suffix) for suffix in _COMPRESSED if name.endswith(suffix))):
        original = hashed.get(candidate, candidate)
        if original in sources:
            return sources[original]
    return None

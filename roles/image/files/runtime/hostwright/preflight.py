"""Check that a project can be deployed, before anything changes."""

import contextlib
import importlib
import os
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hostwright
from hostwright import project, sqlite
from hostwright.errors import ProjectError
from hostwright.overlay import is_sqlite, require_django

_ASSIGNS_SETTINGS = re.compile(r"""^\s*os\.environ\[\s*["']DJANGO_SETTINGS_MODULE["']\s*\]\s*=[^=]""", re.MULTILINE)


def preflight(pending: bool = False) -> dict[str, Any]:
    """Import all modules that the site will import, and run Django's checks.

    Args:
        pending: add the result of ``migrations.pending``.

    Returns:
        Versions, databases, URLs and warnings, as JSON values.

    Raises:
        ProjectError: the project cannot be deployed; the message says why.
    """
    settings = load_settings()
    import django

    with some_database(settings):
        project.setup()
        with project.explained(f"the URLconf {settings.ROOT_URLCONF}"):
            importlib.import_module(settings.ROOT_URLCONF)
        with _empty_database():
            _run_checks()
        with project.explained("the WSGI application"):
            project.wsgi_application()

    found: dict[str, Any] = {
        "hostwright": hostwright.__version__,
        "django": django.get_version(),
        "python": platform.python_version(),
        "sqlite": sqlite.require_safe(),
        "settings": os.environ.get("HOSTWRIGHT_SETTINGS") or settings.SETTINGS_MODULE,
        "overlay": settings.SETTINGS_MODULE == "hostwright.settings",
        "wsgi": os.environ.get("HOSTWRIGHT_WSGI") or settings.WSGI_APPLICATION,
        "databases": {alias: {"engine": entry["ENGINE"]} for alias, entry in settings.DATABASES.items()},
        "static_url": _url(settings.STATIC_URL),
        "media_url": _url(settings.MEDIA_URL),
        "warnings": warnings(Path.cwd()),
    }
    if pending:
        from hostwright import migrations

        found |= migrations.pending()
    return found


def load_settings() -> Any:
    """Import and check the settings before any application is imported.

    Returns:
        ``django.conf.settings``.

    Raises:
        HostwrightError: SQLite or Django is unsuitable, the settings do not import, or the database is not SQLite.
    """
    sqlite.require_safe()
    try:
        import django
    except ModuleNotFoundError as error:
        raise ProjectError("Django is not installed in the image: add it to the project's requirements.") from error
    require_django(django.VERSION, django.get_version())
    with project.explained("the settings"):
        settings = project.load_settings()
    require_sqlite(settings.DATABASES)
    return settings


def require_sqlite(databases: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a project whose databases are not exactly one SQLite database.

    Args:
        databases: the DATABASES setting.

    Raises:
        ProjectError: the message names the project's aliases and engines.
    """
    found = ", ".join(f"{alias}: {entry.get('ENGINE') or 'no engine'}" for alias, entry in databases.items())
    real = {alias: entry for alias, entry in databases.items() if entry.get("ENGINE") != "django.db.backends.dummy"}
    if not real:
        raise ProjectError(
            "The project's settings define no database: Hostwright deploys sites with one SQLite database."
        )
    if list(real) != ["default"] or not is_sqlite(real["default"]):
        raise ProjectError(
            f"DATABASES has {found}: Hostwright deploys sites with one SQLite database "
            "(default: django.db.backends.sqlite3) and never replaces another one."
        )


def some_database(settings: Any) -> contextlib.AbstractContextManager[None]:
    """Give the project's code its database within the body, or an empty one if it does not exist yet."""
    name = settings.DATABASES["default"].get("NAME")
    return contextlib.nullcontext() if name and Path(name).exists() else _empty_database()


@contextlib.contextmanager
def _empty_database() -> Iterator[None]:
    """Give Django an empty database in memory within the body; the site's own is neither opened nor created.

    Before the first release the site has none. Later, checks must not lock it.
    """
    from django.db import connections

    with project.explained("the database"):
        own: Any = connections["default"]
        scratch = type(own)({**own.settings_dict, "NAME": ":memory:"}, "default")
    connections["default"] = scratch
    try:
        yield
    finally:
        connections["default"] = own
        if scratch.connection is not None:
            scratch.connection.close()  # Django's own close leaves a database in memory open


def warnings(root: Path) -> list[str]:
    """Return warnings about code that works, but not as the user may expect.

    Args:
        root: the project's directory.
    """
    try:
        manage = (root / "manage.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    if _ASSIGNS_SETTINGS.search(manage):
        return [
            (
                "manage.py assigns os.environ['DJANGO_SETTINGS_MODULE']: management commands would not use the site's "
                "database. Write os.environ.setdefault('DJANGO_SETTINGS_MODULE', …), as startproject does."
            )
        ]
    return []


def _url(setting: str | None) -> str | None:
    # Django turns an empty MEDIA_URL into "/", the script prefix: the project has none.
    return None if setting in (None, "", "/") else setting


def _run_checks() -> None:
    from django.core import checks

    with project.explained("Django's system checks"):
        errors = [message for message in checks.run_checks() if message.is_serious() and not message.is_silenced()]
    if errors:
        lines = "\n".join(f"  {message}" for message in errors)
        raise ProjectError(f"Django's system checks report {len(errors)} error(s) in the project:\n{lines}")

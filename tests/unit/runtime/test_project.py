"""Unmodified projects in several layouts, and the messages about projects that do not import."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release


def test_preflight_of_an_unmodified_project(release: Release) -> None:
    found = release.answer("preflight")
    assert found["databases"] == {"default": {"engine": "django.db.backends.sqlite3"}}
    assert (found["settings"], found["overlay"], found["wsgi"]) == ("mysite.settings", True, "mysite.wsgi.application")
    assert (found["static_url"], found["media_url"], found["warnings"]) == ("/static/", None, [])
    assert "pending" not in found
    assert not release.database.exists()


def test_manage_py_has_the_overlay_and_the_safe_sqlite(release: Release) -> None:
    release.settings('import os\nCOLOUR = os.environ["COLOUR"]')
    release.migrate()
    code = """
from django.conf import settings as s
from django.db import connection as c
import mysite.settings as direct
def pragma(name):
    cursor = c.cursor(); cursor.execute(f"PRAGMA {name}"); return cursor.fetchone()[0]
names = "journal_mode", "synchronous", "busy_timeout", "mmap_size", "journal_size_limit", "foreign_keys"
import sqlite3
values = [pragma(name) for name in names]
print(s.DEBUG, s.SECRET_KEY, s.ALLOWED_HOSTS[0], s.COLOUR, direct.DEBUG, sqlite3.__name__, values)
"""
    assert release.shell(code) == (
        "False the-site's-key notes.example.org blue False pysqlite3 ['wal', 1, 4000, 0, 1048576, 1]"
    )


def test_settings_in_a_package_that_fill_their_namespace_themselves(release: Release) -> None:
    (release.project / "mysite" / "settings.py").unlink()
    release.write(
        {
            "mysite/settings/__init__.py": "",
            "mysite/settings/base.py": FROM_BASE,
            "mysite/settings/production.py": """
                import os
                from . import base
                globals().update({name: value for name, value in vars(base).items() if name.isupper()})
                SECRET_KEY = os.environ["NOTES_KEY"]
                MEDIA_ROOT = "/app/media"
            """,
        }
    )
    (release.root / "secrets" / "NOTES_KEY").write_text("from-a-secret\n", encoding="utf-8")
    release.variables["HOSTWRIGHT_SETTINGS"] = "mysite.settings.production"
    release.migrate()
    code = (
        "from django.conf import settings as s; import os; print(s.SECRET_KEY, os.environ['NOTES_KEY'], s.NOTES_ANSWER)"
    )
    assert release.shell(code) == "the-site's-key from-a-secret 42"
    assert release.shell("from django.conf import settings; print(settings.MEDIA_ROOT)") == str(release.root / "media")


FROM_BASE = """
    NOTES_ANSWER = 42
    INSTALLED_APPS = ["django.contrib.contenttypes", "notes"]
    ROOT_URLCONF = "mysite.urls"
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""


def test_development_uses_the_project_s_own_database(release: Release) -> None:
    release.configuration = {"environment": "development", "environment_variables": {"COLOUR": "green"}}
    release.migrate()
    assert (release.project / "db.sqlite3").exists()
    code = """
from django.conf import settings as s
import os
print(s.DEBUG, s.ALLOWED_HOSTS, s.SECRET_KEY, os.environ["COLOUR"])
"""
    assert release.shell(code) == "True ['*'] insecure green"


def test_a_build_needs_no_configuration_and_gives_secrets_a_placeholder(release: Release) -> None:
    release.settings('import os\nassert os.environ["API_TOKEN"] == "build"\nSECRET_KEY = os.environ["SECRET_KEY"]')
    release.variables |= {"HOSTWRIGHT_BUILD": "1", "HOSTWRIGHT_BUILD_SECRETS": "API_TOKEN"}
    assert release.answer("preflight", configured=False)["django"]


def test_a_build_has_paths_in_the_project_s_types_and_its_database_in_memory(release: Release) -> None:
    release.settings('STATIC_ROOT = BASE_DIR / "collected"')
    code = """
from django.conf import settings
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE made (x)")
    cursor.execute("PRAGMA database_list")
    print(settings.STATIC_ROOT / "x", settings.DATABASES["default"]["NAME"].parent, [row[2] for row in cursor])
"""
    assert release.shell(code, configured=False) == f"{release.static}/x . ['']"
    assert not list(release.project.glob("*memory*"))


def test_with_the_overlay_off_the_project_s_settings_apply(release: Release) -> None:
    release.settings("import os\nCOLOUR = os.environ['COLOUR']")
    release.variables["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
    found = release.answer("preflight")
    assert found["overlay"] is False


def test_a_wsgi_module_that_assigns_the_settings_has_no_effect(release: Release) -> None:
    release.write(
        {
            "mysite/wsgi.py": """
                import os
                from django.core.wsgi import get_wsgi_application
                os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
                application = get_wsgi_application()
            """
        }
    )
    code = "import hostwright.wsgi; from django.conf import settings; print(settings.SETTINGS_MODULE, settings.DEBUG)"
    assert release.command("-c", code).stdout == "hostwright.settings False\n"


def test_a_manage_py_that_assigns_the_settings_causes_a_warning(release: Release) -> None:
    release.write({"manage.py": 'import os\nos.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"\n'})
    assert "setdefault" in release.answer("preflight")["warnings"][0]


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        (
            "mysite/urls.py",
            "import requestz\n",
            ["ModuleNotFoundError", "mysite/urls.py:1: import requestz", '"requestz" is missing: add'],
        ),
        ("mysite/urls.py", "urlpatterns = [\n", ["SyntaxError", "mysite/urls.py:1"]),
        (
            "notes/models.py",
            "from .nowhere import x\n",
            ["notes/models.py:1", '"notes.nowhere" is missing in the project itself'],
        ),
        (
            "mysite/settings.py",
            "import os\nX = os.environ['MAIL_HOST']\n",
            ["KeyError", "mysite/settings.py:2", "site_environment_variables"],
        ),
        (
            "mysite/settings.py",
            "import sys\nsys.exit('no settings')\n",
            ["SystemExit: no settings", "mysite/settings.py:2"],
        ),
        ("mysite/wsgi.py", "app = 1\n", ['mysite.wsgi has no "application"', "site_wsgi"]),
        ("notes/models.py", "1 / 0\n", ["ZeroDivisionError", "notes/models.py:1: 1 / 0"]),
    ],
)
def test_a_project_that_does_not_import_is_explained(
    release: Release, file: str, text: str, expected: list[str]
) -> None:
    release.write({file: text})
    result = release.verb("preflight")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for part in expected:
        assert part in result.stderr


def test_missing_settings_are_explained(release: Release) -> None:
    release.variables["HOSTWRIGHT_SETTINGS"] = "notsite.settings"
    result = release.verb("preflight")
    assert result.returncode == 1
    assert 'site_settings names "notsite.settings", which is not in the project' in result.stderr


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        (
            'DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "x"}}',
            "default: django.db.backends.postgresql",
        ),
        ('DATABASES["old"] = DATABASES["default"]', "old: django.db.backends.sqlite3"),
        ("DATABASES = {}", "define no database"),
        ('INSTALLED_APPS += ["django.contrib.auth", "django.contrib.admin"]', "admin.E40"),
    ],
)
def test_a_project_that_cannot_be_deployed_is_refused(release: Release, addition: str, expected: str) -> None:
    release.settings(addition)
    result = release.verb("preflight")
    assert result.returncode == 1
    assert expected in result.stderr


def test_wrong_usage_and_configuration_exit_with_2(release: Release) -> None:
    assert release.verb("nonsense").returncode == 2
    result = release.verb("serve", configured=False)
    assert (result.returncode, "HOSTWRIGHT_CONFIG is not set" in result.stderr) == (2, True)
    assert release.verb("--help").returncode == 0


JSON_FIELD = """
    from django.core import checks
    from django.db import connections, models

    class Note(models.Model):
        text = models.TextField()
        data = models.JSONField(default=dict)

    @checks.register
    def as_django_6_1(app_configs, databases, **options):
        for alias in databases or connections:
            connections[alias].features.supports_json_field
        return []
"""
LOOKING = """
    from django.apps import AppConfig
    from django.db import connection

    class NotesConfig(AppConfig):
        name = "notes"

        def ready(self):
            if "notes_note" in connection.introspection.table_names():
                print("there are notes")
"""


@pytest.mark.parametrize("files", [{"notes/models.py": JSON_FIELD}, {"notes/apps.py": LOOKING}])
def test_before_the_first_release_the_project_sees_an_empty_database(release: Release, files: dict[str, str]) -> None:
    """Django 6.1 runs checks on all databases unless told otherwise (``CheckRegistry.run_checks``).

    A JSONField's check (``JSONField._check_supported``) opens the database then, as the check here does under every
    Django. Projects also ask in ``ready`` whether their tables are there.
    """
    release.write(files)
    assert release.answer("preflight", "--pending")["pending"][-1] == "notes.0001_initial"
    assert not release.database.parent.exists()


TABLES = """
def tables():
    from django.db import connection
    return connection.introspection.table_names()

"""
CHECK = """
from django.core import checks

@checks.register
def counted(app_configs, databases, **options):
    from django.db import connection
    print("check", len(tables()))
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE made (x)")
    return []
"""


def test_checks_never_look_at_the_site_s_database(release: Release) -> None:
    release.migrate()
    for name, addition in (("notes/models.py", CHECK), ("mysite/urls.py", 'print("urls", len(tables()))\n')):
        with (release.project / name).open("a", encoding="utf-8") as file:
            file.write(TABLES + addition)
    result = release.verb("preflight", "--pending")
    assert result.returncode == 0, result.stderr
    # The project's own code still sees the database.
    assert result.stdout.splitlines()[:2] == ["urls 3", "check 0"]
    assert '"pending": []' in result.stdout

"""An image without Docker: an interpreter prepared as in the image, real projects, real databases."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import django
import pytest

RUNTIME = Path(__file__).resolve().parents[3] / "roles" / "image" / "files" / "runtime"
sys.path.insert(0, str(RUNTIME))

# sqlite first: it replaces sqlite3 before the tests import it.
from hostwright import install, sqlite  # noqa: E402
from hostwright.errors import HostwrightError  # noqa: E402

SETTINGS = """
    from pathlib import Path
    BASE_DIR = Path(__file__).resolve().parent.parent
    SECRET_KEY = "insecure"
    DEBUG = True
    ALLOWED_HOSTS = []
    INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.staticfiles", "notes"]
    MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
    ROOT_URLCONF = "mysite.urls"
    WSGI_APPLICATION = "mysite.wsgi.application"
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
    STATIC_URL = "static/"
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
FILES = {
    "manage.py": """
        import os, sys
        from django.core.management import execute_from_command_line
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
        execute_from_command_line(sys.argv)
    """,
    "mysite/__init__.py": "",
    "mysite/settings.py": SETTINGS,
    "mysite/wsgi.py": """
        import os
        from django.core.wsgi import get_wsgi_application
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
        application = get_wsgi_application()
    """,
    "mysite/urls.py": """
        import os, time
        from django.http import HttpResponse
        from django.urls import path
        from notes.models import Note

        def index(request):
            return HttpResponse(f"{Note.objects.count()} notes for {request.build_absolute_uri('/')}")

        def address(request):
            return HttpResponse(request.META["REMOTE_ADDR"])

        def slow(request):
            time.sleep(float(request.GET["seconds"]))
            Note.objects.create(text="slow")
            return HttpResponse(f"slow {os.getpid()}")

        def broken(request):
            raise RuntimeError("broken on purpose")

        urlpatterns = [path("", index), path("slow", slow), path("broken", broken), path("address", address)]
    """,
    "notes/__init__.py": "",
    "notes/models.py": """
        from django.db import models

        class Note(models.Model):
            text = models.TextField()
    """,
    "notes/migrations/__init__.py": "",
    "notes/migrations/0001_initial.py": """
        from django.db import migrations, models

        class Migration(migrations.Migration):
            initial = True
            dependencies = []
            operations = [
                migrations.CreateModel(
                    "Note", [("id", models.BigAutoField(primary_key=True)), ("text", models.TextField())]
                )
            ]
    """,
    "notes/static/notes/notes.css": "body { color: #333 }\n",
}


assert sqlite.replace()


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with hostwright.pth, as in an image."""
    root = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "venv")], check=True)
    interpreter = root / "venv" / "bin" / "python"
    prefix = root / "opt"
    prefix.mkdir()
    packages = Path(django.__file__).parents[1]
    (prefix / "requirements").symlink_to(packages)
    (prefix / "server").symlink_to(packages)
    (prefix / "runtime").symlink_to(RUNTIME)
    directory = subprocess.run(
        [interpreter, "-c", "import site; print(site.getsitepackages()[0])"], check=True, capture_output=True, text=True
    )
    Path(directory.stdout.strip(), "hostwright.pth").write_text(install.pth(prefix), encoding="utf-8")
    return interpreter


@dataclass
class Release:
    """A project and its release, in a temporary directory instead of /site."""

    root: Path
    python: Path
    configuration: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def project(self) -> Path:
        """The project's source."""
        return self.root / "app"

    @property
    def database(self) -> Path:
        """The release's database."""
        return self.root / "databases" / "1" / "db.sqlite3"

    @property
    def static(self) -> Path:
        """The directory of the image's static files."""
        return self.root / "image" / "static"

    @property
    def socket(self) -> Path:
        """The socket of the release."""
        return self.root / "run" / "releases" / "1" / "app.sock"

    @property
    def current(self) -> Path:
        """The symlink that names the live release: this one, unless a test changes it."""
        return self.root / "run" / "current"

    @property
    def record(self) -> Path:
        """The release's immutable record."""
        return self.socket.with_name("release.json")

    @property
    def backups(self) -> Path:
        """The directory of the backups."""
        return self.root / "backups"

    def write(self, files: dict[str, str]) -> None:
        """Write files of the project."""
        for name, text in files.items():
            path = self.project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")

    def settings(self, addition: str) -> None:
        """Add lines to the project's settings."""
        self.write({"mysite/settings.py": textwrap.dedent(SETTINGS) + textwrap.dedent(addition)})

    def save(self) -> Path:
        """Write the configuration file."""
        path = self.root / "config" / "releases" / "1.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.configuration), encoding="utf-8")
        return path

    def environment(self, configured: bool = True) -> dict[str, str]:
        """Return the variables that the image and the container set."""
        found = {
            name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "HOSTWRIGHT", "SECRET"))
        }
        found |= {
            "DJANGO_SETTINGS_MODULE": "hostwright.settings",
            "HOSTWRIGHT_SETTINGS": "mysite.settings",
            "HOSTWRIGHT_WSGI": "mysite.wsgi.application",
            "HOSTWRIGHT_STATIC_ROOT": str(self.static),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if configured:
            found["HOSTWRIGHT_CONFIG"] = str(self.save())
        return found | self.variables

    def command(self, *words: str | Path, configured: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the image's Python in the project's directory."""
        return subprocess.run(
            [self.python, *words],
            cwd=self.project,
            env=self.environment(configured),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def verb(self, *words: str | Path, configured: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a verb of the runtime."""
        return self.command("-m", "hostwright", *words, configured=configured)

    def answer(self, *words: str | Path, configured: bool = True) -> Any:
        """Run a verb that must succeed; return its JSON."""
        result = self.verb(*words, configured=configured)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    def pending(self) -> Any:
        """Compare the migrations with the database."""
        return self._migrations("project.setup() or migrations.pending()")

    def migrate(self) -> Any:
        """Apply the pending migrations to the release's database; to the project's own one in development."""
        name = self.configuration.get("database")
        if name is None:
            return self._migrations("migrations.migrate()")
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        return self._migrations(f"migrations.migrate(Path({name!r}))")

    def _migrations(self, expression: str) -> Any:
        code = f"""
import json, sys
from pathlib import Path
from hostwright import migrations, project
from hostwright.errors import HostwrightError
try:
    print(json.dumps({expression}))
except HostwrightError as error:
    sys.exit(str(error))
"""
        result = self.command("-c", code)
        if result.returncode:
            raise HostwrightError(result.stderr)
        return json.loads(result.stdout.splitlines()[-1])

    def shell(self, code: str, configured: bool = True) -> str:
        """Run code with Django set up, as management commands do; return the last line of output."""
        result = self.command("manage.py", "shell", "-c", code, configured=configured)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip().splitlines()[-1]


def make_release(tmp_path: Path, python: Path) -> Release:
    """Write an unmodified project and its configuration; nothing is migrated yet."""
    made = Release(tmp_path, python)
    made.write(FILES)
    for directory in ("run/releases/1", "secrets", "media", "backups"):
        (tmp_path / directory).mkdir(parents=True)
    made.current.symlink_to("releases/1")
    (tmp_path / "secrets" / "secret_key").write_text("the-site's-key\n", encoding="utf-8")
    record = {"site": "notes", "release": 1, "generation": 1, "version": "1.0", "image": "notes:1.0"}
    made.record.write_text(json.dumps(record), encoding="utf-8")
    made.configuration = {
        "environment": "production",
        "debug": False,
        "database": str(made.database),
        "secret_key_file": str(tmp_path / "secrets" / "secret_key"),
        "secrets_directory": str(tmp_path / "secrets"),
        "allowed_hosts": ["notes.example.org", ".example.net"],
        "scheme": "https",
        "static_url": None,
        "media_root": str(tmp_path / "media"),
        "sqlite": {"synchronous": "NORMAL", "busy_timeout": 4000, "mmap_size": 0, "journal_size_limit": 1048576},
        "server": {"processes": 1, "threads": 2, "backlog": 256, "socket": str(made.socket), "stop_timeout": 10},
        "health_path": "/",
        "environment_variables": {"COLOUR": "blue"},
    }
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Move the clock of this process's backups instead of waiting for the next second."""
    from hostwright import backup

    leapt = timedelta()

    class Moment(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Moment:
            return super().now(tz) + leapt

    def leap(seconds: float) -> None:
        nonlocal leapt
        leapt += timedelta(seconds=seconds)

    monkeypatch.setattr(backup, "datetime", Moment)
    monkeypatch.setattr(backup, "time", SimpleNamespace(sleep=leap, monotonic=time.monotonic))


@pytest.fixture
def release(tmp_path: Path, python: Path) -> Release:
    """Return an unmodified project with its configuration; nothing is migrated yet."""
    return make_release(tmp_path, python)


@pytest.fixture
def ledger(release: Release, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with a constant sum, configured for this process."""
    from tests.unit.runtime import ledgers

    release.database.parent.mkdir(parents=True)
    ledgers.create(release.database)
    monkeypatch.setenv("HOSTWRIGHT_CONFIG", str(release.save()))
    return release.database


@pytest.fixture
def serve(release: Release) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts the server or another verb; at the end its processes are killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [release.python, "-m", "hostwright", *(words or ("serve",))],
            cwd=release.project,
            env=release.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

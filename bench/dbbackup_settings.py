"""Django settings for django-dbbackup; the environment variable BENCH_DATABASE names the database."""

import os
from pathlib import Path

DATABASE = Path(os.environ["BENCH_DATABASE"])
SECRET_KEY = "not secret"  # noqa: S105 (serves no requests)
INSTALLED_APPS = ["dbbackup"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE, "OPTIONS": {"timeout": 5}}}
STORAGES = {
    "dbbackup": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": os.environ["BENCH_OUTPUT"]},
    },
}
DBBACKUP_FILENAME_TEMPLATE = DATABASE.name

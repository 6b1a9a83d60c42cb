"""Settings that all environments of the notebook share."""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def required(name: str) -> str:
    """Return the environment variable `name`, which must not be empty."""
    if value := os.environ.get(name):
        return value
    raise ImproperlyConfigured(f"Set the environment variable {name}.")


BASE_DIR = Path(__file__).resolve().parents[3]

SECRET_KEY = os.environ.get("SECRET_KEY", "")

NOTES_TITLE = required("NOTES_TITLE")
NOTES_TOKEN = required("NOTES_TOKEN")  # required by export.json

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.staticfiles",
    "notes",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "notes.sqlite3",
        "OPTIONS": {"timeout": 7},
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "Europe/Vienna"
USE_TZ = True

STATIC_URL = "/assets/"
STATIC_ROOT = BASE_DIR / "collected"

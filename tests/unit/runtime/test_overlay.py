"""The overlay sets what the deployment decides, and nothing else."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostwright.configuration import Configuration
from hostwright.errors import ProjectError
from hostwright.overlay import overlay, require_django

RELEASE = Configuration(
    environment="production",
    database=Path("/site/data/databases/3/db.sqlite3"),
    allowed_hosts=("example.org", ".example.net"),
    scheme="https",
    media_root=Path("/site/media"),
)


def project(**settings: Any) -> dict[str, Any]:
    return {
        "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path("/app/db.sqlite3")}},
        **settings,
    }


def test_production() -> None:
    given = project(DEBUG=True, CSRF_TRUSTED_ORIGINS=["https://cdn.example.org"])
    decided = overlay(given, RELEASE, "key")
    assert decided.keys() == {
        "DEBUG", "SECRET_KEY", "ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "SECURE_PROXY_SSL_HEADER", "DATABASES",
        "STATIC_ROOT", "MEDIA_ROOT", "LOGGING", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SILENCED_SYSTEM_CHECKS",
    }  # fmt: skip
    assert decided["DEBUG"] is False
    assert decided["SECRET_KEY"] == "key"
    assert decided["ALLOWED_HOSTS"] == ["example.org", ".example.net"]
    assert decided["CSRF_TRUSTED_ORIGINS"] == [
        "https://cdn.example.org",
        "https://example.org",
        "https://*.example.net",
    ]
    assert decided["SECURE_PROXY_SSL_HEADER"] == ("HTTP_X_FORWARDED_PROTO", "https")
    assert (decided["STATIC_ROOT"], decided["MEDIA_ROOT"]) == ("/opt/hostwright/static", "/site/media")
    assert given["DEBUG"] is True


def test_a_site_for_every_host_trusts_no_other_origin() -> None:
    assert overlay(project(), replace(RELEASE, allowed_hosts=("*",)), "key")["CSRF_TRUSTED_ORIGINS"] == []


def test_static_url_only_where_the_deployment_gives_one() -> None:
    assert "STATIC_URL" not in overlay(project(), RELEASE, "key")
    assert overlay(project(), replace(RELEASE, static_url="/s/"), "key")["STATIC_URL"] == "/s/"


def test_the_database_keeps_the_project_s_options() -> None:
    entry: dict[str, Any] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "db.sqlite3",
        "ATOMIC_REQUESTS": True,
        "CONN_MAX_AGE": 60,
        "OPTIONS": {
            "init_command": "PRAGMA cache_size=-4000;",
            "transaction_mode": "EXCLUSIVE",
            "cached_statements": 200,
        },
    }
    database = overlay({"DATABASES": {"default": entry}}, RELEASE, "key")["DATABASES"]["default"]
    assert database["NAME"] == "/site/data/databases/3/db.sqlite3"
    assert (database["ATOMIC_REQUESTS"], database["CONN_MAX_AGE"]) == (True, 60)
    options = database["OPTIONS"]
    assert options["init_command"].split("; ") == [
        "PRAGMA cache_size=-4000",
        "PRAGMA busy_timeout=5000",
        "PRAGMA journal_mode=WAL",
        "PRAGMA synchronous=NORMAL",
        "PRAGMA mmap_size=0",
        "PRAGMA journal_size_limit=67108864",
    ]
    assert (options["transaction_mode"], options["timeout"], options["cached_statements"]) == ("EXCLUSIVE", 5.0, 200)
    assert entry["NAME"] == "db.sqlite3"
    assert "timeout" not in entry["OPTIONS"]


def test_a_database_without_options_gets_immediate_transactions_and_persistent_connections() -> None:
    database = overlay(project(), RELEASE, "key")["DATABASES"]["default"]
    assert database["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert database["CONN_MAX_AGE"] is None


@pytest.mark.parametrize(
    "databases",
    [
        {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "x"}},
        {"default": {"ENGINE": "django.db.backends.sqlite3"}, "other": {"ENGINE": "django.db.backends.sqlite3"}},
        {},
    ],
)
@pytest.mark.parametrize("release", [RELEASE, None])
def test_other_databases_are_never_replaced(databases: dict[str, Any], release: Configuration | None) -> None:
    assert "DATABASES" not in overlay({"DATABASES": databases}, release, "key")


def test_logging_of_the_project_stays() -> None:
    assert "LOGGING" not in overlay(project(LOGGING={"version": 1}), RELEASE, "key")
    logging = overlay(project(ADMINS=[("A", "a@example.org")]), RELEASE, "key")["LOGGING"]
    assert logging["loggers"]["django"]["handlers"] == ["stdout", "mail_admins"]


def test_development_leaves_the_project_alone() -> None:
    decided = overlay(project(SECRET_KEY="theirs"), Configuration(environment="development", debug=True), "key")
    assert decided == {"DEBUG": True, "ALLOWED_HOSTS": ["*"]}
    assert overlay(project(SECRET_KEY=""), Configuration(environment="development"), "key")["SECRET_KEY"] == "key"


def test_a_build_has_a_database_in_memory() -> None:
    decided = overlay(project(), None, "throw-away")
    assert decided["DATABASES"]["default"]["NAME"] == Path(":memory:")
    assert decided["SECRET_KEY"] == "throw-away"


@pytest.mark.parametrize("version", [(5, 1, 0), (5, 2, 19), (6, 0, 1)])
def test_a_supported_django_is_accepted(version: tuple[int, ...]) -> None:
    require_django(version, "")


@pytest.mark.parametrize("version", [(3, 2, 25), (4, 2, 27), (5, 0, 14)])
def test_older_django_is_refused(version: tuple[int, ...]) -> None:
    with pytest.raises(ProjectError, match=r"Django X is too old: .* needs Django 5\.1"):
        require_django(version, "X")


def test_https_secures_cookies_and_silences_the_checks_that_nginx_fulfils() -> None:
    given = project(SESSION_COOKIE_SECURE=False, SILENCED_SYSTEM_CHECKS=["fields.W342"])
    decided = overlay(given, RELEASE, "key")
    assert decided["SESSION_COOKIE_SECURE"] is decided["CSRF_COOKIE_SECURE"] is True
    assert decided["SILENCED_SYSTEM_CHECKS"] == ["fields.W342", "security.W004", "security.W008"]
    # A project's own silenced checks are kept, and with plain HTTP nothing is silenced.
    assert "SECURE_SSL_REDIRECT" not in decided
    assert "SECURE_HSTS_SECONDS" not in decided
    plain = overlay(project(SESSION_COOKIE_SECURE=True), replace(RELEASE, scheme="http"), "key")
    assert not {"SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SILENCED_SYSTEM_CHECKS"} & plain.keys()


def test_a_replaced_key_is_accepted_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "SECRET_KEY_FALLBACKS" not in overlay(project(SECRET_KEY_FALLBACKS=["theirs"]), RELEASE, "key")
    until = {"older": 1000.0, "old": 2000.0}
    found = overlay(project(SECRET_KEY_FALLBACKS=["theirs"]), RELEASE, "key", until)["SECRET_KEY_FALLBACKS"]
    assert isinstance(found, list)
    for now, accepted in ((999, ["theirs", "older", "old"]), (1000, ["theirs", "old"]), (2000, ["theirs"])):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert [*found] == accepted


def test_paths_keep_the_project_s_type() -> None:
    paths = {"STATIC_ROOT": Path("/app/collected"), "MEDIA_ROOT": Path("/app/media")}
    for configuration, roots in (
        (RELEASE, {"STATIC_ROOT": Path("/opt/hostwright/static"), "MEDIA_ROOT": Path("/site/media")}),
        (None, {"STATIC_ROOT": Path("/opt/hostwright/static")}),
    ):
        as_paths = overlay(project(**paths), configuration, "key")
        as_texts = overlay(project(**{name: str(path) for name, path in paths.items()}), configuration, "key")
        # Django's defaults are a string (MEDIA_ROOT) and None (STATIC_ROOT).
        unset = overlay(project(), configuration, "key")
        for name, path in roots.items():
            assert (as_paths[name], as_texts[name], unset[name]) == (path, str(path), str(path))


@pytest.mark.parametrize(("configuration", "name"), [(RELEASE, RELEASE.database), (None, Path(":memory:"))])
def test_the_database_s_name_keeps_the_project_s_type(configuration: Configuration | None, name: Path) -> None:
    as_path = overlay(project(), configuration, "key")["DATABASES"]["default"]["NAME"]
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}
    as_text = overlay({"DATABASES": {"default": entry}}, configuration, "key")["DATABASES"]["default"]["NAME"]
    assert (as_path, as_text) == (name, str(name))

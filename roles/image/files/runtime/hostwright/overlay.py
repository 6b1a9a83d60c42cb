"""The settings that the deployment decides, as a pure function of the project's settings."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hostwright.configuration import STATIC_ROOT, Configuration
from hostwright.errors import ProjectError

OLDEST_DJANGO = (5, 1)
# Checks of `check --deploy` for what Nginx does: the redirect to HTTPS, and HSTS (nginx_tls_hsts).
NGINX_CHECKS = ("security.W004", "security.W008")


class Fallbacks(list[str]):
    """SECRET_KEY_FALLBACKS whose keys expire, also in a running process."""

    def __init__(self, keys: Iterable[str], until: Mapping[str, float]) -> None:
        """Set the keys, and the end of validity (seconds since 1970) of those that expire."""
        super().__init__(keys)
        self._until = dict(until)

    def __iter__(self) -> Iterator[str]:
        """Yield the keys that are valid now."""
        now = time.time()
        return (key for key in super().__iter__() if self._until.get(key, now + 1) > now)


def overlay(
    project: Mapping[str, Any],
    configuration: Configuration | None,
    secret_key: str,
    fallbacks: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the settings that the deployment decides.

    Args:
        project: the project's settings by name; not changed.
        configuration: the release's configuration; None while an image is built.
        secret_key: the site's secret key.
        fallbacks: replaced keys with the end of their validity (seconds since 1970).

    Returns:
        The settings that replace the project's.
    """
    if configuration is not None and not configuration.production:
        return _development(project, configuration, secret_key)
    decided: dict[str, Any] = {"DEBUG": False, "SECRET_KEY": secret_key, "ALLOWED_HOSTS": ["*"]}
    databases = project.get("DATABASES") or {}
    if list(databases) == ["default"] and is_sqlite(databases["default"]):
        decided["DATABASES"] = {"default": database(databases["default"], configuration)}
    static_root = STATIC_ROOT if configuration is None else configuration.static_root
    decided["STATIC_ROOT"] = like(project.get("STATIC_ROOT"), static_root)
    if configuration is None:
        return decided
    decided["DEBUG"] = configuration.debug
    decided["ALLOWED_HOSTS"] = list(configuration.allowed_hosts)
    decided["CSRF_TRUSTED_ORIGINS"] = trusted_origins(project.get("CSRF_TRUSTED_ORIGINS") or (), configuration)
    decided["SECURE_PROXY_SSL_HEADER"] = ("HTTP_X_FORWARDED_PROTO", "https")
    if configuration.scheme == "https":
        decided["SESSION_COOKIE_SECURE"] = decided["CSRF_COOKIE_SECURE"] = True
        decided["SILENCED_SYSTEM_CHECKS"] = [*(project.get("SILENCED_SYSTEM_CHECKS") or ()), *NGINX_CHECKS]
    if fallbacks:
        theirs = project.get("SECRET_KEY_FALLBACKS") or ()
        decided["SECRET_KEY_FALLBACKS"] = Fallbacks([*theirs, *fallbacks], fallbacks)
    if configuration.static_url is not None:
        decided["STATIC_URL"] = configuration.static_url
    if configuration.media_root is not None:
        decided["MEDIA_ROOT"] = like(project.get("MEDIA_ROOT"), configuration.media_root)
    if not project.get("LOGGING"):
        decided["LOGGING"] = logging_to_stdout(with_mail=bool(project.get("ADMINS")))
    return decided


def _development(project: Mapping[str, Any], configuration: Configuration, secret_key: str) -> dict[str, Any]:
    decided: dict[str, Any] = {"DEBUG": configuration.debug, "ALLOWED_HOSTS": ["*"]}
    if not project.get("SECRET_KEY"):
        decided["SECRET_KEY"] = secret_key
    return decided


def like(theirs: object, path: Path) -> Any:
    """Return a path in the type of the project's setting, so that ``MEDIA_ROOT / "x"`` still works.

    Args:
        theirs: the project's value; if it is not a path object (a string, None), the result is a string.
        path: the path to return.
    """
    kind: Any = type(theirs) if isinstance(theirs, os.PathLike) else str
    return kind(str(path))


def is_sqlite(database_settings: Mapping[str, Any]) -> bool:
    """Return whether an entry of DATABASES is a SQLite database, by the name of its engine."""
    engine = str(database_settings.get("ENGINE", ""))
    return engine.endswith((".sqlite3", ".spatialite"))


def database(project: Mapping[str, Any], configuration: Configuration | None) -> dict[str, Any]:
    """Return the entry of the release's database, with settings for concurrent writers.

    Measured with 4 processes, each reading and then writing in a transaction: Django's defaults 586 transactions a
    second, 6.5 % of them "database is locked"; WAL alone 98.5 % locked; WAL, NORMAL and IMMEDIATE 16 735, none locked.

    Args:
        project: DATABASES["default"]; its other options are kept.
        configuration: the release's configuration; None returns a database in memory, for the build.
    """
    if configuration is None:
        return {**project, "NAME": like(project.get("NAME"), Path(":memory:"))}
    sqlite = configuration.sqlite
    options = dict(project.get("OPTIONS") or {})
    pragmas = (
        f"PRAGMA busy_timeout={sqlite.busy_timeout}",
        "PRAGMA journal_mode=WAL",
        f"PRAGMA synchronous={sqlite.synchronous}",
        f"PRAGMA mmap_size={sqlite.mmap_size}",
        f"PRAGMA journal_size_limit={sqlite.journal_size_limit}",
    )
    theirs = str(options.get("init_command") or "").strip().rstrip(";")
    options["init_command"] = "; ".join((theirs, *pragmas) if theirs else pragmas)
    options["timeout"] = sqlite.busy_timeout / 1000
    if not options.get("transaction_mode"):
        options["transaction_mode"] = "IMMEDIATE"
    # Persistent unless the project sets CONN_MAX_AGE: the last connection to close checkpoints and removes the WAL.
    # With one connection for each request that happens at each request (measured: persistent connections allow 2.2
    # times the reads and 3.4 times the writes).
    name = like(project.get("NAME"), configuration.require_database())
    return {"CONN_MAX_AGE": None, **project, "NAME": name, "OPTIONS": options}


def trusted_origins(project: Iterable[str], configuration: Configuration) -> list[str]:
    """Add the site's own origins to the project's CSRF_TRUSTED_ORIGINS."""
    origins = list(project)
    for host in configuration.allowed_hosts:
        if host != "*":
            origin = f"{configuration.scheme}://{'*' + host if host.startswith('.') else host}"
            if origin not in origins:
                origins.append(origin)
    return origins


def logging_to_stdout(with_mail: bool) -> dict[str, Any]:
    """Return a LOGGING for a project without one: Django's default logs no errors while DEBUG is off.

    Args:
        with_mail: whether to keep Django's mails to ADMINS.
    """
    handlers: dict[str, Any] = {
        "stdout": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stdout"}
    }
    if with_mail:
        handlers["mail_admins"] = {"class": "django.utils.log.AdminEmailHandler", "level": "ERROR"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "[{levelname}] {name}: {message}", "style": "{"}},
        "handlers": handlers,
        "root": {"handlers": ["stdout"], "level": "INFO"},
        "loggers": {"django": {"handlers": list(handlers), "level": "INFO", "propagate": False}},
    }


def require_django(version: tuple[int, ...], text: str) -> None:
    """Refuse a Django that is too old.

    Args:
        version: ``django.VERSION``.
        text: the version for the message.

    Raises:
        ProjectError: Django is older than 5.1, the first with transaction_mode and init_command for SQLite.
    """
    if version[:2] < OLDEST_DJANGO:
        raise ProjectError(
            f"Django {text} is too old: Hostwright needs Django 5.1 or newer, the first whose SQLite backend knows "
            '"transaction_mode" and "init_command". Raise it in the project\'s requirements (5.2 is the LTS release).'
        )

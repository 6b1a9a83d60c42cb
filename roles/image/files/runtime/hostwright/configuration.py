"""The release's configuration: a JSON file that the role app writes and that never changes afterwards."""

import json
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostwright.errors import ConfigurationError

PRODUCTION = "production"
DEVELOPMENT = "development"
PLACEHOLDER = "build"
# Directory of the image's static files; another one in tests.
STATIC_ROOT = Path(os.environ.get("HOSTWRIGHT_STATIC_ROOT", "/opt/hostwright/static"))

_ENVIRONMENT_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_SECRET_KEY_NAMES = ("SECRET_KEY", "DJANGO_SECRET_KEY")


@dataclass(frozen=True)
class Sqlite:
    """SQLite settings of every connection that Django opens."""

    synchronous: str = "NORMAL"
    busy_timeout: int = 5000
    """Milliseconds that a writer waits for another writer."""
    mmap_size: int = 0
    journal_size_limit: int = 67108864
    """Bytes to which the WAL is cut back after a checkpoint."""


@dataclass(frozen=True)
class Server:
    """How the WSGI server runs; ``threads`` is the number of requests that one process handles at a time."""

    socket: Path | None = None
    processes: int = 2
    threads: int = 2
    backlog: int = 4096
    stop_timeout: int = 30
    """Seconds that a process gets for its last requests before it is killed."""


@dataclass(frozen=True)
class Configuration:
    """The deployment's decisions for one release."""

    environment: str
    debug: bool = False
    database: Path | None = None
    secret_key_file: Path | None = None
    secrets_directory: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    scheme: str = "http"
    static_url: str | None = None
    static_root: Path = STATIC_ROOT
    media_root: Path | None = None
    health_path: str = "/"
    sqlite: Sqlite = field(default_factory=Sqlite)
    server: Server = field(default_factory=Server)
    environment_variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def production(self) -> bool:
        """Whether the deployment decides database, hosts and files."""
        return self.environment == PRODUCTION

    def require_database(self) -> Path:
        """Return the path of the database; raise ConfigurationError if there is none."""
        if self.database is None:
            raise ConfigurationError('The configuration has no "database": this works for a production release only.')
        return self.database

    def require_socket(self) -> Path:
        """Return the path of the server's socket; raise ConfigurationError if there is none."""
        if self.server.socket is None:
            raise ConfigurationError(
                'The configuration has no "server.socket": this works for a production release only.'
            )
        return self.server.socket


class _Section:
    """A JSON object with typed access; errors name the file and the key."""

    def __init__(self, data: object, where: str, prefix: str = "") -> None:
        self.where = where
        self.prefix = prefix
        if not isinstance(data, dict):
            raise self.error("", f"must be an object, not {data!r}")
        self.data: dict[str, Any] = data

    def error(self, key: str, problem: str) -> ConfigurationError:
        name = f'"{self.prefix}{key}"' if key else (f'"{self.prefix.rstrip(".")}"' if self.prefix else "the file")
        return ConfigurationError(f"{self.where}: {name} {problem}.")

    def section(self, key: str) -> "_Section":
        return _Section(self.data.get(key) or {}, self.where, f"{self.prefix}{key}.")

    def text(self, key: str, default: str) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"must be a string, not {value!r}")
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.data.get(key) is None else self.text(key, "")

    def choice(self, key: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(key, default)
        if value not in choices:
            raise self.error(key, f"must be one of {', '.join(choices)}, not {value!r}")
        return value

    def path(self, key: str) -> Path | None:
        value = self.optional_text(key)
        if value is None:
            return None
        if not value.startswith("/"):
            raise self.error(key, f"must be an absolute path, not {value!r}")
        return Path(value)

    def integer(self, key: str, default: int, minimum: int) -> int:
        value = self.data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.error(key, f"must be an integer of at least {minimum}, not {value!r}")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value = self.data.get(key) or []
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.error(key, f"must be a list of non-empty strings, not {value!r}")
        return tuple(value)

    def environment(self, key: str) -> dict[str, str]:
        value = self.data.get(key) or {}
        if not isinstance(value, dict):
            raise self.error(key, f"must be an object, not {value!r}")
        for name, text in value.items():
            # The value may be confidential: the message shows its type only.
            if not isinstance(text, str):
                raise self.error(f"{key}.{name}", f"must be a string, not a value of type {type(text).__name__}")
        return dict(value)


def parse(data: object, where: str) -> Configuration:
    """Check a configuration and convert it to its types.

    Unknown keys are ignored: an older image must run under the configuration of a newer collection.

    Args:
        data: the decoded JSON.
        where: name of the source, for error messages.

    Raises:
        ConfigurationError: names the first wrong key.
    """
    top = _Section(data, where)
    environment = top.choice("environment", "", (PRODUCTION, DEVELOPMENT))
    sqlite, server = top.section("sqlite"), top.section("server")
    configuration = Configuration(
        environment=environment,
        debug=top.boolean("debug", environment == DEVELOPMENT),
        database=top.path("database"),
        secret_key_file=top.path("secret_key_file"),
        secrets_directory=top.path("secrets_directory"),
        allowed_hosts=top.strings("allowed_hosts"),
        scheme=top.choice("scheme", "http", ("http", "https")),
        static_url=top.optional_text("static_url"),
        static_root=top.path("static_root") or STATIC_ROOT,
        media_root=top.path("media_root"),
        health_path=top.text("health_path", "/"),
        sqlite=Sqlite(
            synchronous=sqlite.choice("synchronous", Sqlite.synchronous, ("OFF", "NORMAL", "FULL", "EXTRA")),
            busy_timeout=sqlite.integer("busy_timeout", Sqlite.busy_timeout, 0),
            mmap_size=sqlite.integer("mmap_size", Sqlite.mmap_size, 0),
            journal_size_limit=sqlite.integer("journal_size_limit", Sqlite.journal_size_limit, -1),
        ),
        server=Server(
            socket=server.path("socket"),
            # Older configurations call this key "workers".
            processes=server.integer("processes", server.integer("workers", Server.processes, 1), 1),
            threads=server.integer("threads", Server.threads, 1),
            backlog=server.integer("backlog", Server.backlog, 128),
            stop_timeout=server.integer("stop_timeout", Server.stop_timeout, 1),
        ),
        environment_variables=top.environment("environment_variables"),
    )
    if configuration.production:
        for key in ("database", "secret_key_file"):
            if getattr(configuration, key) is None:
                raise top.error(key, "is missing")
        if not configuration.allowed_hosts:
            raise top.error("allowed_hosts", "is missing: the site has no domain")
    return configuration


def read(path: Path) -> Configuration:
    """Read a configuration file.

    Raises:
        ConfigurationError: the file cannot be read, is not JSON, or has a wrong value.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read the release's configuration: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: invalid JSON: {error}.") from error
    return parse(data, str(path))


def load(environ: Mapping[str, str] = os.environ) -> Configuration | None:
    """Read the configuration that ``HOSTWRIGHT_CONFIG`` names.

    Returns:
        The configuration; None while an image is built, when there is no release yet.
    """
    path = environ.get("HOSTWRIGHT_CONFIG")
    return read(Path(path)) if path else None


def require(environ: Mapping[str, str] = os.environ) -> Configuration:
    """Read the configuration that ``HOSTWRIGHT_CONFIG`` names; raise ConfigurationError if it is not set."""
    return read(require_path(environ))


def require_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the release's configuration.

    Raises:
        ConfigurationError: ``HOSTWRIGHT_CONFIG`` is not set.
    """
    path = environ.get("HOSTWRIGHT_CONFIG")
    if not path:
        raise ConfigurationError("HOSTWRIGHT_CONFIG is not set: it names the release's configuration (a JSON file).")
    return Path(path)


def secrets(directory: Path) -> dict[str, str]:
    """Read the site's secrets: one file for each secret, named like an environment variable.

    Args:
        directory: files with other names (``secret_key``) are ignored.

    Returns:
        Values without their final newline, by name.
    """
    found: dict[str, str] = {}
    try:
        for path in sorted(directory.iterdir()):
            if _ENVIRONMENT_NAME.fullmatch(path.name) and path.is_file():
                found[path.name] = _secret(path)
    except OSError as error:
        raise ConfigurationError(f"{directory}: cannot read the site's secrets: {error.strerror}.") from error
    return found


def _secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read this secret: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: this secret is not UTF-8 text.") from error


def secret_key(configuration: Configuration | None) -> str:
    """Return the site's secret key; a random one while an image is built.

    Raises:
        ConfigurationError: the file is missing, unreadable or empty.
    """
    if configuration is None or configuration.secret_key_file is None:
        return "hostwright-throw-away-key-" + os.urandom(24).hex()
    key = _secret(configuration.secret_key_file).strip()
    if not key:
        raise ConfigurationError(f"{configuration.secret_key_file}: the secret key is empty.")
    return key


def secret_key_fallbacks(configuration: Configuration | None) -> dict[str, float]:
    """Return the replaced secret keys, each with the end of its validity (seconds since 1970).

    Raises:
        ConfigurationError: the file beside the secret key is unreadable or has another form.
    """
    if configuration is None or configuration.secret_key_file is None:
        return {}
    path = configuration.secret_key_file.with_name(f"{configuration.secret_key_file.name}_fallbacks")
    if not path.exists():
        return {}
    try:
        return {str(entry["key"]): float(entry["until"]) for entry in json.loads(_secret(path))}
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"{path}: is not a list of older secret keys.") from error


def export(configuration: Configuration | None, environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the environment variables that the project reads when its settings are imported.

    Variables that the user declared replace those of the container. The secret key is set under its usual names, unless
    they are set already. While an image is built, declared secrets have a placeholder.
    """
    if configuration is None:
        for name in environ.get("HOSTWRIGHT_BUILD_SECRETS", "").split(","):
            if name.strip():
                environ.setdefault(name.strip(), PLACEHOLDER)
    else:
        environ.update(configuration.environment_variables)
        if configuration.secrets_directory is not None:
            environ.update(secrets(configuration.secrets_directory))
    if not all(name in environ for name in _SECRET_KEY_NAMES):
        key = secret_key(configuration)
        for name in _SECRET_KEY_NAMES:
            environ.setdefault(name, key)

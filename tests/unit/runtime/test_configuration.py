"""A wrong configuration is refused; the message names the file, the key and the accepted values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hostwright import configuration
from hostwright.errors import ConfigurationError

GOOD: dict[str, Any] = {
    "environment": "production",
    "database": "/site/data/databases/3/db.sqlite3",
    "secret_key_file": "/site/config/secrets/secret_key",
    "allowed_hosts": ["example.org"],
    "server": {"socket": "/site/run/releases/7/app.sock"},
}


def test_a_configuration_gets_its_types_and_defaults() -> None:
    found = configuration.parse({**GOOD, "a_key_of_a_newer_version": 1}, "7.json")
    assert found.production
    assert not found.debug
    assert found.require_database() == Path("/site/data/databases/3/db.sqlite3")
    assert found.require_socket() == Path("/site/run/releases/7/app.sock")
    assert found.allowed_hosts == ("example.org",)
    assert (found.sqlite.synchronous, found.sqlite.busy_timeout, found.server.processes) == ("NORMAL", 5000, 2)


@pytest.mark.parametrize(("server", "processes"), [({"workers": 3}, 3), ({"workers": 3, "processes": 2}, 2)])
def test_an_older_configuration_calls_processes_workers(server: dict[str, int], processes: int) -> None:
    assert configuration.parse({**GOOD, "server": server}, "7.json").server.processes == processes


def test_a_development_configuration_needs_no_other_key_and_has_debug_on() -> None:
    found = configuration.parse({"environment": "development"}, "dev.json")
    assert not found.production
    assert found.debug
    with pytest.raises(ConfigurationError, match="production release only"):
        found.require_database()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": "staging"}, '7.json: "environment" must be one of production, development'),
        ({"database": None}, '"database" is missing'),
        ({"database": "db.sqlite3"}, '"database" must be an absolute path'),
        ({"secret_key_file": None}, '"secret_key_file" is missing'),
        ({"allowed_hosts": []}, '"allowed_hosts" is missing'),
        ({"allowed_hosts": "example.org"}, '"allowed_hosts" must be a list of non-empty strings'),
        ({"debug": "false"}, '"debug" must be true or false'),
        ({"scheme": "ftp"}, '"scheme" must be one of http, https'),
        ({"server": {"processes": "2"}}, '"server.processes" must be an integer of at least 1'),
        ({"server": {"workers": "2"}}, '"server.workers" must be an integer of at least 1'),
        ({"server": {"threads": True}}, '"server.threads" must be an integer of at least'),
        ({"server": {"backlog": 1}}, '"server.backlog" must be an integer of at least 128'),
        ({"server": []}, None),
        ({"server": [1]}, '"server" must be an object'),
        ({"sqlite": {"synchronous": "FAST"}}, '"sqlite.synchronous" must be one of OFF, NORMAL'),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], message: str | None) -> None:
    if message is None:
        configuration.parse({**GOOD, **change}, "7.json")
        return
    with pytest.raises(ConfigurationError) as caught:
        configuration.parse({**GOOD, **change}, "7.json")
    assert message in str(caught.value)


def test_a_wrong_environment_variable_does_not_show_its_value() -> None:
    with pytest.raises(ConfigurationError) as caught:
        configuration.parse({**GOOD, "environment_variables": {"PIN": 271828}}, "7.json")
    assert "environment_variables.PIN" in str(caught.value)
    assert "271828" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.json: cannot read .*No such file"):
        configuration.read(tmp_path / "missing.json")
    (tmp_path / "half.json").write_text('{"environment":', encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"half\.json: invalid JSON"):
        configuration.read(tmp_path / "half.json")


def test_secrets_and_variables_are_exported(tmp_path: Path) -> None:
    (tmp_path / "secret_key").write_text("k\n", encoding="utf-8")
    (tmp_path / "API_TOKEN").write_text("t\n\n", encoding="utf-8")
    (tmp_path / "lower").write_text("no", encoding="utf-8")
    found = configuration.parse(
        {
            **GOOD,
            "secret_key_file": str(tmp_path / "secret_key"),
            "secrets_directory": str(tmp_path),
            "environment_variables": {"COLOUR": "blue", "DJANGO_SECRET_KEY": "theirs"},
        },
        "7.json",
    )
    environ = {"COLOUR": "red", "HOME": "/tmp"}
    configuration.export(found, environ)
    assert environ == {
        "HOME": "/tmp",
        "COLOUR": "blue",
        "API_TOKEN": "t\n",
        "SECRET_KEY": "k",
        "DJANGO_SECRET_KEY": "theirs",
    }


def test_an_empty_or_missing_secret_key_is_refused(tmp_path: Path) -> None:
    found = configuration.parse({**GOOD, "secret_key_file": str(tmp_path / "key")}, "7.json")
    with pytest.raises(ConfigurationError, match="cannot read this secret"):
        configuration.secret_key(found)
    (tmp_path / "key").write_text("\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="the secret key is empty"):
        configuration.secret_key(found)


def test_declared_secrets_have_a_placeholder_at_build() -> None:
    environ = {"HOSTWRIGHT_BUILD_SECRETS": "API_TOKEN, OTHER", "OTHER": "set"}
    configuration.export(None, environ)
    assert (environ["API_TOKEN"], environ["OTHER"]) == ("build", "set")
    assert len(environ["SECRET_KEY"]) > 50


def test_replaced_keys_are_read_from_the_file_beside_the_secret_key(tmp_path: Path) -> None:
    found = configuration.parse({**GOOD, "secret_key_file": str(tmp_path / "secret_key")}, "7.json")
    assert configuration.secret_key_fallbacks(None) == {}
    assert configuration.secret_key_fallbacks(found) == {}
    beside = tmp_path / "secret_key_fallbacks"
    beside.write_text('[{"key": "old", "until": 2000}, {"key": "older", "until": 1000}]', encoding="utf-8")
    assert configuration.secret_key_fallbacks(found) == {"old": 2000.0, "older": 1000.0}
    for broken in ("{", '["old"]', '[{"key": "old"}]', '[{"key": "old", "until": "soon"}]', "7"):
        beside.write_text(broken, encoding="utf-8")
        with pytest.raises(ConfigurationError, match="secret_key_fallbacks: is not a list of older secret keys"):
            configuration.secret_key_fallbacks(found)

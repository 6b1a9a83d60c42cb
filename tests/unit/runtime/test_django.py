"""Django with the runtime's settings: `check --deploy`, and signatures of a replaced key."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release

REFERENCE = Path(__file__).resolve().parents[3] / "app"
SIGN = "from django.core import signing; print(signing.dumps('a vote'))"
LOAD = """
from django.core import signing
try:
    print(signing.loads({!r}))
except signing.BadSignature:
    print("refused")
"""


@pytest.mark.parametrize(
    ("scheme", "warnings"),
    [("https", set()), ("http", {"security.W004", "security.W008", "security.W012", "security.W016"})],
)
def test_the_reference_site_passes_the_checks_for_production(release: Release, scheme: str, warnings: set[str]) -> None:
    shutil.rmtree(release.project)
    shutil.copytree(REFERENCE, release.project, ignore=shutil.ignore_patterns("db.sqlite3", "__pycache__"))
    release.configuration["scheme"] = scheme
    (release.root / "secrets" / "secret_key").write_text("ab" * 20 + "0123456789", encoding="utf-8")
    result = release.command("manage.py", "check", "--deploy", "--fail-level", "WARNING")
    found = {word.strip("?:()") for word in result.stderr.split() if word.startswith("(security.")}
    assert (result.returncode, found) == (int(bool(warnings)), warnings), result.stderr
    if not warnings:
        assert "no issues (2 silenced)" in result.stdout


def test_signatures_of_a_replaced_key_are_valid_until_it_expires(release: Release) -> None:
    secrets = release.root / "secrets"
    signed = release.shell(SIGN)
    (secrets / "secret_key").rename(secrets / "old")
    (secrets / "secret_key").write_text("a new key", encoding="utf-8")
    for until, answer in ((time.time() + 60, "a vote"), (time.time() - 1, "refused")):
        fallbacks = [{"key": (secrets / "old").read_text().strip(), "until": until}]
        (secrets / "secret_key_fallbacks").write_text(json.dumps(fallbacks), encoding="utf-8")
        assert release.shell(LOAD.format(signed)) == answer

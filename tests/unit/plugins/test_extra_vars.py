"""Extra variables are read as they were typed after -e."""

from __future__ import annotations

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.extra_vars import CommandLineError, as_typed


@pytest.mark.parametrize(
    ("value", "word", "whole"),
    [
        ("check", "manage=check --deploy", "check --deploy"),
        ("check", "-emanage=check --deploy", "check --deploy"),
        ("check", "--extra-vars=manage=check --deploy", "check --deploy"),
        ("shell", "manage=shell -c 'print(1)'", "shell -c 'print(1)'"),
        ("loaddata", "manage=loaddata --format=json -", "loaddata --format=json -"),
        ("check", "manage=check", "check"),
        ("check --deploy", 'manage="check --deploy"', "check --deploy"),
        ("check --deploy", '{"manage": "check --deploy"}', "check --deploy"),
        ("check", "manage=checks --deploy", "check"),
        ("", "-v", ""),
    ],
)
def test_whole_value(value: str, word: str, whole: str) -> None:
    assert as_typed("manage", value, ["ansible-playbook", "x.yml", "-e", word, ""]) == whole


def test_the_last_value_counts() -> None:
    assert (
        as_typed("manage", "check", ["-e", "manage=migrate --plan", "-e", "manage=check --deploy"]) == "check --deploy"
    )


def test_two_variables_after_one_option_are_refused() -> None:
    with pytest.raises(CommandLineError, match="Use a separate -e for"):
        as_typed("manage", "check", ["-e", "manage=check --deploy site_name=polls"])

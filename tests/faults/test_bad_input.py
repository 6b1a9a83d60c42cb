"""Bad input is refused with one clear message, and nothing is changed.

One case of each kind; tests/unit/plugins/image/test_project.py has all errors of a project.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

import pytest

from tests.faults.site import Site, Traffic


@dataclass(frozen=True)
class Case:
    """Invalid variables, text added to the project's files, and texts of the message."""

    name: str
    says: tuple[str, ...]
    variables: dict[str, object] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


CASES = [
    Case(
        "an unsuitable host",
        ("99999999 MB", "99.0", "debian 99"),
        {
            "hostwright_space_megabytes": 99999999,
            "docker_minimum_version": "99.0",
            "docker_distributions": ["debian 99"],
        },
    ),
    Case(
        "wrong types",
        ("app_processes", "pids", "synchronous", "NORMAL"),
        {"app_processes": "many", "app_limits": {"pids": "few"}, "app_sqlite": {"synchronous": "OFF"}},
    ),
    Case("no list of domains", ("site_domains",), {"site_domains": {"a": 1}}),
    Case(
        "names",
        ("site_name", "lower-case", "without scheme", "put it in quotes"),
        {"site_name": "Shop", "site_domains": ["https://a.example"], "site_version": 1.10},
    ),
    Case("a string for a list", ("site_domains", "must be a list"), {"site_domains": "localhost"}),
    Case("a cron expression", ("backup_schedule", "61"), {"backup_schedule": "61 * * * *"}),
    Case("an unknown builder", ("nobody",), {"site_builder": "nobody"}),
    Case("no manage.py", ("has no manage.py",), {"site_source": "docs"}),
    Case("broken code", ("urls.py", "this is no Python"), files={"config/urls.py": "this is no Python"}),
    Case("a missing requirement", ("markdown", "requirements"), files={"config/urls.py": "import markdown"}),
    Case(
        "another database",
        ("postgresql",),
        files={"config/settings.py": 'DATABASES["default"]["ENGINE"] = "django.db.backends.postgresql"'},
    ),
    Case(
        "a configuration that Nginx refuses",
        ("no_such_directive", "the old one stays"),
        {"site_nginx_extra": "no_such_directive;"},
    ),
    Case("an unreachable host", ("unreachable=1",), {"ansible_port": 1}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(site: Site, traffic: Traffic, case: Case) -> None:
    before, begin = site.state(), time.time()
    source = {"site_source": site.variant("refused", case.files)} if case.files else {}
    run = site.deploy("-e", json.dumps({**source, **case.variables}), *(["--tags", "release"] if case.files else []))
    assert run.status != 0
    assert [words for words in case.says if words not in run.one_line] == [], run.output
    assert "Traceback" not in run.output
    assert site.state() == before
    assert traffic.failed(begin) == []


def test_another_source_for_a_version(site: Site, traffic: Traffic) -> None:
    before, begin = site.state(), time.time()
    run = site.release(
        site.variant("changed", {"config/urls.py": "# another source"}), "-e", f"site_version={site.record['version']}"
    )
    assert run.status != 0
    assert "a version is immutable" in run.one_line, run.output
    assert site.state() == before
    assert traffic.failed(begin) == []

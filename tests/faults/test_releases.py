"""A failing release: the database is unchanged, the old release answers every request, the message names the cause."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.release.steps import Step

from tests.faults.site import PATIENCE, ROOT, Site, Traffic, wait_until

UPDATE = 'migrations.RunSQL("UPDATE entries_entry SET size = 4711")'
WRONG = 'migrations.RunSQL("SELECT no_such_column FROM entries_entry")'
LATER = 'import os\nif "HOSTWRIGHT_BUILD" not in os.environ:\n    '  # not run while the image is built
REHEARSAL = Step.REHEARSE.value


@dataclass(frozen=True)
class Case:
    """Text added to the files of the ledger, operations of a migration, variables, and texts of the message."""

    name: str
    says: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    operations: tuple[str, ...] = ()
    atomic: bool = True
    variables: dict[str, object] = field(default_factory=dict)


CASES = [
    Case("an import error", ("No module named 'no_such_module'",), {"config/urls.py": f"{LATER}import no_such_module"}),
    Case(
        "never ready",
        ("was not ready within", "Starting granian"),
        {"config/wsgi.py": "import time\napplication = lambda environ, start: time.sleep(3600)"},
        variables={"app_health_timeout": 6},
    ),
    Case(
        "the probed page answers 500 on the new schema",
        (Step.WAIT_READY.value, "GET / answered 500"),
        {"config/urls.py": 'urlpatterns[0] = path("", lambda request: 1 / 0)'},
        (UPDATE,),
        variables={"app_hold_seconds": 6},
    ),
    Case(
        "a migration that fails in its second step",
        (REHEARSAL, "no such column", "0099_bad"),
        {},
        (UPDATE, WRONG, UPDATE),
    ),
    Case(
        "a migration that fails in its second step, and is not atomic",
        (REHEARSAL, "no such column", "0099_bad"),
        {},
        (UPDATE, WRONG, UPDATE),
        atomic=False,
    ),
    Case(
        "a migration that hangs",
        (REHEARSAL, "0099_bad", "did not end within 4 s"),
        {},
        (UPDATE, "migrations.RunPython(lambda *_: __import__('time').sleep(3600))"),
        variables={"app_migrate_timeout": 4},
    ),
    Case(
        "a migration that needs too much memory",
        (REHEARSAL, "0099_bad", "it may have run out of memory"),
        {},
        (UPDATE, "migrations.RunPython(lambda *_: bytearray(b'x') * 10**9)"),
        variables={"app_limits": {"memory": "160m"}},
    ),
]


@contextmanager
def untouched(site: Site, traffic: Traffic) -> Iterator[None]:
    """Assert that the site is unchanged afterwards and has answered every request meanwhile."""
    state, begin = site.state(), time.time()
    last = site.content().last
    before = site.content(last)
    yield
    assert site.state() == state
    assert site.content(last).digest == before.digest
    wait_until("all requests are answered", lambda: traffic.settled(time.time() - 1), 40)
    assert traffic.failed(begin) == []


def test_a_good_release_that_migrates(site: Site, traffic: Traffic) -> None:
    begin = time.time()
    site.ledger.next("rebuild")
    run = site.release()
    assert run.status == 0, run.output
    site.assert_whole(traffic)
    wait_until("all requests are answered", lambda: traffic.settled(time.time() - 1), 40)
    assert traffic.failed(begin) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_release(site: Site, traffic: Traffic, case: Case) -> None:
    files = dict(case.files)
    if case.operations:
        files["entries/migrations/0099_bad.py"] = migration(site, case.operations, case.atomic)
    live = site.record
    with untouched(site, traffic):
        run = site.release(site.variant("bad", files), "-e", json.dumps(case.variables))
    assert run.status != 0
    says = (*case.says, f"Release {live['release']} ({live['image']}) still serves.")
    assert [words for words in says if words not in run.one_line] == [], run.output


def migration(site: Site, operations: tuple[str, ...], atomic: bool) -> str:
    """Return a migration that follows the ledger's last one."""
    last = max(path.stem for path in (site.ledger.directory / "entries" / "migrations").glob("[0-9]*.py"))
    return (
        "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
        f"    atomic = {atomic}\n    dependencies = [('entries', '{last}')]\n"
        f"    operations = [{', '.join(operations)}]\n"
    )


def test_an_image_that_is_not_on_the_host(site: Site, traffic: Traffic) -> None:
    with untouched(site, traffic):
        run = site.module(image=f"{site.name}:8.8")
    assert run.status != 0
    assert f"there is no image {site.name}:8.8 on the host: push it first" in run.one_line


# On the host: fill a disk when the release reaches a step.
FILL = """\
import sys, time
progress, step, path = sys.argv[1:]
print("ready", flush=True)
limit = time.monotonic() + 60
while time.monotonic() < limit:
    try:
        if open(progress).read().strip() == step:
            break
    except OSError:
        pass
    time.sleep(0.001)
else:
    sys.exit()
with open(path, "wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        print("full", flush=True)
"""


@pytest.fixture
def small(site: Site) -> Iterator[Site]:
    """Another site, whose database is on a separate small disk."""
    data = f"{ROOT}/data/small"
    site.on_host("mkdir", "--parents", data)
    site.on_host("mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", data)
    yield Site.of_environment("small")
    site.on_host(
        "sh", "-c",
        f"docker rm --force $(docker ps --all --quiet --filter label=hostwright.site=small) && umount {data} &&"
        f" docker volume rm $(docker volume ls --quiet --filter name=small_) && docker image rm small:1 small:2 &&"
        f" rm -r {data} {ROOT}/config/small {ROOT}/web/small",
    )  # fmt: skip


def test_a_disk_that_is_full_when_the_database_is_copied(site: Site, small: Site) -> None:
    records = sorted(site.directories()["records"].values(), key=lambda record: -int(record["release"]))
    newer, older = "small:2", "small:1"
    for record, name in zip(records, (newer, older), strict=False):
        site.on_host("docker", "tag", record["image"], name)
    assert small.module(image=older).status == 0
    small.on_host("docker", "exec", "small-1", "python3", "manage.py", "fill", "1")
    before, state = small.content(), small.state()
    filler = subprocess.Popen(
        ["docker", "exec", site.container, "python3", "-c", FILL, f"{ROOT}/config/small/progress",
         str(Step.START), f"{ROOT}/data/small/filler"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert filler.stdout
    assert filler.stdout.readline() == "ready\n"
    run = small.module(image=newer)
    assert filler.communicate(timeout=PATIENCE)[0] == "full\n"
    assert run.status != 0
    assert f"could not {Step.COPY}" in run.one_line
    assert "disk is full" in run.one_line
    site.on_host("rm", f"{ROOT}/data/small/filler")
    assert small.state() == state
    assert small.content() == before
    assert small.module(image=newer).status == 0
    assert small.content().ids == before.ids

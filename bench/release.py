"""The release under load: failed requests, lost ids, latencies and durations, compared with other ways to release."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.delay import delayed
from bench.deployed import HOST, Site, Traffic, checkout_without
from bench.lab import DIRECTORY, Lab, LabError, say
from bench.report import Figure, Section, Table, Target
from tests.support import ledger
from tests.support.ledger import Tally
from tests.support.load import percentile

RATE = 200.0
MEGABYTES = "50"
# The migrations of the releases that migrate, in turn.
CHANGES = ("column", "rebuild", "data")
# The targets: seconds, and a multiple of the idle latency.
HOLD = 1.0
SLOWER = 1.2
# app_hold_seconds for a release that holds requests for ten seconds.
LONG = 15
# Kamal 2.11.0 on a machine of the same kind, seconds: medians.
KAMAL = {"nothing": 7.08, "code": 7.22, "far": 9.85, "back": 4.27}
# The round-trip time of a distant network, seconds, and the load during which commands are timed, requests a second.
FAR = 0.05
LIGHT = 20.0

WITHOUT_GUARD = (
    ("roles/image/files/runtime/hostwright/guard.py", 'guard.execute("BEGIN IMMEDIATE")', 'guard.execute("BEGIN")'),
    (
        "roles/image/files/runtime/hostwright/guard.py",
        "guard.in_transaction and _is(locked, source, watcher)",
        "_is(locked, source, watcher) or True",
    ),
)

NOTES = """\
A request has failed if its connection broke, its status was 500 or more, or its answer took more than 15 s. Neither the
load nor Nginx repeats a request. Half of the requests read, half write a unique id; one in a hundred of these is an
upload of 100 kB that takes 2–5 s to be sent. In addition a management command writes ten ids a second. An acknowledged
id must be in the live database exactly once, and no id may be in a left generation but not in the live one. Only
programs in the site's image open the databases. A hold is the duration that the release reports; the duration that the
host saw is the time for which the hold's file existed. A latency counts from the time at which a request was due, that
of an upload from its last byte. The control node and the host share the cores, so image builds add to the latencies.
Times are those of the whole command, with a new SSH connection, including the image's build where there is one. The
distant network is a relay that delays each direction by half the round-trip time, as this kernel cannot delay packets.
Kamal 2.11.0 was measured on the same kind of machine, with a smaller site and without a database.
"""


@dataclass(frozen=True)
class Series:
    """Releases under load: the traffic, the ids, and the number of database generations that were left.

    ``holds`` are seconds by change, as the release reports them; ``changed`` names generations whose content changed
    after they were left, ``stray`` ids that only left generations contain.
    """

    traffic: Traffic
    tally: Tally
    holds: Mapping[str, tuple[float, ...]]
    left: int
    changed: tuple[int, ...]
    stray: tuple[str, ...]

    @property
    def all_holds(self) -> tuple[float, ...]:
        """The holds of all changes."""
        return tuple(hold for holds in self.holds.values() for hold in holds)


def measure(lab: Lab) -> Section:
    """Measure the release and return the report."""
    lab.make_hosts(HOST)
    bench = ReleaseBench(lab)
    say("deploying the ledger, and filling its database")
    bench.site.release_first()
    bench.site.manage("fill", MEGABYTES)
    releases, few, many = (6, 1, 2) if lab.quick else (50, 3, 5)
    say("sending load without a release")
    idle = bench.idle(20 if lab.quick else 60)
    series = bench.series(releases)
    say("holding requests for ten seconds")
    long = bench.long_hold()
    times = bench.times(few, many)
    contrasts = [bench.stop_and_start(), bench.overlap(), bench.without_guard()]

    still, outside = (
        Figure((percentile(traffic.latencies(holds), 0.99),), "ms")
        for traffic, holds in ((idle, False), (series.traffic, False))
    )
    holds = Figure(series.all_holds, "s")
    seen = tuple(end - begin for begin, end in series.traffic.holds)
    wrong = len(series.tally.missing) + len(series.tally.doubled)
    return Section(
        "release",
        "The release under load",
        lab.conditions(
            host=f"{lab.engine_of(HOST)}, in a container reached over SSH as an ordinary user with sudo",
            site=f"tests/projects/ledger with a database of {MEGABYTES} MB at the start",
            load=f"{RATE:.0f} requests a second, half of them writes, and a management command that writes",
            samples=f"{releases} releases, every other one with a migration; {many} of a time, {few} of one far away",
        ),
        [
            Table(
                ("releases", "requests", "failed", "ids acknowledged", "missing", "doubled", "generations left",
                 "changed since", "ids only in these"),
                [_counts("one after the other, alternating", series), _counts("one with a hold of 10 s", long)],
                "Requests and ids:",
            ),
            Table(
                ("migration", "n", "p50", "p99", "max"),
                [
                    *([change, *_spread(values)] for change, values in series.holds.items()),
                    ["all", *_spread(series.all_holds)],
                    ["all, as the host saw them", *_spread(seen)],
                    ["one that takes 10 s", *_spread(long.all_holds)],
                ],
                "How long requests waited, in seconds, by migration (a new column; the table rebuilt; a third of the "
                "rows changed):",
            ),
            Table(
                ("latency", "requests", "p50", "p99", "max"),
                [
                    ["no release", *_latencies(idle, holds=False)],
                    ["releases, outside of holds", *_latencies(series.traffic, holds=False)],
                    ["releases, requests that met a hold", *_latencies(series.traffic, holds=True)],
                    ["the hold of 10 s", *_latencies(long.traffic, holds=True)],
                ],
                "Latency of requests, in milliseconds:",
            ),
            Table(
                ("other way to release", "requests", "failed", "ids acknowledged", "missing", "doubled"),
                [contrast.cells for contrast in contrasts],
                "The same load and count on other ways to release, which shows that they detect failures and losses:",
            ),
            Table(("command", "time", "Kamal"), times.rows, "Duration of commands:"),
        ],
        [
            Target("failed requests", Figure((len(series.traffic.failed),), ""), 0),
            Target("acknowledged ids missing or doubled", Figure((wrong,), ""), 0),
            Target("generations that have changed since they were left", Figure((len(series.changed),), ""), 0),
            Target("ids only in a generation that was left", Figure((len(series.stray),), ""), 0),
            Target("longest hold", Figure((max(holds.values),), "s"), HOLD),
            Target("p99 latency outside of holds", outside, SLOWER * still.median, "1.2 × that of the idle site"),
            Target("failed requests of a hold of 10 s", Figure((len(long.traffic.failed),), ""), 0),
            Target("ids missing after a hold of 10 s", Figure((len(long.tally.missing),), ""), 0),
            *times.targets,
        ],
        NOTES,
    )  # fmt: skip


def _counts(what: str, series: Series) -> list[object]:
    tally = series.tally
    return [
        what, len(series.traffic.requests), len(series.traffic.failed), tally.acknowledged, len(tally.missing),
        len(tally.doubled), series.left, len(series.changed), len(series.stray),
    ]  # fmt: skip


def _spread(values: tuple[float, ...]) -> list[object]:
    cells = (percentile(values, 0.5), percentile(values, 0.99), max(values, default=0.0))
    return [len(values), *(f"{cell:.2f}" for cell in cells)]


def _latencies(traffic: Traffic, holds: bool) -> list[object]:
    values = traffic.latencies(holds)
    cells = (percentile(values, 0.5), percentile(values, 0.99), max(values, default=0.0))
    return [len(values), *(f"{cell * 1000:.0f}" for cell in cells)]


@dataclass(frozen=True)
class Contrast:
    """Another way to release: its requests and ids."""

    name: str
    traffic: Traffic
    tally: Tally

    @property
    def cells(self) -> list[object]:
        """The row of the table."""
        tally = self.tally
        return [
            self.name, len(self.traffic.requests), len(self.traffic.failed), tally.acknowledged, len(tally.missing),
            len(tally.doubled),
        ]  # fmt: skip


class Times:
    """The duration of commands."""

    def __init__(self) -> None:
        self.rows: list[list[object]] = []
        self.targets: list[Target] = []

    def add(self, command: str, seconds: tuple[float, ...], limit: float, kamal: str) -> None:
        """Add a command: its seconds, their limit, and the equivalent command of Kamal (a key of ``KAMAL``)."""
        figure = Figure(seconds, "s")
        self.rows.append([command, figure, f"{KAMAL[kamal]:.2f} s"])
        self.targets.append(Target(command, figure, limit))


class ReleaseBench:
    """The site and the measurements of its releases."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.site = Site(lab)

    def idle(self, seconds: float) -> Traffic:
        """Send load without a release."""
        with self.site.under_load(RATE) as traffic:
            time.sleep(seconds)
        return traffic

    def series(self, count: int) -> Series:
        """Make ``count`` releases one after the other, every other one with a migration."""
        changes = [CHANGES[number // 2 % len(CHANGES)] if number % 2 else None for number in range(count)]
        return self._releases(changes)

    def long_hold(self) -> Series:
        """Make a release that holds requests for ten seconds."""
        return self._releases(["slow"], "-e", f"app_hold_seconds={LONG}")

    def _releases(self, changes: list[str | None], *arguments: str) -> Series:
        site, hashes = self.site, {}
        holds: dict[str, tuple[float, ...]] = {}
        with site.under_load(RATE) as traffic:
            time.sleep(3)
            for number, change in enumerate(changes):
                say(f"release {number + 1} of {len(changes)}, {change or 'code only'}")
                left = site.record["generation"]
                site.ledger.next(change)
                site.release(*arguments)
                if change:
                    held = site.audit[-1]["hold_ms"] / 1000
                    holds[change] = (*holds.get(change, ()), held)
                    hashes[left] = site.inspect(left)["generations"][str(left)]["hash"]
                time.sleep(1)
            time.sleep(3)
        now = site.inspect(*hashes, ids=True)
        tally = ledger.compare(traffic.acknowledged, now["present"])
        say(f"so far: {len(traffic.failed)} of {len(traffic.requests)} requests failed; ids: {tally}; holds: {holds}")
        return Series(
            traffic,
            tally,
            holds,
            len(hashes),
            tuple(number for number, was in hashes.items() if now["generations"][str(number)]["hash"] != was),
            tuple(key for found in now["generations"].values() for key in found["missing"]),
        )

    def stop_and_start(self) -> Contrast:
        """Stop the site's container and start it again."""
        say("stopping the site and starting it again")
        container = self.site.record["container"]
        with self.site.under_load(RATE, commands=False) as traffic:
            time.sleep(3)
            self.lab.on(HOST, "docker", "stop", container)
            self.lab.on(HOST, "docker", "start", container)
            time.sleep(5)
        return self._contrast("stop, then start", traffic)

    def overlap(self) -> Contrast:
        """Migrate the database under the old release, which serves until the new one does."""
        say("renaming a column under a release that uses it")
        site = self.site
        site.ledger.next("rename")
        image = site.bring_image()
        with site.under_load(RATE, commands=False) as traffic:
            time.sleep(3)
            site.in_image(image, "manage.py", "migrate")
            site.release()
            time.sleep(3)
        return self._contrast("migrate under the old release, then start the new one", traffic)

    def without_guard(self) -> Contrast:
        """Release without the guard, so that the old generation remains writable."""
        say("releasing without the guard")
        project = checkout_without(DIRECTORY / "without_guard", WITHOUT_GUARD)
        with self.site.under_load(RATE) as traffic:
            time.sleep(3)
            for change in ("rebuild", "data"):
                self.site.ledger.next(change)
                self.site.release(project=project)
            time.sleep(3)
        return self._contrast("this release without its guard, twice", traffic)

    def _contrast(self, name: str, traffic: Traffic) -> Contrast:
        return Contrast(name, traffic, ledger.compare(traffic.acknowledged, self.site.inspect(ids=True)["present"]))

    def times(self, few: int, many: int) -> Times:
        """Time the commands: ``many`` samples of each, ``few`` of a rollback and of those over a distant network."""
        times = Times()
        site = self.site
        site.run("deploy.yml")  # provisions what the releases skipped
        whole = self._timed("nothing to do", many, lambda: self._unchanged("deploy.yml"))
        times.add("`deploy.yml`, nothing to do", whole, 10, "nothing")
        nothing = self._timed("nothing to release", many, lambda: self._unchanged("deploy.yml", "--tags", "release"))
        times.add("`deploy.yml --tags release`, nothing to do", nothing, 3.5, "nothing")
        code = self._timed("a change of the code", many, self._code)
        times.add(f"the same, code changed, under {LIGHT:.0f} requests a second", code, 7, "code")
        port = int(self.lab.port(HOST, 22))
        known = DIRECTORY / "keys" / HOST / "known_hosts"
        with delayed(port, FAR) as relay:
            known.write_text(known.read_text() + known.read_text().replace(f":{port} ", f":{relay} "))
            far = self._timed("a change of the code, far away", few, lambda: self._code("-e", f"ansible_port={relay}"))
        times.add(f"the same at {FAR * 1000:.0f} ms round-trip time", far, 9.9, "far")
        back = self._timed("a rollback", few, lambda: site.run("playbooks/rollback.yml").seconds)
        times.add("`rollback.yml`", back, 4, "back")
        return times

    def _timed(self, what: str, count: int, act: Callable[[], float]) -> tuple[float, ...]:
        seconds = []
        for number in range(count):
            say(f"timing {what}, {number + 1} of {count}")
            self.lab.disconnect()
            seconds.append(act())
        return tuple(seconds)

    def _unchanged(self, playbook: str, *arguments: str) -> float:
        done = self.site.run(playbook, *arguments)
        if done.changed:
            raise LabError(
                f"'{playbook} {' '.join(arguments)}' had nothing to do and changed something:\n{done.output}"
            )
        return done.seconds

    def _code(self, *arguments: str) -> float:
        self.site.ledger.next()
        with self.site.under_load(LIGHT, commands=False) as traffic:
            time.sleep(1)
            done = self.site.release(*arguments)
        if traffic.failed:
            raise LabError(f"{len(traffic.failed)} requests failed, for example: {traffic.failed[0]}")
        return done.seconds

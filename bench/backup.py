"""The backup under load beside four other ways; a thousand of them restored; kills; a restore; what hours store."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.counts import Count, Kills
from bench.lab import DIRECTORY, Lab, LabError, call, pipe, say
from bench.report import Figure, Section, Table, Target
from bench.runtime import Done, Running, Runtime, run, settle, watching_wal
from tests.support.load import percentile

RATE = 500.0
# Seconds: of writing before anything is measured, of writing that nothing happens to, and after which a way's writes
# no longer count as disturbed by it (what a long reader has kept from the database is written to it afterwards).
WARM = 2.0
IDLE = 10.0
AFTERWARDS = 2.0
# A way that takes longer is ended, seconds.
LIMIT = 60.0
# What the targets are: seconds, bytes.
SLOWER = 5e-3
WAL = 64 * 2**20
VERIFIED = 15
MEMORY = 64e6
RESTORED = 60
# The schedule's default, minutes between two backups.
INTERVAL = 60
# The busy ledger: bytes, writers and their writes a second.
LEDGER = 3 << 20
WRITERS = 2
WRITER_RATE = 500.0
KILLED = 4 << 20
# What a changing hour changes: a share of the rows.
CHANGE = 0.002
HOURS = (
    "first", "anywhere", "recent", "unchanged", "anywhere", "recent", "anywhere", "recent", "unchanged", "anywhere",
    "recent", "anywhere",
)  # fmt: skip
ABOUT_HOURS = {
    "first": "the first one",
    "anywhere": "0.2 % of the rows, anywhere",
    "recent": "0.2 % of the rows, the newest",
    "unchanged": "nothing",
}
# What all of it needs at a time, as a multiple of the database.
SPACE = 14

NOTES = """\
A write is a transaction as a view's: two accounts and a row of some 500 bytes, with the PRAGMAs that the role `app`
sets. Each is due at its time, whether earlier ones are late or not, and its latency counts from then, until
2 s after the way has ended. Idle are the ten seconds before each. A copy is right if SQLite finds it whole and its
rows are of one moment: all moves are there, the balances are those that the moves give, and they add up to what they
did at first. Memory is the greatest resident set; less than 10 MB is not seen.
`sqlite3` is Debian's, with `.timeout 5000`, as is `restic`; `cp` takes the database and its `-wal` by one command;
for the ledger by two, as scripts do, until five copies are wrong or a thousand are made.
django-dbbackup has its own default connector. None of these verifies or compresses what it wrote. Ours does both; its
time is the whole verb's, and that until the copy is verified is a target of its own. It runs as in the image, but
without a container: to make one adds some tenths of a second. The ledger, the kills and the hours run beside each
other, as no time is measured in them.
In the hours, "plain files" are the directory of the backups, where an unchanged database is a hard link; the archives
are what goes off-site; half of a change are new rows, half old ones, either any or of the newest twentieth.
"""


@dataclass(frozen=True)
class Sample:
    """One run of a way under the writes: latencies in seconds, of writes before and during it; bytes; the problem.

    The problem is that of the copy, or that there is none; empty if it is right.
    """

    seconds: float
    memory: int
    wal: int
    errors: int
    idle: Sequence[float]
    latencies: Sequence[float]
    problem: str


@dataclass(frozen=True)
class Way:
    """The runs of one way to copy the database."""

    name: str
    samples: Sequence[Sample]

    @property
    def p99(self) -> Figure:
        """What 99 in 100 writes did not exceed, by run."""
        return Figure(tuple(percentile(sample.latencies, 0.99) for sample in self.samples), "ms")

    @property
    def wal(self) -> Figure:
        """The largest -wal, of all runs."""
        return Figure((max(sample.wal for sample in self.samples),), "MiB")

    @property
    def memory(self) -> Figure:
        """The greatest memory, of all runs."""
        return Figure((max(sample.memory for sample in self.samples),), "MB")

    @property
    def errors(self) -> Figure:
        """Writes that failed, in all runs."""
        return Figure((sum(sample.errors for sample in self.samples),), "")

    @property
    def problems(self) -> list[str]:
        """What was wrong."""
        return [sample.problem for sample in self.samples if sample.problem]

    @property
    def cells(self) -> list[object]:
        """Its line in the table."""
        longest = max(max(sample.latencies, default=0.0) for sample in self.samples)
        return [
            self.name,
            Figure(tuple(sample.seconds for sample in self.samples), "s"),
            self.errors,
            self.p99,
            Figure((longest,), "ms"),
            self.wal,
            self.memory,
            f"no: {self.problems[0]}" if self.problems else "yes",
        ]


@dataclass(frozen=True)
class Hour:
    """What one backup added, in bytes: by plain files, as a whole copy, by restic of archives, by restic of copies."""

    kind: str
    added: tuple[int, int, int, int]


def hours_table(hours: Sequence[Hour]) -> list[list[object]]:
    """Lines for a table: medians by kind of hour, and the sum of all."""
    lines: list[list[object]] = []
    for kind, about in ABOUT_HOURS.items():
        found = [hour.added for hour in hours if hour.kind == kind]
        columns = [Figure(tuple(values), "MB") for values in zip(*found, strict=True)]
        lines.append([about, len(found), *columns])
    totals = [Figure((sum(values),), "MB") for values in zip(*(hour.added for hour in hours), strict=True)]
    return [*lines, ["all of them", len(hours), *totals]]


def stored(directory: Path) -> int:
    """Bytes of all files below a directory; a file with several names counts once."""
    files = {
        (status.st_dev, status.st_ino): status.st_size
        for root, _, names in os.walk(directory)
        for status in (Path(root, name).lstat() for name in names)
    }
    return sum(files.values())


def measure(lab: Lab) -> Section:
    """Measure all of it."""
    size, samples, trials, kills = (128 << 20, 1, 30, 10) if lab.quick else (1 << 30, 3, 1000, 200)
    hours = HOURS[:4] if lab.quick else HOURS
    if shutil.disk_usage(DIRECTORY).free < SPACE * size:
        raise LabError(f"{DIRECTORY}: the measurement needs {SPACE * size / 1e9:.0f} GB of free space there")
    bench = BackupBench(size)
    ours = bench.ours(samples)
    others = [bench.other(name, command) for name, command in OTHERS.items()]
    say(f"{trials} backups of a busy ledger, {kills} kills, and hours of backups, all beside each other")
    with Trials(trials, kills) as beside:
        added = bench.hours(hours)
        bench.remove()
        backups, copies, killed = beside.results()

    idle = [seconds for way in (ours, *others) for sample in way.samples for seconds in sample.idle]
    still = Figure((percentile(idle, 0.99),), "ms")
    duration = Figure(tuple(sample.seconds for sample in ours.samples), "s")
    return Section(
        "backup",
        "The backup under load",
        lab.conditions(
            database=f"{size / 2**20:.0f} MiB, {bench.rows} rows of some 500 bytes; {RATE:.0f} writes a second",
            versions=f"the site's SQLite {bench.sqlite}, Debian's {call('sqlite3', '--version').split()[0]}, "
            f"{' '.join(call('restic', 'version').split()[:2])}, django-dbbackup {_version('django-dbbackup')}",
            samples=f"backups and restores of ours: {samples}; of each other way: 1; backups of the ledger: {trials}, "
            f"plain copies of it: {copies.tried}; kills: {kills}; hours: {len(hours)}",
        ),
        [
            Table(
                ("way", "time", "writes that failed", "p99 of a write", "its max", "largest -wal", "memory",
                 "is right"),
                [
                    ["idle", "–", "–", still, Figure((max(idle),), "ms"), "–", "–", "–"],
                    ours.cells,
                    *(way.cells for way in others),
                ],
                "Ways to copy the database while it is written to:",
            ),
            Table(
                ("ledger of 3 MiB", "tried", "restored right", "wrong", "for example"),
                [_tried("`backup`", backups), _tried("`cp` of database and `-wal`", copies)],
                f"A ledger with {WRITERS * WRITER_RATE:.0f} writes a second, whose accounts always add up to the same:",
            ),
            Table(
                ("kills", "before it wrote", "while it wrote", "after it was finished", "listed and wrong",
                 "newest one lost", "files that outlived the next run"),
                [[killed.killed, killed.before, killed.during, killed.after, killed.unverified, killed.lost,
                  killed.left]],
                "SIGKILL of the backup, at moments spread evenly over its run:",
            ),
            Table(
                ("restore", "time"),
                [
                    ["RTO: verified, unpacked, checked", bench.restored],
                    ["RPO: the schedule's interval and a backup's time", f"{INTERVAL} min + {duration}"],
                ],
                "The restore of the database, and how much may be lost:",
            ),
            Table(
                ("what the hour changed", "backups", "plain files", "whole zstd copies", "restic of the archives",
                 "restic of the uncompressed database"),
                hours_table(added),
                "What backups of a slowly changing database add, each:",
            ),
        ],
        [
            Target("writes that failed", ours.errors, 0),
            Target("p99 of a write", ours.p99, still.median + SLOWER, "idle + 5 ms"),
            Target("largest -wal", ours.wal, WAL),
            Target("copy and verification", bench.verified, VERIFIED),
            Target("memory", ours.memory, MEMORY),
            Target("backups under load that are wrong", Figure((len(ours.problems),), ""), 0),
            Target("backups of the ledger that are wrong", Figure((backups.wrong,), ""), 0),
            Target("plain copies that are wrong", Figure((copies.wrong,), ""), 1, "the control sees it", at_least=True),
            Target("backups listed after a kill that are wrong", Figure((killed.unverified,), ""), 0),
            Target("newest backups lost by a kill", Figure((killed.lost,), ""), 0),
            Target("files that outlive the run after a kill", Figure((killed.left,), ""), 0),
            Target("kills while it wrote", Figure((killed.during,), ""), 1, "else nothing was tried", at_least=True),
            Target("restore", bench.restored, RESTORED),
        ],
        NOTES,
    )  # fmt: skip


class BackupBench:
    """A site with a large database."""

    def __init__(self, size: int) -> None:
        self.site = Runtime(DIRECTORY / "large")
        self.scratch = DIRECTORY / "scratch"
        say(f"filling a database of {size / 2**20:.0f} MiB")
        self.rows = self.site.module("bench.accounts", self.site.database, "fill", str(size))["moves"]
        self.verified = self.restored = Figure((), "s")
        self.sqlite = ""

    def ours(self, samples: int) -> Way:
        """Back up, restore, and judge what was restored."""
        found, verified, restored = [], [], []
        for number in range(samples):
            say(f"backing up under {RATE:.0f} writes a second, {number + 1} of {samples}")
            done, sample = self._under_writes(self.site.backup)
            manifest = done.answer
            verified.append(manifest["seconds"]["copy"] + manifest["seconds"]["verify"])
            settle()
            with Scratch(self.scratch) as directory:
                restored.append(self._restore(manifest["id"], directory).seconds)
                rows, problem = self._judge(directory / "db.sqlite3")
            if not problem and rows != manifest["rows"]:
                problem = "its rows are not the manifest's"
            found.append(sample(problem))
        self.verified, self.restored = Figure(tuple(verified), "s"), Figure(tuple(restored), "s")
        self.sqlite = manifest["sqlite"]
        return Way("`backup` (ours)", found)

    def other(self, name: str, command: Callable[[Path, Path], Sequence[str]]) -> Way:
        """Copy in another way, and judge the copy."""
        say(f"copying with {name} under the same writes")
        with Scratch(self.scratch) as directory:
            environment = {
                **os.environ,
                "TMPDIR": str(directory),
                "DJANGO_SETTINGS_MODULE": "bench.dbbackup_settings",
                "BENCH_DATABASE": str(self.site.database),
                "BENCH_OUTPUT": str(directory),
            }
            done, sample = self._under_writes(lambda: run(command(self.site.database, directory), environment, LIMIT))
            if done.ended:
                problem = f"it had not ended after {LIMIT:.0f} s"
            elif done.status != 0:
                problem = f"it failed: {' '.join(done.errors.split())[-200:]}"
            else:
                problem = self._judge(directory / self.site.database.name)[1]
        return Way(name, [sample(problem)])

    def hours(self, kinds: Sequence[str]) -> list[Hour]:
        """Back up after each hour's change, with the tools to keep backups off-site beside."""
        shutil.rmtree(self.site.backups)
        self.site.backups.mkdir()
        archives, copies = Restic(DIRECTORY / "archives"), Restic(DIRECTORY / "copies")
        found: list[Hour] = []
        before = (0, archives.size, copies.size)
        for number, kind in enumerate(kinds):
            say(f"hours of backups, {number + 1} of {len(kinds)}")
            if kind in ("anywhere", "recent"):
                recent = ["--recent"] if kind == "recent" else []
                self.site.module(
                    "bench.accounts", self.site.database, "--seed", str(number), "change", str(CHANGE), *recent
                )
            manifest = self.site.backup().answer
            if (manifest["unchanged_since"] is not None) != (kind == "unchanged"):
                raise LabError(f"the backup of an hour that changed '{kind}' is unchanged_since "
                               f"{manifest['unchanged_since']}")  # fmt: skip
            archives.keep(self.site.backups)
            copies.keep_unpacked(self.site.backups / manifest["archive"]["name"])
            now = (stored(self.site.backups), archives.size, copies.size)
            plain, of_archives, of_copies = (new - old for new, old in zip(now, before, strict=True))
            found.append(Hour(kind, (plain, manifest["archive"]["bytes"], of_archives, of_copies)))
            before = now
        return found

    def remove(self) -> None:
        """Make room."""
        for directory in ("large", "archives", "copies"):
            shutil.rmtree(DIRECTORY / directory)

    def _restore(self, name: str, directory: Path) -> Done:
        target = directory / "db.sqlite3"
        return self.site.verb("restore", "--output", self.site.backups, "--backup", name, "--target", target)

    def _judge(self, database: Path) -> tuple[dict[str, int], str]:
        told = self.site.module("bench.accounts", database, "judge")
        return told["rows"], told["problem"]

    def _under_writes(self, act: Callable[[], Done]) -> tuple[Done, Callable[[str], Sample]]:
        """Do something while the database is written to; return what it took, and what makes a sample of a verdict."""
        settle()
        with self.site.writing(RATE) as writing:
            time.sleep(WARM)
            still = time.monotonic()
            time.sleep(IDLE)
            begin = time.monotonic()
            with watching_wal(self.site.database) as peak:
                done = act()
                time.sleep(AFTERWARDS)
            end = time.monotonic()
        writes = writing.writes
        idle, latencies = writes.between(still, begin), writes.between(begin, end)
        for error in writes.errors:
            say(f"a write failed: {error}")

        def sample(problem: str) -> Sample:
            return Sample(done.seconds, done.memory, peak[0], writes.error_count, idle, latencies, problem)

        return done, sample


class Restic:
    """A restic repository on this machine."""

    def __init__(self, directory: Path) -> None:
        self._repository = directory / "repository"
        directory.mkdir()
        password = directory / "password"
        password.write_text("bench\n")
        self._command = [
            "restic", "--quiet", "--repo", str(self._repository), "--password-file", str(password),
            "--cache-dir", str(directory / "cache"),
        ]  # fmt: skip
        call(*self._command, "init")

    @property
    def size(self) -> int:
        """Its bytes."""
        return stored(self._repository)

    def keep(self, directory: Path) -> None:
        """Keep a directory."""
        call(*self._command, "backup", str(directory))

    def keep_unpacked(self, archive: Path) -> None:
        """Keep what an archive holds, as one file."""
        backup = [*self._command, "backup", "--stdin", "--stdin-filename", "db.sqlite3"]
        pipe(["zstd", "--quiet", "--decompress", "--stdout", str(archive)], backup)


class Scratch:
    """A directory that is empty at first and goes at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> Path:
        self._directory.mkdir()
        return self._directory

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._directory)


class Trials:
    """Backups of a busy ledger, and kills, beside other work: no time is measured in them."""

    def __init__(self, backups: int, kills: int) -> None:
        self._stack = ExitStack()
        self._backups, self._kills = backups, kills

    def __enter__(self) -> Trials:
        with ExitStack() as stack:
            killed, ledger = Runtime(DIRECTORY / "killed"), Runtime(DIRECTORY / "ledger")
            for site, size in ((killed, KILLED), (ledger, LEDGER)):
                site.module("bench.accounts", site.database, "fill", str(size))
            self._killing = stack.enter_context(Running(killed, "bench.trials", "kills", killed.root, str(self._kills)))
            self._writers = [
                stack.enter_context(ledger.writing(WRITER_RATE, number, corrections=True)) for number in range(WRITERS)
            ]
            self._series = stack.enter_context(
                Running(ledger, "bench.trials", "series", ledger.root, str(self._backups))
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def results(self) -> tuple[Count, Count, Kills]:
        """Wait for their end; the backups of the ledger, its plain copies, and the kills."""
        told = self._series.answer()
        kills = Kills(**self._killing.answer())
        self._stack.close()
        for writer in self._writers:
            if writer.writes.error_count:
                raise LabError(f"{writer.writes.error_count} writes to the ledger failed: {writer.writes.errors}")
        backups, copies = Count(**told["backups"]), Count(**told["copies"])
        for problem in (*backups.examples, *kills.examples):
            say(f"wrong: {problem}")
        return backups, copies, kills


def _tried(name: str, count: Count) -> list[object]:
    return [name, count.tried, count.right, count.wrong, count.examples[0] if count.examples else "–"]


def _version(package: str) -> str:
    return call(sys.executable, "-c", f"import importlib.metadata as m; print(m.version({package!r}))")


def _sqlite3(statement: str) -> Callable[[Path, Path], Sequence[str]]:
    """The command line of Debian's SQLite; ``{}`` stands for the copy."""
    return lambda database, directory: [
        "sqlite3", "-cmd", ".timeout 5000", str(database), statement.format(directory / database.name)
    ]  # fmt: skip


# The other ways: from the database and a directory, the command that makes a copy of that name in there.
OTHERS: Mapping[str, Callable[[Path, Path], Sequence[str]]] = {
    "`sqlite3 .backup`": _sqlite3(".backup '{}'"),
    "`VACUUM INTO`": _sqlite3("VACUUM INTO '{}'"),
    "`cp`": lambda database, directory: ["cp", str(database), f"{database}-wal", str(directory)],
    "django-dbbackup": lambda *_: [sys.executable, "-m", "django", "dbbackup", "--noinput", "--quiet"],
}

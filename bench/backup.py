"""The backup under load, compared with four other ways; restores of a thousand backups; kills; storage by hour."""

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
# Seconds of writing: before the measurement, idle, and after a copy. Writes after a copy count too, because a
# checkpoint that a long reader has delayed happens then.
WARM = 2.0
IDLE = 10.0
AFTERWARDS = 2.0
# Time limit of a copy, seconds.
LIMIT = 60.0
# The targets: seconds, bytes.
SLOWER = 5e-3
WAL = 64 * 2**20
VERIFIED = 15
MEMORY = 64e6
RESTORED = 60
# The default schedule, minutes between two backups.
INTERVAL = 60
# The busy ledger: bytes, writers and their writes a second.
LEDGER = 3 << 20
WRITERS = 2
WRITER_RATE = 500.0
KILLED = 4 << 20
# The share of the rows that changes in an hour.
CHANGE = 0.002
HOURS = (
    "first", "anywhere", "recent", "unchanged", "anywhere", "recent", "anywhere", "recent", "unchanged", "anywhere",
    "recent", "anywhere",
)  # fmt: skip
ABOUT_HOURS = {
    "first": "the first backup",
    "anywhere": "0.2 % of the rows, anywhere",
    "recent": "0.2 % of the rows, the newest",
    "unchanged": "nothing",
}
# The disk space that is needed at one time, as a multiple of the database.
SPACE = 14

NOTES = """\
A write is a transaction like a view's: two accounts and a row of some 500 bytes, with the PRAGMAs that the role `app`
sets. Each write is due at a fixed time, even if earlier ones are late; its latency counts from then. Writes count until
2 s after the copy has ended; "idle" is the ten seconds before each copy. A copy is correct if SQLite finds it intact
and its rows are of one moment: no move is missing, the balances match the moves, and their sum is unchanged. Memory is
the maximum resident set; less than 10 MB cannot be measured. `sqlite3` (with `.timeout 5000`) and `restic` are
Debian's. `cp` copies the database and its `-wal` with one command; for the ledger with two, as scripts do, until five
copies are wrong or a thousand are made. django-dbbackup uses its default connector. None of these verifies or
compresses its copy. Ours does both: its time is that of the whole verb, and the time until the copy is verified is a
separate target. It runs as in the image, but without a container, which would add some tenths of a second. The ledger,
the kills and the hours run at the same time, because they are not timed. In the hours, "plain files" is the directory
of the backups, where an unchanged database is a hard link; the archives are sent off-site. Half of a change is new
rows, half is old rows, either any or among the newest twentieth.
"""


@dataclass(frozen=True)
class Sample:
    """One copy under the writes: seconds, bytes, and latencies in seconds of the writes before and during it.

    ``problem`` says what is wrong with the copy, or why there is none; empty if the copy is correct.
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
        """The 99th percentile of the latencies, by run."""
        return Figure(tuple(percentile(sample.latencies, 0.99) for sample in self.samples), "ms")

    @property
    def wal(self) -> Figure:
        """The largest -wal, of all runs."""
        return Figure((max(sample.wal for sample in self.samples),), "MiB")

    @property
    def memory(self) -> Figure:
        """The peak memory, of all runs."""
        return Figure((max(sample.memory for sample in self.samples),), "MB")

    @property
    def errors(self) -> Figure:
        """Writes that failed, in all runs."""
        return Figure((sum(sample.errors for sample in self.samples),), "")

    @property
    def problems(self) -> list[str]:
        """The problems of the copies that are wrong."""
        return [sample.problem for sample in self.samples if sample.problem]

    @property
    def cells(self) -> list[object]:
        """The row of the table."""
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
    """The bytes that a backup added: as plain files, as a whole copy, in restic of archives, in restic of copies."""

    kind: str
    added: tuple[int, int, int, int]


def hours_table(hours: Sequence[Hour]) -> list[list[object]]:
    """Return the rows of a table: medians by kind of hour, and the sum of all."""
    lines: list[list[object]] = []
    for kind, about in ABOUT_HOURS.items():
        found = [hour.added for hour in hours if hour.kind == kind]
        columns = [Figure(tuple(values), "MB") for values in zip(*found, strict=True)]
        lines.append([about, len(found), *columns])
    totals = [Figure((sum(values),), "MB") for values in zip(*(hour.added for hour in hours), strict=True)]
    return [*lines, ["all", len(hours), *totals]]


def stored(directory: Path) -> int:
    """Return the bytes of all files below a directory; a file with several names counts once."""
    files = {
        (status.st_dev, status.st_ino): status.st_size
        for root, _, names in os.walk(directory)
        for status in (Path(root, name).lstat() for name in names)
    }
    return sum(files.values())


def measure(lab: Lab) -> Section:
    """Measure the backup and return the report."""
    size, samples, trials, kills = (128 << 20, 1, 30, 10) if lab.quick else (1 << 30, 3, 1000, 200)
    hours = HOURS[:4] if lab.quick else HOURS
    if shutil.disk_usage(DIRECTORY).free < SPACE * size:
        raise LabError(f"{DIRECTORY}: the measurement needs {SPACE * size / 1e9:.0f} GB of free space there")
    bench = BackupBench(size)
    ours = bench.ours(samples)
    others = [bench.other(name, command) for name, command in OTHERS.items()]
    say(f"{trials} backups of a busy ledger, {kills} kills, and hours of backups, at the same time")
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
                ("way", "time", "writes that failed", "p99 of a write", "max of a write", "largest -wal", "memory",
                 "correct"),
                [
                    ["idle", "–", "–", still, Figure((max(idle),), "ms"), "–", "–", "–"],
                    ours.cells,
                    *(way.cells for way in others),
                ],
                "Ways to copy the database while it is written to:",
            ),
            Table(
                ("ledger of 3 MiB", "tried", "restored correctly", "wrong", "for example"),
                [_tried("`backup`", backups), _tried("`cp` of database and `-wal`", copies)],
                f"A ledger with {WRITERS * WRITER_RATE:.0f} writes a second, whose accounts always add up to the same:",
            ),
            Table(
                ("kills", "before it wrote", "while it wrote", "after it was finished", "listed but wrong",
                 "newest backup lost", "files left after the next run"),
                [[killed.killed, killed.before, killed.during, killed.after, killed.unverified, killed.lost,
                  killed.left]],
                "SIGKILL of the backup, at moments spread evenly over its run:",
            ),
            Table(
                ("restore", "time"),
                [
                    ["RTO: verified, unpacked, checked", bench.restored],
                    ["RPO: the interval of the schedule and the time of a backup", f"{INTERVAL} min + {duration}"],
                ],
                "The restore of the database, and the greatest possible loss:",
            ),
            Table(
                ("change in the hour", "backups", "plain files", "whole zstd copies", "restic of the archives",
                 "restic of the uncompressed database"),
                hours_table(added),
                "Bytes that each backup of a slowly changing database adds, and their sum:",
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
            Target("plain copies that are wrong", Figure((copies.wrong,), ""), 1, "the check sees them", at_least=True),
            Target("backups listed after a kill that are wrong", Figure((killed.unverified,), ""), 0),
            Target("newest backups lost by a kill", Figure((killed.lost,), ""), 0),
            Target("files left after the run that follows a kill", Figure((killed.left,), ""), 0),
            Target("kills while it wrote", Figure((killed.during,), ""), 1, "else nothing was tested", at_least=True),
            Target("restore", bench.restored, RESTORED),
        ],
        NOTES,
    )  # fmt: skip


class BackupBench:
    """The measurements of a site with a large database."""

    def __init__(self, size: int) -> None:
        self.site = Runtime(DIRECTORY / "large")
        self.scratch = DIRECTORY / "scratch"
        say(f"filling a database of {size / 2**20:.0f} MiB")
        self.rows = self.site.module("bench.accounts", self.site.database, "fill", str(size))["moves"]
        self.verified = self.restored = Figure((), "s")
        self.sqlite = ""

    def ours(self, samples: int) -> Way:
        """Back up, restore, and check the restored database."""
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
        """Copy in another way, and check the copy."""
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
                problem = f"not finished after {LIMIT:.0f} s"
            elif done.status != 0:
                problem = f"it failed: {' '.join(done.errors.split())[-200:]}"
            else:
                problem = self._judge(directory / self.site.database.name)[1]
        return Way(name, [sample(problem)])

    def hours(self, kinds: Sequence[str]) -> list[Hour]:
        """Back up after each hour's change, and store the backups with restic too."""
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
        """Remove the database and the repositories, to free disk space."""
        for directory in ("large", "archives", "copies"):
            shutil.rmtree(DIRECTORY / directory)

    def _restore(self, name: str, directory: Path) -> Done:
        target = directory / "db.sqlite3"
        return self.site.verb("restore", "--output", self.site.backups, "--backup", name, "--target", target)

    def _judge(self, database: Path) -> tuple[dict[str, int], str]:
        found = self.site.module("bench.accounts", database, "judge")
        return found["rows"], found["problem"]

    def _under_writes(self, act: Callable[[], Done]) -> tuple[Done, Callable[[str], Sample]]:
        """Run ``act`` during the writes; return its result, and a function that makes a sample of it and a problem."""
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
        """Bytes of the repository."""
        return stored(self._repository)

    def keep(self, directory: Path) -> None:
        """Back up a directory."""
        call(*self._command, "backup", str(directory))

    def keep_unpacked(self, archive: Path) -> None:
        """Back up the content of an archive, as one file."""
        backup = [*self._command, "backup", "--stdin", "--stdin-filename", "db.sqlite3"]
        pipe(["zstd", "--quiet", "--decompress", "--stdout", str(archive)], backup)


class Scratch:
    """A temporary directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> Path:
        self._directory.mkdir()
        return self._directory

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._directory)


class Trials:
    """Backups of a busy ledger, and kills, parallel to other work: they are not timed."""

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
        """Wait for the end; return the backups of the ledger, its plain copies, and the kills."""
        counts = self._series.answer()
        kills = Kills(**self._killing.answer())
        self._stack.close()
        for writer in self._writers:
            if writer.writes.error_count:
                raise LabError(f"{writer.writes.error_count} writes to the ledger failed: {writer.writes.errors}")
        backups, copies = Count(**counts["backups"]), Count(**counts["copies"])
        for problem in (*backups.examples, *kills.examples):
            say(f"wrong: {problem}")
        return backups, copies, kills


def _tried(name: str, count: Count) -> list[object]:
    return [name, count.tried, count.right, count.wrong, count.examples[0] if count.examples else "–"]


def _version(package: str) -> str:
    return call(sys.executable, "-c", f"import importlib.metadata as m; print(m.version({package!r}))")


def _sqlite3(statement: str) -> Callable[[Path, Path], Sequence[str]]:
    """Return the command line of Debian's SQLite; ``{}`` stands for the copy."""
    return lambda database, directory: [
        "sqlite3", "-cmd", ".timeout 5000", str(database), statement.format(directory / database.name)
    ]  # fmt: skip


# The other ways: for a database and a directory, the command that copies the database into the directory.
OTHERS: Mapping[str, Callable[[Path, Path], Sequence[str]]] = {
    "`sqlite3 .backup`": _sqlite3(".backup '{}'"),
    "`VACUUM INTO`": _sqlite3("VACUUM INTO '{}'"),
    "`cp`": lambda database, directory: ["cp", str(database), f"{database}-wal", str(directory)],
    "django-dbbackup": lambda *_: [sys.executable, "-m", "django", "dbbackup", "--noinput", "--quiet"],
}

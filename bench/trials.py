"""Many backups of a small ledger: made during writes and restored, or killed at random moments.

``python -m bench.trials VERB`` runs under a site's interpreter and calls the runtime directly: a process for each of a
thousand backups would take most of the time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from hostwright import backup, restore, verify
from hostwright.retention import Keep

from bench import accounts
from bench.counts import EXAMPLES, Count, Kills, moments
from bench.runtime import write_record

# Share of the rows that changes between two runs.
SHARE = 0.002
SEED = 4711
# Backups that retention keeps in the series, and in the kills.
KEEP = Keep(20, 0, 0, 0, 0)
KEEP_FEW = Keep(4, 0, 0, 0, 0)
# The greatest number of plain copies, and how many wrong ones are enough: of a hundred one or two are wrong.
COPIES = 1000
ENOUGH = 5
# The latest kill, as a multiple of the duration of a whole run.
LATE = 1.05
# The greatest number of runs, as a multiple of the kills: a run may end before it is killed.
MOST = 3
# Every fourth run finds an unchanged database, so that its archive is a link.
UNCHANGED = 4


def series(database: Path, output: Path, record: Path, count: int) -> tuple[Count, Count]:
    """Back up a database during writes, restore each backup and check it; then do the same with ``cp``.

    Returns:
        The counts of the backups and of the copies.
    """
    backups, copies = Count(), Count()
    scratch = output.parent / "scratch"
    for number in range(count):
        write_record(record, number + 1)  # another release gives another id within the same second
        backups.add(fresh(scratch, lambda: _backed_up(output, record, scratch / "db.sqlite3")))
        _say(f"backups of a busy ledger, {number + 1} of {count}", number, count)
    for number in range(COPIES):
        if copies.wrong == ENOUGH:
            break
        copies.add(fresh(scratch, lambda: _copied(database, scratch)))
        _say(f"plain copies of it, {number + 1} of {COPIES}", number, COPIES)
    return backups, copies


def fresh(directory: Path, act: Callable[[], str]) -> str:
    """Call ``act`` with an empty directory, which is removed afterwards."""
    directory.mkdir()
    try:
        return act()
    finally:
        shutil.rmtree(directory)


def _backed_up(output: Path, record: Path, target: Path) -> str:
    manifest = backup.backup(output, backup.Options(KEEP, record=record))
    restore.restore(output, manifest["id"], target)
    found = accounts.judge(target)
    return found.problem or ("" if found.rows == manifest["rows"] else f"{found.rows} are not the manifest's rows")


def _copied(database: Path, target: Path) -> str:
    for file in (str(database), f"{database}-wal"):
        subprocess.run(["cp", file, str(target)], check=True)
    return accounts.judge(target / database.name).problem


def kills(database: Path, output: Path, record: Path, count: int) -> Kills:
    """Kill the backup at seeded moments, and check after each kill and after the next run."""
    found = Kills()
    notes = accounts.Notes(SEED, 1 << 20)
    numbers = itertools.count(1)

    def begin() -> subprocess.Popen[bytes]:
        write_record(record, next(numbers))
        command = [sys.executable, "-m", "hostwright", "backup", "--output", str(output), "--record", str(record)]
        command += ["--keep", json.dumps(asdict(KEEP_FEW))]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def whole() -> str:
        write_record(record, next(numbers))
        return str(backup.backup(output, backup.Options(KEEP_FEW, record=record))["id"])

    whole()
    accounts.change(database, SHARE, recent=False, notes=notes)
    started = time.monotonic()
    if begin().wait() != 0:
        raise RuntimeError("The backup fails without a kill.")
    longest = LATE * (time.monotonic() - started)
    newest = verify.verify(output)["verified"][-1]
    for number, moment in enumerate(moments(SEED, MOST * count, longest)):
        if found.killed == count:
            break
        if number % UNCHANGED:
            accounts.change(database, SHARE, recent=False, notes=notes)
        process = begin()
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            found.killed += 1
            found.judge(newest, {path.name for path in output.iterdir()}, verify.verify(output))
        newest = whole()
        found.judge_next({path.name for path in output.iterdir()})
        _say(f"kills of the backup, {found.killed} of {count}", found.killed - 1, count)
    del found.examples[EXAMPLES:]
    return found


def _say(text: str, number: int, count: int) -> None:
    if (number + 1) % max(count // 5, 1) == 0:
        print(f"bench: {text} …", file=sys.stderr, flush=True)


def main() -> int:
    """Run the verb of the command line; print the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.trials", description=__doc__)
    parser.add_argument("verb", choices=("series", "kills"))
    parser.add_argument("root", type=Path, help="root directory of the site (bench.runtime)")
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    database = options.root / "databases" / "1" / "db.sqlite3"
    where = (database, options.root / "backups", options.root / "run" / "releases" / "1" / "release.json")
    if options.verb == "series":
        backups, copies = series(*where, options.count)
        print(json.dumps({"backups": asdict(backups), "copies": asdict(copies)}))
    else:
        print(json.dumps(asdict(kills(*where, options.count))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

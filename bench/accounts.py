"""A database whose accounts have a constant sum: fill it, write to it, change it, and check copies of it.

``python -m bench.accounts VERB`` runs under a site's interpreter, so that it uses the site's SQLite.
"""

from __future__ import annotations

import argparse
import bisect
import json
import random
import signal
import sqlite3
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ACCOUNTS = 1000
BALANCE = 1000
SCHEMA = """
CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE move (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL REFERENCES account, target INTEGER NOT NULL REFERENCES account, amount INTEGER NOT NULL,
    written REAL NOT NULL, reference TEXT NOT NULL, note TEXT NOT NULL
);
CREATE INDEX move_written ON move (written);
"""
INSERT = "INSERT INTO move (source, target, amount, written, reference, note) VALUES (?, ?, ?, ?, ?, ?)"
# Characters of a note; a row then has some 500 bytes.
NOTE = 420
# Characters of the text that notes are cut from: too long for a compressor to find a repetition within its window.
TEXT = 1 << 26
ROWS_AT_ONCE = 20_000
# The newest share of the rows: most sites change mostly recent rows.
RECENT = 0.05
# Errors that a writer reports with their text.
EXAMPLES = 5

Row = tuple[int, int, int, float, str, str]


class Notes:
    """Generates rows of moves, with notes of random words."""

    def __init__(self, seed: int, size: int = TEXT) -> None:
        self.random = random.Random(seed)  # noqa: S311 (the same rows in every run)
        letters = "eeeaaiioonnrrttssllddmmcuupghbfyvwkjxqz"
        words = ["".join(self.random.choices(letters, k=self.random.randint(2, 11))) for _ in range(20_000)]
        self._text = " ".join(self.random.choices(words, k=size // 7))

    def note(self) -> str:
        """Return the note of a move."""
        start = self.random.randrange(len(self._text) - NOTE)
        return self._text[start : start + NOTE]

    def move(self, written: float) -> Row:
        """Return a random move."""
        source, target = self.random.sample(range(ACCOUNTS), 2)
        reference = f"{self.random.getrandbits(128):032x}"
        return source, target, self.random.randrange(100), written, reference, self.note()


@dataclass(frozen=True)
class Judgement:
    """The check of a copy: its rows by table, and the problem (empty: none)."""

    rows: dict[str, int]
    problem: str


def connect(database: Path, busy_timeout: int = 5000) -> sqlite3.Connection:
    """Open the database as a site does; ``busy_timeout`` is in milliseconds."""
    connection = sqlite3.connect(database, timeout=busy_timeout / 1000, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "mmap_size=0", "journal_size_limit=67108864"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def fill(database: Path, size: int, notes: Notes) -> int:
    """Make a database of at least ``size`` bytes; return the number of its moves."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA journal_mode=OFF")
    connection.execute("PRAGMA synchronous=OFF")
    connection.executescript(SCHEMA)
    balances = [BALANCE] * ACCOUNTS
    count = 0
    while connection.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()[0] < (
        size
    ):
        at_once = min(ROWS_AT_ONCE, max(size // 5000, 1))
        rows = [notes.move(1.7e9 + count + number) for number in range(at_once)]
        for source, target, amount, *_ in rows:
            balances[source] -= amount
            balances[target] += amount
        connection.execute("BEGIN")
        connection.executemany(INSERT, rows)
        connection.execute("COMMIT")
        count += at_once
    connection.executemany("INSERT INTO account VALUES (?, ?)", enumerate(balances))
    connection.close()
    connect(database).close()
    return count


def move(connection: sqlite3.Connection, row: Row) -> None:
    """Move money, in a transaction as a site's view does."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        transfer(connection, row)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def correct(connection: sqlite3.Connection, number: int, amount: int) -> None:
    """Correct the amount of a move, in a transaction: the database does not grow."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        source, target, before = connection.execute(
            "SELECT source, target, amount FROM move WHERE id = ?", (number,)
        ).fetchone()
        connection.execute("UPDATE move SET amount = ? WHERE id = ?", (amount, number))
        connection.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount - before, source))
        connection.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount - before, target))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def transfer(connection: sqlite3.Connection, row: Row) -> None:
    """Move money within a transaction."""
    connection.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (row[2], row[0]))
    connection.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (row[2], row[1]))
    connection.execute(INSERT, row)


def change(database: Path, share: float, recent: bool, notes: Notes) -> None:
    """Change a share of the rows: half are new rows, half are old rows whose note changes.

    Args:
        database: must have no other writer.
        share: share of the rows, 0 to 1.
        recent: choose the old rows among the newest; otherwise among all.
        notes: source of the new text.
    """
    connection = connect(database)
    last = connection.execute("SELECT max(id) FROM move").fetchone()[0]
    half = max(round(last * share / 2), 1)
    first = round(last * (1 - RECENT)) if recent else 1
    connection.execute("BEGIN IMMEDIATE")
    changes = [(notes.note(), notes.random.randint(first, last)) for _ in range(half)]
    connection.executemany("UPDATE move SET note = ? WHERE id = ?", changes)
    for _ in range(half):
        transfer(connection, notes.move(time.time()))
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    connection.close()


def judge(database: Path) -> Judgement:
    """Check that a copy is intact and that its rows are of one moment.

    The balances match the moves, no move is missing, and the sum of the accounts is the initial one. A ``-wal`` beside
    the copy belongs to it.
    """
    try:
        connection = sqlite3.connect(f"file:{database}?mode=rw", uri=True, isolation_level=None)
        try:
            return _judge(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Judgement({}, f"{type(error).__name__}: {error}")


def _judge(connection: sqlite3.Connection) -> Judgement:
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        return Judgement({}, f"damaged: {' '.join(found.splitlines())}")
    balances = dict(connection.execute("SELECT id, balance FROM account").fetchall())
    count, last = connection.execute("SELECT count(*), ifnull(max(id), 0) FROM move").fetchone()
    rows = {"account": len(balances), "move": count}
    if sum(balances.values()) != ACCOUNTS * BALANCE:
        return Judgement(rows, f"the accounts have {sum(balances.values())} together, not {ACCOUNTS * BALANCE}")
    if count != last:
        return Judgement(rows, f"of {last} moves {last - count} are missing")
    expected = dict.fromkeys(range(ACCOUNTS), BALANCE)
    for sign, column in ((-1, "source"), (1, "target")):
        query = f"SELECT {column}, sum(amount) FROM move GROUP BY {column}"  # noqa: S608 (two names, above)
        for account, amount in connection.execute(query):
            expected[account] += sign * amount
    if expected != balances:
        return Judgement(rows, "balances and moves are of different moments")
    return Judgement(rows, "")


@dataclass(frozen=True)
class Writes:
    """The writes of a writer: when each was due (``time.monotonic``), the seconds from then to its end, the errors.

    Failed writes are included.
    """

    due: Sequence[float]
    seconds: Sequence[float]
    errors: Sequence[str]
    error_count: int

    def between(self, begin: float, end: float) -> list[float]:
        """Return the latencies, in seconds, of the writes that were due in this interval."""
        return list(self.seconds[bisect.bisect_left(self.due, begin) : bisect.bisect_left(self.due, end)])


def write(database: Path, rate: float, busy_timeout: int, notes: Notes, corrections: bool) -> Writes:
    """Move money until SIGTERM.

    Args:
        database: may have other writers.
        rate: writes per second; each is due at a fixed time, even if earlier ones are late.
        busy_timeout: milliseconds.
        notes: source of the moves.
        corrections: correct existing moves, so that the database does not grow; otherwise write new moves.
    """
    due, seconds, errors = array("d"), array("d"), []
    error_count = 0
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    connection = connect(database, busy_timeout)
    last = connection.execute("SELECT max(id) FROM move").fetchone()[0]
    print("writing", flush=True)
    for moment in _moments(rate):
        if stopped:
            break
        try:
            if corrections:
                correct(connection, notes.random.randint(1, last), notes.random.randrange(100))
            else:
                move(connection, notes.move(time.time()))
        except sqlite3.Error as error:
            error_count += 1
            errors.append(f"{type(error).__name__}: {error}")
        due.append(moment)
        seconds.append(time.monotonic() - moment)
    connection.close()
    return Writes(due, seconds, errors[:EXAMPLES], error_count)


def _moments(rate: float) -> Iterator[float]:
    begin = time.monotonic()
    number = 0
    while True:
        moment = begin + number / rate
        time.sleep(max(moment - time.monotonic(), 0))
        yield moment
        number += 1


def read_writes(path: Path) -> Writes:
    """Read the log of a writer."""
    return Writes(**json.loads(path.read_text()))


def _save(path: Path, writes: Writes) -> None:
    data: dict[str, Any] = {**vars(writes), "due": list(writes.due), "seconds": list(writes.seconds)}
    path.write_text(json.dumps(data))


def main() -> int:
    """Run the verb of the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.accounts", description=__doc__)
    parser.add_argument("database", type=Path)
    parser.add_argument("--seed", type=int, default=4711)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("fill", help="make the database")
    verb.add_argument("bytes", type=int)
    verb = verbs.add_parser("change", help="change a share of its rows")
    verb.add_argument("share", type=float)
    verb.add_argument("--recent", action="store_true", help="among the newest rows")
    verb = verbs.add_parser("write", help="write to it until SIGTERM")
    verb.add_argument("--rate", type=float, required=True, help="writes per second")
    verb.add_argument("--corrections", action="store_true", help="the database does not grow")
    verb.add_argument("--busy-timeout", type=int, default=5000, metavar="MS")
    verb.add_argument("--log", type=Path, required=True, help="file for the latency of each write")
    verbs.add_parser("judge", help="check that it is intact and of one moment")
    options = parser.parse_args()
    match options.verb:
        case "fill":
            print(json.dumps({"moves": fill(options.database, options.bytes, Notes(options.seed))}))
        case "change":
            change(options.database, options.share, options.recent, Notes(options.seed))
            print("{}")
        case "write":
            notes = Notes(options.seed, 1 << 20)
            writes = write(options.database, options.rate, options.busy_timeout, notes, options.corrections)
            _save(options.log, writes)
        case "judge":
            print(json.dumps(asdict(judge(options.database))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

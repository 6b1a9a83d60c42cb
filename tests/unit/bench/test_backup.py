"""The benchmark of the backup detects wrong copies and harmful kills, and counts hard links once."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from bench import accounts, counts
from bench.accounts import Notes, Writes
from bench.backup import HOURS, Hour, Sample, Way, hours_table, stored
from bench.report import Figure, Target
from bench.runtime import run

NOTES = Notes(1, 1 << 14)
SEALED = {"20260101T000000Z-r1.sqlite3.zst", "20260101T000000Z-r1.json", "20260101T000000Z-r1.json.sha256"}
NEWER = {name.replace("-r1", "-r2") for name in SEALED}
OLD, NEW = "20260101T000000Z-r1", "20260101T000000Z-r2"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A small ledger."""
    path = tmp_path / "db.sqlite3"
    accounts.fill(path, 200_000, NOTES)
    return path


def execute(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    with connection:
        connection.execute(statement)
    connection.close()


def test_writes_leave_a_ledger_correct(database: Path) -> None:
    before = accounts.judge(database)
    assert before.problem == ""
    connection = accounts.connect(database)
    accounts.move(connection, NOTES.move(time.time()))
    accounts.correct(connection, 5, 77)
    connection.close()
    accounts.change(database, 0.1, recent=False, notes=NOTES)
    accounts.change(database, 0.1, recent=True, notes=NOTES)
    after = accounts.judge(database)
    assert after.problem == ""
    assert after.rows["move"] > before.rows["move"] + 1


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("UPDATE account SET balance = balance + 1 WHERE id = 7", "together, not 1000000"),
        ("DELETE FROM move WHERE id = 7", "1 are missing"),
        ("UPDATE move SET amount = amount + 1 WHERE id = 7", "of different moments"),
        ("UPDATE account SET balance = balance + 5 - 10 * (id = 7) WHERE id IN (7, 8)", "of different moments"),
        ("DROP TABLE account", "no such table"),
    ],
)
def test_a_wrong_copy_is_detected(database: Path, harm: str, says: str) -> None:
    execute(database, harm)
    assert says in accounts.judge(database).problem


def test_a_damaged_copy_is_detected(database: Path) -> None:
    execute(database, "PRAGMA wal_checkpoint(TRUNCATE)")
    with database.open("r+b") as file:
        file.seek(4096 * 20)
        file.write(b"\xff" * 4096)
    assert "malformed" in (problem := accounts.judge(database).problem) or "damaged" in problem


def test_latencies_are_selected_by_the_time_at_which_writes_were_due() -> None:
    writes = Writes((1.0, 2.0, 3.0, 4.0), (0.1, 0.2, 0.3, 0.4), (), 0)
    assert writes.between(2.0, 4.0) == [0.2, 0.3]


def test_moments_are_the_same_for_the_same_seed_and_spread_over_the_run() -> None:
    found = counts.moments(1, 1000, 2.0)
    assert found == counts.moments(1, 1000, 2.0) != counts.moments(2, 1000, 2.0)
    assert 0 <= min(found) < 0.1
    assert 1.9 < max(found) <= 2.0


@pytest.mark.parametrize(
    ("names", "report", "expected"),
    [
        (SEALED, {"verified": [OLD], "wrong": []}, {"before": 1}),
        (SEALED | {".partial-x"}, {"verified": [OLD], "wrong": []}, {"during": 1}),
        (SEALED | {f"{NEW}.sqlite3.zst"}, {"verified": [OLD], "wrong": []}, {"during": 1}),
        (SEALED | NEWER, {"verified": [OLD, NEW], "wrong": []}, {"after": 1}),
        (
            SEALED | NEWER,
            {"verified": [OLD], "wrong": [{"id": NEW, "problem": "torn"}]},
            {"before": 1, "unverified": 1},
        ),
        (NEWER, {"verified": [NEW], "wrong": []}, {"after": 1, "lost": 1}),
    ],
)
def test_the_state_after_a_kill_is_judged(
    names: set[str], report: dict[str, list[object]], expected: dict[str, int]
) -> None:
    kills = counts.Kills()
    kills.judge(OLD, names, report)
    found = {name: value for name, value in vars(kills).items() if value and name != "examples"}
    assert found == expected
    assert len(kills.examples) == kills.unverified + kills.lost


def test_files_left_after_the_next_run_are_counted() -> None:
    kills = counts.Kills()
    kills.judge_next(SEALED)
    assert kills.left == 0
    kills.judge_next(SEALED | {".partial-x", f"{NEW}.json"})
    assert kills.left == 2
    assert kills.examples == [".partial-x: left after the next run", f"{NEW}.json: left after the next run"]


def test_right_and_wrong_are_counted() -> None:
    count = counts.Count()
    for problem in ("", "torn", ""):
        count.add(problem)
    assert (count.tried, count.right, count.wrong, count.examples) == (3, 2, 1, ["torn"])


def test_a_way_reports_its_worst_run() -> None:
    runs = [
        Sample(1.0, 10_000_000, 2**20, 0, (), (0.001, 0.002), ""),
        Sample(3.0, 20_000_000, 2**21, 2, (), (0.001, 0.009), "torn"),
    ]
    cells = [str(cell) for cell in Way("cp", runs).cells]
    assert cells == ["cp", "2.00 [1.00–3.00] s", "2", "5.5 [2.0–9.0] ms", "9.0 ms", "2.0 MiB", "20.00 MB", "no: torn"]


def test_hours_are_reported_by_kind_and_in_total() -> None:
    found = [Hour(kind, (number * 10**6, 10**6, 0, 0)) for number, kind in enumerate(HOURS)]
    lines = [[str(cell) for cell in line] for line in hours_table(found)]
    assert [line[:2] for line in lines] == [
        ["the first backup", "1"],
        ["0.2 % of the rows, anywhere", "5"],
        ["0.2 % of the rows, the newest", "4"],
        ["nothing", "2"],
        ["all", "12"],
    ]
    assert lines[3][2] == "5.50 [3.00–8.00] MB"
    assert lines[4][2:4] == ["66.00 MB", "12.00 MB"]


def test_a_file_with_two_names_is_stored_once(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "one").write_bytes(b"x" * 1000)
    os.link(tmp_path / "one", tmp_path / "below" / "same")
    (tmp_path / "other").write_bytes(b"x" * 10)
    assert stored(tmp_path) == 1010


def test_a_target_may_be_a_lower_limit() -> None:
    assert Target("wrong", Figure((1,), ""), 1, at_least=True).met
    missed = Target("wrong", Figure((0,), ""), 1, at_least=True)
    assert not missed.met
    assert missed.cells == ["wrong", "0", "≥ 1", "**not met**"]


def test_a_command_is_measured() -> None:
    size = 60_000_000
    done = run([sys.executable, "-c", f"x = b'x' * {size}; print('[1]')"], os.environ)
    assert (done.status, done.ended, done.answer) == (0, False, [1])
    assert size < done.memory < size + 40_000_000
    failed = run([sys.executable, "-c", "import sys; sys.exit('no')"], os.environ)
    assert (failed.status, failed.ended, failed.errors) == (1, False, "no\n")


def test_a_command_that_takes_too_long_is_ended_with_what_it_started() -> None:
    done = run(["sh", "-c", "sleep 60 & sleep 60"], os.environ, limit=0.3)
    assert done.ended
    assert 0.3 <= done.seconds < 10

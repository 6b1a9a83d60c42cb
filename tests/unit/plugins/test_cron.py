"""Cron expressions: valid ones, the messages for invalid ones, and the longest gap between two runs."""

from __future__ import annotations

import pytest
from ansible_collections.hostwright.django.plugins.filter import cron_interval
from ansible_collections.hostwright.django.plugins.filter.cron_problem import FilterModule
from ansible_collections.hostwright.django.plugins.module_utils.cron import CronError, longest_gap, problem
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "expression",
    [
        "17 * * * *",
        "*/15 0-6,22-23 * * *",
        "0 3 1-31/2 jan-Mar,dec mon-fri",
        "  5   4 *\t* 7 ",
        "0 0 29 2 *",
        "0 0 31 2 1",
        "59 23 31 12 0",
    ],
)
def test_a_valid_expression_has_no_problem(expression: str) -> None:
    assert problem(expression) == ""


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("", "0 fields instead of 5"),
        ("17 * * *", "4 fields instead of 5"),
        ("17 * * * * root", "6 fields instead of 5"),
        ("@hourly", "1 fields instead of 5"),
        ("60 * * * *", "minute '60' is not between 0 and 59"),
        ("* 24 * * *", "hour '24' is not between 0 and 23"),
        ("* * 0 * *", "day of month '0' is not between 1 and 31"),
        ("* * * 13 *", "month '13' is not between 1 and 12"),
        ("* * * * 8", "day of week '8' is not between 0 and 7"),
        ("jan * * * *", "minute 'jan'"),
        ("* * * * mon-frog", "day of week 'frog'"),
        ("5/10 * * * *", "minute '5/10' is not valid"),
        ("*/0 * * * *", "step"),
        ("*/60 * * * *", "step"),
        ("30-10 * * * *", "ends before it begins"),
        ("1,,2 * * * *", "is not valid"),
        ("-1 * * * *", "is not valid"),
        ("1; * * * *", "is not valid"),
        ("* * * * *\n* * * * *", "one line"),
        ("0 0 30 2 *", "would never run"),
        ("0 0 31 4,6 *", "would never run"),
        (17, "is a text"),
        (None, "is a text"),
    ],
)
def test_the_problem_of_an_invalid_expression(expression: object, words: str) -> None:
    assert words in problem(expression)


@given(st.text(alphabet="0123456789*/-,. jan", max_size=30))
def test_any_text_is_accepted_or_refused(expression: str) -> None:
    assert isinstance(problem(expression), str)


@given(st.tuples(st.integers(0, 59), st.integers(0, 23), st.integers(1, 28), st.integers(1, 12), st.integers(0, 7)))
def test_any_moment_is_valid(moment: tuple[int, ...]) -> None:
    assert problem(" ".join(map(str, moment))) == ""


def test_the_filter() -> None:
    assert FilterModule().filters()["cron_problem"]("17 * * * *") == ""


HOUR, DAY = 3600, 24 * 3600


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [
        ("* * * * *", 60),
        ("17 * * * *", HOUR),
        ("*/25 * * * *", 25 * 60),  # 0, 25, 50, and then the hour is full
        ("50,55 * * * *", 55 * 60),
        ("17 6-22 * * *", 8 * HOUR),
        ("0 3 * * *", DAY),
        ("0 3 * * 1-5", 3 * DAY),
        ("0 3 * * 7", 7 * DAY),
        ("0 3 1 * *", 31 * DAY),
        ("0 3 31 * *", 61 * DAY),
        ("0 3 29 2 *", (4 * 365 + 1) * DAY),
        ("0 3 */2 * 1", 21 * DAY),  # with a star both days must fit, crontab(5)
        ("0 3 1 * 1", 7 * DAY),  # without one either does
    ],
)
def test_longest_gap(expression: str, seconds: int) -> None:
    assert longest_gap(expression) == seconds


def test_longest_gap_of_an_invalid_schedule() -> None:
    with pytest.raises(CronError, match="4 fields"):
        longest_gap("17 * * *")


def test_the_filter_of_the_interval() -> None:
    assert cron_interval.FilterModule().filters()["cron_interval"]("17 * * * *") == HOUR

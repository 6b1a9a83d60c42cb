"""Cron expressions: validation, and the longest time between two runs."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from itertools import pairwise

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# Field, least and greatest value, and names of values; see crontab(5) of Debian's cron.
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    ("day of week", 0, 7, {name: number for number, name in enumerate(_DAYS)}),
)
_ITEM = re.compile(
    r"(?P<star>\*)(?:/(?P<star_step>\d+))?|(?P<first>\w+)(?:-(?P<last>\w+)(?:/(?P<step>\d+))?)?", re.ASCII
)
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# The calendar repeats after 28 years, with weekdays and leap days (except across the years 1900 and 2100).
_FIRST_DAY, _CYCLE = datetime.date(2004, 1, 1), 28 * 365 + 7


class CronError(ValueError):
    """A schedule that cron would not run."""


def problem(expression: object) -> str:
    """Validate a cron expression.

    Args:
        expression: five fields, such as ``17 * * * *``.

    Returns:
        A sentence that says what is wrong; empty if cron would run it.
    """
    try:
        _parse(expression)
    except CronError as error:
        return str(error)
    return ""


def longest_gap(expression: str) -> int:
    """Return the longest time between two runs of a schedule, in seconds, without changes of the clock.

    Raises:
        CronError: the expression is invalid; the message names the field and its valid values.
    """
    schedule = _parse(expression)
    moments = sorted(60 * hour + minute for hour in schedule.hours for minute in schedule.minutes)
    days = [day for day in range(_CYCLE) if schedule.is_due(_FIRST_DAY + datetime.timedelta(days=day))]
    apart = max(after - before for before, after in pairwise([*days, days[0] + _CYCLE]))
    return 60 * max(
        1440 * apart + moments[0] - moments[-1],
        max((after - before for before, after in pairwise(moments)), default=0),
    )


@dataclass(frozen=True)
class _Schedule:
    """The values of the five fields; Sunday is 0. ``any_day`` and ``any_weekday``: the field begins with ``*``."""

    minutes: set[int]
    hours: set[int]
    days: set[int]
    months: set[int]
    weekdays: set[int]
    any_day: bool
    any_weekday: bool

    def is_due(self, date: datetime.date) -> bool:
        """Return whether it runs on a date: both days must match, or one if both are restricted (crontab(5))."""
        day, weekday = date.day in self.days, date.isoweekday() % 7 in self.weekdays
        fits = (day and weekday) if self.any_day or self.any_weekday else (day or weekday)
        return date.month in self.months and fits


def _parse(expression: object) -> _Schedule:
    if not isinstance(expression, str):
        raise CronError(f"A cron expression is a text such as '17 * * * *', not {expression!r}.")
    if "\n" in expression or "\r" in expression:
        raise CronError("A cron expression is one line.")
    words = expression.split()
    if len(words) != len(_FIELDS):
        names = ", ".join(name for name, _least, _greatest, _names in _FIELDS)
        raise CronError(f"{expression!r} has {len(words)} fields instead of 5 ({names}).")
    minutes, hours, days, months, weekdays = (_values(word, *field) for word, field in zip(words, _FIELDS, strict=True))
    any_day, any_weekday = (word.startswith("*") for word in (words[2], words[4]))
    if any_weekday and not any(day <= _LONGEST[month - 1] for month in months for day in days):
        raise CronError(f"{expression!r} would never run: none of its months has one of its days.")
    return _Schedule(minutes, hours, days, months, {day % 7 for day in weekdays}, any_day, any_weekday)


def _values(word: str, name: str, least: int, greatest: int, names: dict[str, int]) -> set[int]:
    found: set[int] = set()
    for item in word.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise CronError(
                f"The {name} {word!r} is not valid: use "
                f"{least}-{greatest}, *, ranges (a-b), steps (*/n, a-b/n) and lists (a,b)."
            )
        if match["star"]:
            first, last = least, greatest
        else:
            first = _number(match["first"], name, least, greatest, names)
            last = first if match["last"] is None else _number(match["last"], name, least, greatest, names)
        step = int(match["star_step"] or match["step"] or 1)
        if first > last:
            raise CronError(f"The {name} {word!r} has a range that ends before it begins.")
        if not 1 <= step <= greatest:
            raise CronError(f"The {name} {word!r} has a step that is not between 1 and {greatest}.")
        found.update(range(first, last + 1, step))
    return found


def _number(text: str, name: str, least: int, greatest: int, names: dict[str, int]) -> int:
    number = int(text) if text.isdigit() else names.get(text.lower(), -1)
    if not least <= number <= greatest:
        raise CronError(f"The {name} {text!r} is not between {least} and {greatest}.")
    return number

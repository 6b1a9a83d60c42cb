"""Which backups are kept, over simulated years of schedules, gaps and wrong clocks."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hostwright.errors import ConfigurationError
from hostwright.retention import Keep, kept
from hypothesis import given, settings
from hypothesis import strategies as st

PERIODS: dict[str, Callable[[datetime], object]] = {
    "hourly": lambda moment: moment.strftime("%Y%m%d%H"),
    "daily": lambda moment: moment.strftime("%Y%m%d"),
    "weekly": lambda moment: moment.strftime("%G%V"),
    "monthly": lambda moment: moment.strftime("%Y%m"),
}
BEGIN = datetime(2024, 1, 1, 0, 17, tzinfo=UTC)
few = st.integers(0, 6)
keeps = st.builds(Keep, few, few, few, few, few)
moments = st.lists(st.integers(0, 3 * 366 * 24 * 60), min_size=1, max_size=120, unique=True).map(
    lambda minutes: [BEGIN + timedelta(minutes=minute) for minute in sorted(minutes)]
)


def named(times: list[datetime]) -> dict[str, datetime]:
    return {f"{moment:%Y%m%dT%H%M%SZ}-r1": moment for moment in times}


def wanted(backups: dict[str, datetime], keep: Keep) -> set[str]:
    """Return the ids to keep, by a simpler and slower algorithm."""
    order = sorted(backups, key=lambda name: backups[name])
    found = set(order[-max(1, keep.last) :])
    for band, period in PERIODS.items():
        last_of = {period(backups[name]): name for name in order}  # later ones replace earlier ones
        by_period = [last_of[key] for key in sorted(last_of, key=lambda key: backups[last_of[key]])]
        count = getattr(keep, band)
        found.update(by_period[-count:] if count else [])
    return found


@settings(deadline=None)
@given(moments, keeps)
def test_each_band_keeps_its_backups(times: list[datetime], keep: Keep) -> None:
    backups = named(times)
    stay = kept(backups, keep, times[-1])
    assert stay == wanted(backups, keep)
    assert max(backups) in stay
    assert len(stay) <= keep.most
    # A second call changes nothing.
    assert kept({name: backups[name] for name in stay}, keep, times[-1]) == stay


@settings(deadline=None)
@given(moments, keeps)
def test_pruning_after_each_backup_keeps_the_same_as_pruning_once(times: list[datetime], keep: Keep) -> None:
    """No daily backup is removed that a weekly or monthly band needs later."""
    there: dict[str, datetime] = {}
    for name, moment in named(times).items():
        there[name] = moment
        stay = kept(there, keep, moment, [name])
        there = {each: there[each] for each in stay}
    assert set(there) == wanted(named(times), keep)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 400 * 24), keeps)
def test_years_of_hourly_backups(start: int, keep: Keep) -> None:
    there: dict[str, datetime] = {}
    made: list[datetime] = []
    for hour in range(start, start + 2 * 366 * 24, 3):
        moment = BEGIN + timedelta(hours=hour)
        name = f"{moment:%Y%m%dT%H%M%SZ}-r1"
        made.append(moment)
        stay = kept({**there, name: moment}, keep, moment, [name])
        assert name in stay
        assert len(stay) <= keep.most
        there = {each: there.get(each, moment) for each in stay}
    assert set(there) == wanted(named(made), keep)


@settings(deadline=None)
@given(moments, keeps, st.integers(-2 * 366, 2 * 366))
def test_a_clock_that_jumps_loses_neither_the_newest_nor_the_old_ones(
    times: list[datetime], keep: Keep, days: int
) -> None:
    backups = named(times)
    before = kept(backups, keep, times[-1])
    there = {name: backups[name] for name in before}
    wrong = times[-1] + timedelta(days=days, seconds=1)
    new = f"{wrong:%Y%m%dT%H%M%SZ}-r1"
    there[new] = wrong
    stay = kept(there, keep, wrong, [new])
    assert new in stay
    assert len(stay) <= 2 * keep.most
    if days < 0:
        # Backups dated later than the wrong clock are thinned by the same bands.
        later = {name: moment for name, moment in there.items() if moment > wrong}
        assert max(later) == max(backups)
        assert wanted(later, keep) <= stay
    else:
        assert stay == wanted(there, keep)
    # The clock is corrected: the wrong date displaces no backup.
    right = times[-1] + timedelta(hours=1)
    name = f"{right:%Y%m%dT%H%M%SZ}-r1"
    there = {**{each: there[each] for each in stay}, name: right}
    after = kept(there, keep, right, [name])
    assert name in after
    assert wanted({each: moment for each, moment in there.items() if moment <= right}, keep) <= after


def test_backups_with_future_dates_are_counted_separately() -> None:
    now = BEGIN + timedelta(days=3)
    past = [BEGIN + timedelta(hours=hour) for hour in range(72)]
    future = [now + timedelta(days=1000 + day) for day in range(30)]
    keep = Keep(4, 6, 3, 2, 2)
    stay = kept(named(past + future), keep, now)
    assert set(named(past)) & stay == wanted(named(past), keep)
    assert set(named(future)) & stay == wanted(named(future), keep)


@pytest.fixture(params=["Europe/Berlin", "America/New_York", "Pacific/Apia"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    os.environ.pop("TZ") if before is None else os.environ.__setitem__("TZ", before)
    time.tzset()


def test_summer_time_does_not_matter(zone: str) -> None:
    """All periods are in UTC: no hour occurs twice, and no day has 23 hours."""
    assert zone
    times = [BEGIN + timedelta(hours=hour) for hour in range(366 * 24)]
    stay = kept(named(times), Keep(0, 48, 400, 0, 0), times[-1])
    by_day = [list(group) for _, group in itertools.groupby(sorted(stay), lambda name: name[:8])]
    assert len(by_day) == 366
    assert {name[9:11] for group in by_day[:-2] for name in group} == {"23"}


def test_a_period_without_backups_removes_nothing() -> None:
    times = [BEGIN + timedelta(days=day) for day in range(10)] + [BEGIN + timedelta(days=400)]
    assert len(kept(named(times), Keep(0, 0, 7, 0, 0), times[-1])) == 7


def test_the_newest_is_kept_if_all_numbers_are_0() -> None:
    times = [BEGIN, BEGIN + timedelta(hours=1)]
    assert kept(named(times), Keep(0, 0, 0, 0, 0), times[-1]) == {max(named(times))}


def test_the_option_keep_is_parsed() -> None:
    assert Keep.parse('{"last": 3, "monthly": 2}') == Keep(3, 0, 0, 0, 2)
    assert Keep.parse('{"last":24,"hourly":48,"daily":14,"weekly":8,"monthly":12}') == Keep()
    known = "last, hourly, daily, weekly, monthly"
    with pytest.raises(ConfigurationError, match=f"unknown key 'yearly'. Known keys: {known}"):
        Keep.parse('{"yearly": 1}')

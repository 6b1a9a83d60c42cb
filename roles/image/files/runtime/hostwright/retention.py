"""Choose which backups to keep: grandfather-father-son. A pure function, without access to a disk."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime

from hostwright.errors import ConfigurationError

_PERIODS: Mapping[str, Callable[[datetime], object]] = {
    "hourly": lambda moment: (moment.date(), moment.hour),
    "daily": lambda moment: moment.date(),
    "weekly": lambda moment: moment.isocalendar()[:2],
    "monthly": lambda moment: (moment.year, moment.month),
}


@dataclass(frozen=True)
class Keep:
    """How many backups to keep: the last ones, and the newest of each of the last hours, days, weeks, months (UTC).

    Periods without a backup do not count: after a month without backups the older ones are still kept.
    """

    last: int = 24
    hourly: int = 48
    daily: int = 14
    weekly: int = 8
    monthly: int = 12

    @property
    def most(self) -> int:
        """The largest number of kept backups; twice as many if the clock was wrong at some time."""
        return max(1, self.last + self.hourly + self.daily + self.weekly + self.monthly)

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """Parse the value of ``--keep``.

        Args:
            text: JSON such as ``{"last": 24, "daily": 14}``; missing keys are 0.

        Raises:
            ConfigurationError: the text is invalid.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ConfigurationError(f"--keep: invalid JSON: {error}.") from error
        names = [field.name for field in fields(cls)]
        if not isinstance(data, dict) or not data:
            raise ConfigurationError(f"--keep: must be an object with keys of {', '.join(names)}, not {data!r}.")
        for name, value in data.items():
            if name not in names:
                raise ConfigurationError(f"--keep: unknown key {name!r}. Known keys: {', '.join(names)}.")
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigurationError(f"--keep: {name} must be an integer of at least 0, not {value!r}.")
        return cls(**{name: data.get(name, 0) for name in names})


def kept(backups: Mapping[str, datetime], keep: Keep, now: datetime, always: Iterable[str] = ()) -> set[str]:
    """Return the ids of the backups to keep.

    How often this is called makes no difference: applied to the backups it has kept before, it keeps the same ones as
    applied to all backups ever made.

    Backups dated later than now (the clock was or is wrong) are counted separately: they do not displace others, and a
    clock that went back does not remove the rest.

    Args:
        backups: time (UTC) by id.
        keep: how many to keep.
        now: current time, UTC.
        always: ids to keep whatever their age, such as the backup just made.
    """
    future = {name for name, moment in backups.items() if moment > now}
    stay = {name for name in always if name in backups}
    for group in (future, backups.keys() - future):
        newest_first = sorted(group, key=lambda name: (backups[name], name), reverse=True)
        # The newest is kept even if all numbers are 0.
        stay.update(newest_first[: max(1, keep.last)])
        for band, period in _PERIODS.items():
            seen: set[object] = set()
            for name in newest_first:
                if len(seen) == getattr(keep, band):
                    break
                if (this := period(backups[name])) not in seen:
                    seen.add(this)
                    stay.add(name)
    return stay

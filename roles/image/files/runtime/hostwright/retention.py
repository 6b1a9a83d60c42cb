"""Which backups stay: grandfather, father, son. Nothing here touches a disk."""

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
    """How many stay: the newest ones, and the newest one of so many hours, days, weeks and months (UTC).

    Periods without a backup do not count: after a month's break the older ones are still there.
    """

    last: int = 24
    hourly: int = 48
    daily: int = 14
    weekly: int = 8
    monthly: int = 12

    @property
    def most(self) -> int:
        """More cannot stay, unless the clock was wrong at some time: then twice as many."""
        return max(1, self.last + self.hourly + self.daily + self.weekly + self.monthly)

    @classmethod
    def parse(cls, text: str) -> "Keep":
        """Check what the command line says.

        Args:
            text: JSON such as ``{"last": 24, "daily": 14}``; a band that is not named keeps nothing.

        Raises:
            ConfigurationError: it is something else.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ConfigurationError(f"--keep is not JSON: {error}.") from error
        names = [field.name for field in fields(cls)]
        if not isinstance(data, dict) or not data:
            raise ConfigurationError(f"--keep must be an object with some of {', '.join(names)}, not {data!r}.")
        for name, value in data.items():
            if name not in names:
                raise ConfigurationError(f"--keep: {name!r} is none of {', '.join(names)}.")
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigurationError(f"--keep: {name} must be a whole number, at least 0, not {value!r}.")
        return cls(**{name: data.get(name, 0) for name in names})


def kept(backups: Mapping[str, datetime], keep: Keep, now: datetime, always: Iterable[str] = ()) -> set[str]:
    """Say which backups stay.

    To ask often or seldom makes no difference: what stays of what stayed is what stays of all there ever were.

    Those that are dated later than now, because the clock was or is wrong, are looked at for themselves: they take
    nobody's place, and a clock that went back does not make everything else go.

    Args:
        backups: id and moment (UTC) of each.
        keep: how many.
        now: UTC.
        always: ids that stay whatever their age: the one just made.
    """
    future = {name for name, moment in backups.items() if moment > now}
    stay = {name for name in always if name in backups}
    for group in (future, backups.keys() - future):
        newest_first = sorted(group, key=lambda name: (backups[name], name), reverse=True)
        # The newest one stays even where all bands are empty.
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

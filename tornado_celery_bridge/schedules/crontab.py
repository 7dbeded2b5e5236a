"""
Crontab expressions, and when they are due in a time zone.

An expression has five fields: minute, hour, day of month, month, day of week (Sunday is 0 or 7). Each field takes
numbers, names, ranges (which may wrap: ``fri-mon``), lists and steps. ``L`` is the last day of a month, ``mon#2`` its
second Monday, and ``monL`` its last Monday. As in Celery, and unlike crontab(5), a day must match both of its fields.

When the clocks change, the rules are those of Debian's cron:

- *Wildcard* (the minute or the hour begins with ``*``): due whenever the local clock shows a matching time. So a
  skipped hour has no runs, an hour that comes twice has its runs twice, and ``0 * * * *`` is due once in each hour that
  passes (celery#10107).
- *Fixed* (neither begins with ``*``): each time of day is due once. A time that is skipped is due when the clock has
  jumped. A time that comes twice is due the first time.

This is not a library's work, because even the best one, cronsim 2.8, leaves out ``30 * * * *`` at 01:30 and
``0 */2 * * *`` at 02:00 on the days on which Lord Howe's clocks move by half an hour. The code here never changes a
local time and hopes that the result exists. All steps are steps of real time, and only steps of one minute cross a
change of the clock.
"""

import calendar
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MINUTE = timedelta(minutes=1)
#: 29 February falls on a given weekday every 28 years, and once, across the year 2100, after 40 years.
HORIZON = timedelta(days=366 * 50)

_PART = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/([0-9]+))?")
_NTH = re.compile(r"(\w+?)(?:#([1-5])|L)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Crontab:
    """A parsed expression."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    #: Whether the last day of a month is one of the days.
    last_day: bool
    months: frozenset[int]
    #: Sunday is 0.
    weekdays: frozenset[int]
    #: Weekdays with their number in the month; 0 means the last one.
    nth: frozenset[tuple[int, int]]
    #: Whether each time of day is due once (*fixed*), or whenever the clock shows it (*wildcard*).
    fixed: bool

    def next(self, after: datetime, zone: tzinfo) -> datetime | None:
        """Return the first due time later than *after* (aware), in UTC; None if it is never due again."""
        if not self.fixed:
            return self._next(after.astimezone(UTC), zone)
        wall = self._next(after.astimezone(zone).replace(tzinfo=UTC, fold=0), UTC)
        while wall is not None and (due := _first(wall, zone)) <= after:
            wall = self._next(wall, UTC)
        return None if wall is None else due

    def _next(self, after: datetime, zone: tzinfo) -> datetime | None:
        time = after.replace(second=0, microsecond=0) + MINUTE
        end = time + HORIZON
        while time < end:
            local = time.astimezone(zone)
            steps = list(self._steps(local))
            if not steps:
                return time
            # Take the longest step without a change of the clock: after a change it would end at another local time.
            offset = local.utcoffset()
            steady = (step for step in steps if (time + step).astimezone(zone).utcoffset() == offset)
            time += next(steady, MINUTE)
        return None

    def _steps(self, local: datetime) -> Iterator[timedelta]:
        """Yield steps from a time that does not match, the longest first. No matching time is skipped by them."""
        clock = timedelta(hours=local.hour, minutes=local.minute)
        if local.month not in self.months:
            left = calendar.monthrange(local.year, local.month)[1] - local.day + 1
            yield timedelta(days=left) - clock
        if local.month not in self.months or not self._has_day(local.date()):
            yield timedelta(days=1) - clock
            yield timedelta(minutes=60 - local.minute)
        elif local.hour not in self.hours:
            yield timedelta(hours=_following(self.hours, local.hour, 24)) - clock
            yield timedelta(minutes=60 - local.minute)
        elif local.minute not in self.minutes:
            yield timedelta(minutes=_following(self.minutes, local.minute, 60) - local.minute)
        else:
            return
        yield MINUTE

    def _has_day(self, day: date) -> bool:
        last = calendar.monthrange(day.year, day.month)[1]
        if day.day not in self.days and not (self.last_day and day.day == last):
            return False
        weekday = day.isoweekday() % 7
        return (
            weekday in self.weekdays
            or (weekday, (day.day + 6) // 7) in self.nth
            or ((weekday, 0) in self.nth and day.day + 7 > last)
        )


@functools.lru_cache(maxsize=4096)
def parse(expression: str) -> Crontab:
    """
    Parse an expression.

    Raises:
        ValueError: The text is not a crontab expression.
    """
    fields = expression.split()
    if len(fields) != 5:
        raise ValueError(f"a crontab has five fields, not {len(fields)}: minute hour day-of-month month day-of-week")
    minute, hour, day, month, weekday = fields
    days = [part for part in day.split(",") if part.upper() != "L"]
    nth = [_NTH.fullmatch(part) for part in weekday.split(",")]
    weekdays = [part for part, match in zip(weekday.split(","), nth, strict=True) if match is None]
    return Crontab(
        minutes=tuple(sorted(_numbers(minute.split(","), 0, 59))),
        hours=tuple(sorted(_numbers(hour.split(","), 0, 23))),
        days=frozenset(_numbers(days, 1, 31)),
        last_day=len(days) < len(day.split(",")),
        months=frozenset(_numbers(month.split(","), 1, 12, MONTHS)),
        weekdays=frozenset(_numbers(weekdays, 0, 6, DAYS)),
        nth=frozenset((_number(match[1], 0, 6, DAYS) % 7, int(match[2] or 0)) for match in nth if match),
        fixed=not (minute.startswith("*") or hour.startswith("*")),
    )


@functools.lru_cache(maxsize=4096)
def check(expression: str) -> None:
    """
    Check that a text is a crontab expression, and is due at some time.

    Raises:
        ValueError: It is not an expression, or it is never due.
    """
    if parse(expression).next(datetime(2000, 1, 1, tzinfo=UTC), UTC) is None:
        raise ValueError("this crontab is never due")


def _numbers(parts: list[str], low: int, high: int, names: tuple[str, ...] = ()) -> Iterator[int]:
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None or (match[3] and (int(match[3]) == 0 or (match[1] and not match[2]))):
            raise ValueError(f"not a part of a crontab: {part!r}")
        first = low if match[1] is None else _number(match[1], low, high, names)
        last = high if match[1] is None else _number(match[2] or match[1], low, high, names)
        span = last - first if last >= first else last - first + high - low + 1  # a range that wraps, such as fri-mon
        for number in range(first, first + span + 1, int(match[3] or 1)):
            yield low + (number - low) % (high - low + 1)


def _number(text: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if names and text[:3].lower() in names and text.isalpha():
        return names.index(text[:3].lower()) + low
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"not a number: {text!r}")
    number = int(text)
    if not low <= number <= high + (names is DAYS):  # 7 is Sunday
        raise ValueError(f"{number} is not within {low} and {high}")
    return number


def _following(numbers: tuple[int, ...], number: int, end: int) -> int:
    return next((each for each in numbers if each > number), end)


def _first(wall: datetime, zone: tzinfo) -> datetime:
    """Return when the clock first shows this local time. If the clock skips it, return the first time after it."""
    while True:
        time = wall.replace(tzinfo=zone).astimezone(UTC)
        if time.astimezone(zone).replace(tzinfo=UTC, fold=0) == wall:
            return time
        wall += MINUTE

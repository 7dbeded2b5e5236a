"""When a crontab is due, over a year in zones whose clocks are moved by an hour, by half an hour, and not at all."""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tornado_celery_bridge.schedules.crontab import parse

ZONES = ("Europe/Paris", "America/Los_Angeles", "Australia/Lord_Howe", "Asia/Kolkata")
MINUTE = timedelta(minutes=1)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
#: A day before and after each change of 2026.
CHANGES = {
    "Europe/Paris": [(3, 29), (10, 25)],
    "America/Los_Angeles": [(3, 8), (11, 1)],
    "Australia/Lord_Howe": [(4, 5), (10, 4)],
    "Asia/Kolkata": [(3, 29)],
    "Pacific/Chatham": [(4, 5), (9, 27)],
    "Antarctica/Troll": [(3, 29), (10, 25)],
    "America/Santiago": [(4, 5), (9, 6)],
}


def due(expression: str, zone: str, first: datetime, last: datetime) -> Iterator[datetime]:
    after: datetime | None = first - MINUTE
    while (after := parse(expression).next(after, ZoneInfo(zone))) is not None and after < last:  # type: ignore[arg-type]
        yield after


def minutes(zone: str, first: datetime, last: datetime, step: int = 1) -> Iterator[tuple[datetime, datetime]]:
    """Yield each minute that passes, or one in so many, and what a clock on the wall shows."""
    time = first
    while time < last:
        yield time, time.astimezone(ZoneInfo(zone))
        time += step * MINUTE


@pytest.mark.parametrize("zone", ZONES)
def test_every_minute_of_a_year(zone: str) -> None:
    """No minute is left out or comes twice, looked at once an hour."""
    for time, _ in minutes(zone, NEW_YEAR, NEW_YEAR + timedelta(days=365), step=60):
        assert parse("* * * * *").next(time, ZoneInfo(zone)) == time + MINUTE


@pytest.mark.parametrize("zone", ZONES)
def test_every_hour_of_a_year(zone: str) -> None:
    """Paris has 8,760 full hours in a year; Lord Howe skips one, 02:00 in October, and has none twice."""
    end = NEW_YEAR + timedelta(days=365)
    found = list(due("0 * * * *", zone, NEW_YEAR, end))
    assert found == [time for time, local in minutes(zone, NEW_YEAR, end, 30) if local.minute == 0]
    gaps = {(later - earlier) // MINUTE for earlier, later in itertools.pairwise(found)}
    assert gaps == ({60, 90} if zone == "Australia/Lord_Howe" else {60})


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("time", ["00:00", "01:30", "02:00", "02:15", "02:30", "03:00", "23:59"])
def test_every_day_of_a_year_once(zone: str, time: str) -> None:
    hour, minute = map(int, time.split(":"))
    start = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    found = [
        each.astimezone(ZoneInfo(zone)) for each in due(f"{minute} {hour} * * *", zone, start, start + timedelta(365))
    ]
    assert len({each.date() for each in found}) == len(found) == 365
    other = [each.strftime("%m-%d %H:%M") for each in found if each.strftime("%H:%M") != time]
    skipped = {
        ("Europe/Paris", "02:00"): ["03-29 03:00"],
        ("Europe/Paris", "02:15"): ["03-29 03:00"],
        ("Europe/Paris", "02:30"): ["03-29 03:00"],
        ("America/Los_Angeles", "02:00"): ["03-08 03:00"],
        ("America/Los_Angeles", "02:15"): ["03-08 03:00"],
        ("America/Los_Angeles", "02:30"): ["03-08 03:00"],
        ("Australia/Lord_Howe", "02:00"): ["10-04 02:30"],
        ("Australia/Lord_Howe", "02:15"): ["10-04 02:30"],
    }
    assert other == skipped.get((zone, time), [])
    assert all(each.fold == 0 for each in found)  # of a time that comes twice, the first


def _every(step: int) -> Callable[[int], bool]:
    return lambda number: number % step == 0


@pytest.mark.parametrize("zone", CHANGES)
@pytest.mark.parametrize(
    ("expression", "hour", "minute"),
    [
        ("*/20 * * * *", _every(1), _every(20)),
        ("30 * * * *", _every(1), lambda minute: minute == 30),
        ("0 */2 * * *", _every(2), lambda minute: minute == 0),
        ("0 */3 * * *", _every(3), lambda minute: minute == 0),
        ("*/15 1-3 * * *", lambda hour: 1 <= hour <= 3, _every(15)),
        ("* 2 * * *", lambda hour: hour == 2, _every(1)),
    ],
)
def test_a_wildcard_is_due_whenever_the_clock_shows_it(
    zone: str, expression: str, hour: Callable[[int], bool], minute: Callable[[int], bool]
) -> None:
    for month, day in CHANGES[zone]:
        first = datetime(2026, month, day, tzinfo=UTC) - timedelta(days=2)
        last = first + timedelta(days=4)
        shown = [time for time, local in minutes(zone, first, last) if hour(local.hour) and minute(local.minute)]
        assert list(due(expression, zone, first, last)) == shown


def test_celery_10107() -> None:
    """The hour that comes twice has two runs."""
    first_one, second_one = datetime(2026, 11, 1, 8, tzinfo=UTC), datetime(2026, 11, 1, 9, tzinfo=UTC)
    assert parse("0 * * * *").next(first_one, ZoneInfo("America/Los_Angeles")) == second_one


def test_two_times_that_are_skipped_are_due_once() -> None:
    found = due("0,15,45 2 29 3 *", "Europe/Paris", NEW_YEAR, NEW_YEAR + timedelta(days=365))
    assert list(found) == [datetime(2026, 3, 29, 1, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 0 L * *", ["01-31", "02-28", "03-31"]),
        ("0 0 29,L 2 *", ["02-28"]),
        ("0 0 * * mon#2", ["01-12", "02-09", "03-09"]),
        ("0 0 * * friL", ["01-30", "02-27", "03-27"]),
        ("0 0 1-7 * mon", ["01-05", "02-02", "03-02"]),  # both have to fit, as in Celery
        ("0 0 */10 JAN *", ["01-01", "01-11", "01-21", "01-31"]),
        ("0 0 1-7 1 fri-mon", ["01-02", "01-03", "01-04", "01-05"]),
        ("0 0 1-7 1 7", ["01-04"]),
        ("0 0 1-3 january 0-7", ["01-01", "01-02", "01-03"]),
        ("0 0 1-7 1 5-7", ["01-02", "01-03", "01-04"]),
    ],
)
def test_days(expression: str, days: list[str]) -> None:
    found = due(expression, "UTC", NEW_YEAR, NEW_YEAR + timedelta(days=90))
    assert [each.strftime("%m-%d") for each in found] == days


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "* * * * 8",
        ),
        *("*/0 * * * *", "5/10 * * * *", "1- * * * *", "a * * * *", "* * * * mon#6", "* * * foo *", ", * * * *"),
        *("-1 * * * *", "*/2/3 * * * *", "1,,2 * * * *", "٣ * * * *"),
    ],
)
def test_what_is_none(expression: str) -> None:
    with pytest.raises(ValueError, match=r"crontab|number|within|fields"):
        parse(expression)


def test_rarely_and_never() -> None:
    assert parse("0 0 29 2 *").next(datetime(2097, 1, 1, tzinfo=UTC), UTC) == datetime(2104, 2, 29, tzinfo=UTC)
    assert parse("0 0 29 2 mon").next(NEW_YEAR, UTC) == datetime(2044, 2, 29, tzinfo=UTC)
    assert parse("0 0 30 2 *").next(NEW_YEAR, UTC) is None

"""What an entry may say, and when it is due."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.schedules.entries import entry
from tornado_celery_bridge.schedules import Entry, InvalidEntry

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "a\nb"}),
        ("name", {"name": "a\ud800"}),
        ("name", {"name": "x" * 201}),
        ("task", {"task": 7}),
        ("input", {"input": "text"}),
        ("input", {"input": {"a": object()}}),
        ("options.task_id", {"options": {"task_id": "mine"}}),
        ("options.countdown", {"options": {"countdown": 5}}),
        ("crontab", {"crontab": "* * * *"}),
        ("crontab", {"crontab": "0 0 30 2 *"}),
        ("crontab", {"crontab": 5}),
        ("crontab", {"crontab": "* * * * *", "interval": 5}),
        ("crontab", {"interval": None}),
        ("interval", {"interval": 0}),
        ("interval", {"interval": float("inf")}),
        ("interval", {"interval": True}),
        ("once", {"once": "tomorrow"}),
        ("once", {"once": "2026-01-01T00:00:00"}),
        ("timezone", {"timezone": "Europe/Atlantis"}),
        ("timezone", {"timezone": "../../etc/passwd"}),
        ("timezone", {"timezone": 5}),
        ("end", {"start": "2026-02-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"}),
        ("jitter", {"jitter": -1}),
        ("max_runs", {"max_runs": 0}),
        ("overlap", {"overlap": "sometimes"}),
        ("misfire", {"misfire": ["all"]}),
        ("misfire_cap", {"misfire_cap": None}),
        ("tags", {"tags": "tag"}),
        ("tags", {"tags": [[]]}),
        ("colour", {"colour": "red"}),
        ("solar", {"solar": {"event": "noon"}}),
    ],
)
def test_what_can_not_be_meant(field: str, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidEntry) as raised:
        entry(**given)
    assert [name for name, _ in raised.value.faults] == [field], raised.value


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidEntry) as raised:
        Entry.of_mapping(
            {
                "args": [1],
                "task": 7,
                "crontab": "* * * *",
                "timezone": "Europe/Atlantis",
                "start": "tomorrow",
                "end": NOON.replace(tzinfo=None),
                "options": {"eta": 5},
                "grace": timedelta(minutes=1),
                "solar": [],
            }
        )
    faults = dict(raised.value.faults)
    assert set(faults) == {
        "args",
        "name",
        "start",
        "task",
        "options.eta",
        "end",
        "grace",
        "crontab",
        "timezone",
        "solar",
    }
    assert faults["args"].startswith("an entry has `input`")
    assert faults["grace"] == "this should be a number of seconds, 60, and not a timedelta"
    assert str(raised.value).startswith("args: an entry has `input`: ")


@pytest.mark.parametrize("stored", [b"", b"{", b"[]", b"7", b"{}", b'{"name": "e"}', b"\xff", b"[" * 100_000])
def test_what_is_no_entry(stored: bytes) -> None:
    with pytest.raises(InvalidEntry):
        Entry.decode(stored)


def test_it_is_stored() -> None:
    full = entry(
        input=["é", {"a": [1.5, None]}],
        options={"queue": "q", "priority": 3},
        interval=90.5,
        anchor=NOON,
        start=NOON,
        end=NOON + HOUR,
        paused_until=NOON,
        enabled=False,
        tags=["x"],
        overlap="queue",
    )
    assert Entry.decode(full.encode()) == full
    assert Entry.decode(entry().encode()) == entry()


def test_interval() -> None:
    every = entry(interval=90, anchor=NOON)
    assert every.next_run(NOON - HOUR) == NOON
    assert every.next_runs(NOON, 2) == [NOON + timedelta(seconds=90), NOON + timedelta(seconds=180)]
    assert entry(interval=60).begun(1_000).next_run(NOON) == NOON + timedelta(seconds=1)
    assert entry(interval=60, start=NOON).begun(1_000).next_run(NOON - HOUR) == NOON


def test_once_start_end_and_pause() -> None:
    once = entry(once=NOON)
    assert once.next_run(NOON - HOUR) == NOON
    assert once.next_run(NOON) is None
    exact = entry(once=NOON + timedelta(microseconds=1_234_567)).next_run(NOON)
    assert exact == NOON + timedelta(milliseconds=1_234)
    assert entry(once=NOON + timedelta(microseconds=1_234_567)).next_run(exact) is None
    assert entry(start=NOON, end=NOON + HOUR).next_runs(NOON - HOUR * 24, 5) == [NOON, NOON + HOUR]
    assert entry(paused_until=NOON).next_run(NOON - HOUR * 24) == NOON
    assert entry(enabled=False).next_run(NOON) is None
    assert entry(paused_until="9999-12-31T23:59:59Z").next_run(NOON) is None


def test_jitter_is_the_same_each_time() -> None:
    late = entry(jitter=10)
    delays = [late.due(slot) - slot for slot in range(0, 3_600_000, 3_600)]
    assert delays == [late.due(slot) - slot for slot in range(0, 3_600_000, 3_600)]
    assert 0 <= min(delays) < 500
    assert 9_500 < max(delays) <= 10_000
    assert entry().due(5) == 5


def test_solar() -> None:
    pytest.importorskip("ephem")
    sunrise = entry(solar={"event": "sunrise", "lat": 48.85, "lon": 2.35})
    first, second = sunrise.next_runs(NOON, 2)
    assert first.strftime("%m-%d %H") == "05-02 04"
    assert timedelta(hours=23) < second - first < timedelta(hours=25)

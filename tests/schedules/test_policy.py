"""Which runs begin, when some were missed or the last one is unfinished."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.schedules.entries import entry
from tornado_celery_bridge.schedules.entry import to_ms
from tornado_celery_bridge.schedules.policy import Decision, State, decide

ZERO = to_ms(datetime(2026, 5, 1, tzinfo=UTC))
MINUTE = 60_000


def decided(minutes: float, state: dict[str, Any] | None = None, **fields: Any) -> Decision:
    """Return what is decided so many minutes after the run of an entry of every minute was due; times in minutes."""
    found = decide(entry(crontab="* * * * *", **fields), State(ZERO, **(state or {})), ZERO + round(minutes * MINUTE))
    minute = [(slot - ZERO) // MINUTE for slot in found.runs]
    return found._replace(runs=minute, next=None if found.next is None else (found.next - ZERO) // MINUTE)


RUNNING = {"last": "j", "last_state": "PROGRESS"}
FAILED = {"last": "j", "last_state": "FAILURE"}


@pytest.mark.parametrize(
    ("minutes", "fields", "runs", "following", "why"),
    [
        (0, {}, [0], 1, ""),
        (0.5, {}, [0], 1, ""),
        (5.5, {}, [5], 6, "missed"),
        (60 * 24 * 365, {}, [60 * 24 * 365], 60 * 24 * 365 + 1, "missed"),
        (5.5, {"misfire": "skip"}, [5], 6, "missed"),
        (5.5, {"misfire": "skip", "grace": 20}, [], 6, "missed"),
        (0.5, {"misfire": "skip", "grace": 20}, [], 1, "missed"),
        (5.5, {"misfire": "all"}, [0, 1, 2, 3, 4, 5], 6, ""),
        (5.5, {"misfire": "all", "misfire_cap": 2}, [4, 5], 6, "missed"),
        (1000, {"misfire": "all", "misfire_cap": 300}, list(range(701, 1001)), 1001, "missed"),
        (5.5, {"misfire": "all", "max_runs": 4}, [0, 1, 2, 3], None, ""),
        (5.5, {"misfire": "all", "overlap": "skip"}, [0], 6, "skipped"),
        (5.5, {"misfire": "all", "overlap": "queue"}, [0], 1, ""),
        (5.5, {"misfire": "all", "overlap": "cancel"}, [5], 6, "skipped"),
    ],
)
def test_misfire(minutes: float, fields: dict[str, Any], runs: list[int], following: int | None, why: str) -> None:
    found = decided(minutes, **fields)
    assert (found.runs, found.next, found.why) == (runs, following, why)


def test_overlap() -> None:
    assert decided(0, RUNNING).runs == [0]
    assert decided(0, RUNNING, overlap="skip") == Decision([], 1, 0, "", why="skipped")
    assert decided(0, RUNNING, overlap="queue") == Decision([], 0, 0, "", hold=True)
    assert decided(0, RUNNING, overlap="cancel") == Decision([0], 1, 0, "", cancel=True)
    assert decided(0, {"last": "forgotten"}, overlap="skip").runs == [0]
    for policy in ("skip", "queue", "cancel"):
        assert decided(0, FAILED, overlap=policy) == Decision([0], 1, 1, "j")


def test_one_that_waited_its_turn_was_not_missed() -> None:
    assert decided(5.5, {"held": True}, overlap="queue", misfire="skip", grace=1).runs == [0]


def test_failures_in_a_row() -> None:
    assert decided(0, FAILED | {"failures": 1}, pause_after=3).failures == 2
    assert decided(0, FAILED | {"failures": 1, "counted": "j"}, pause_after=3).failures == 1
    assert decided(0, FAILED | {"failures": 2}, pause_after=3) == Decision([], None, 3, "j", why="paused")
    assert decided(0, {"last": "j", "last_state": "SUCCESS", "failures": 2}, pause_after=3).failures == 0
    assert decided(0, RUNNING | {"failures": 2}, pause_after=3) == Decision([0], 1, 2, "")


def test_the_last_of_its_runs() -> None:
    assert decided(0, {"runs": 2}, max_runs=3) == Decision([0], None, 0, "")
    assert decided(0, {"runs": 5}, max_runs=3).runs == []
    assert decided(0, once=None, end=datetime(2026, 5, 1, tzinfo=UTC)).next is None


def test_jitter_puts_a_run_off() -> None:
    late = entry(crontab="* * * * *", jitter=200, misfire="all")
    now = ZERO + 10 * MINUTE
    found = decide(late, State(ZERO), now)
    assert found.runs == [slot for slot in range(ZERO, now + 1, MINUTE) if late.due(slot) <= now]
    assert found.next is not None
    assert found.next > found.runs[-1]

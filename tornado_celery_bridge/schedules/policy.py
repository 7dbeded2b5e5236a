"""Decides about an entry that is due: which of its runs begin, and when it is due next. These are pure functions."""

from collections.abc import Iterator
from typing import NamedTuple

from celery import states

from tornado_celery_bridge.schedules.entry import Entry, InvalidEntry, from_ms, to_ms

#: Milliseconds after which an entry that waits for the end of its last run is checked again.
HOLD = 500


class State(NamedTuple):
    """What has happened to an entry so far. Times are milliseconds since 1970."""

    #: The slot that is due.
    slot: int
    #: How many runs the entry has had.
    runs: int = 0
    #: How many of its latest jobs have failed in a row.
    failures: int = 0
    #: The job of the last run, and its state; both are empty if there is none.
    last: str = ""
    last_state: str = ""
    #: The last job that ``failures`` takes into account.
    counted: str = ""
    #: Whether the entry waits for the end of its last run.
    held: bool = False


class Decision(NamedTuple):
    """What beat does about an entry."""

    #: The slots whose runs begin, the oldest first.
    runs: list[int]
    #: The next slot; None if the entry is never due again.
    next: int | None
    #: As in :class:`State`, with what is known now.
    failures: int
    counted: str
    #: Whether beat cancels the unfinished last run.
    cancel: bool = False
    #: Whether the entry waits for the end of its last run.
    hold: bool = False
    #: Why some due runs do not begin: ``missed`` | ``skipped`` | ``paused``; empty if all begin.
    why: str = ""


def next_slot(entry: Entry, after: int) -> int | None:
    """
    Return the first slot after a time, or None.

    Raises:
        InvalidEntry: The entry's next time is not later. Beat would loop for ever.
    """
    found = entry.next_run(from_ms(after))
    if found is None:
        return None
    if to_ms(found) <= after:
        raise InvalidEntry("entry", f"it is due at {found} again")
    return to_ms(found)


def decide(entry: Entry, state: State, now: int) -> Decision:
    """Return what beat does about an entry that is due."""
    finished = state.last_state in states.READY_STATES
    unfinished = bool(state.last_state) and not finished
    failures, counted = state.failures, state.counted
    if finished and state.last != counted:
        failures, counted = failures + 1 if state.last_state == states.FAILURE else 0, state.last
    if entry.pause_after is not None and failures >= entry.pause_after:
        return Decision([], None, failures, counted, why="paused")
    if unfinished and entry.overlap == "queue":
        return Decision([], state.slot, failures, counted, hold=True)

    due = _newest(entry, state.slot, now, entry.misfire_cap if entry.misfire == "all" else 1)
    following = next_slot(entry, due[-1])
    runs, why = due, "missed" if due[0] != state.slot else ""
    if state.held and entry.misfire != "all":
        runs, why = [state.slot], ""  # it was not missed: it waited for the last run
    elif entry.misfire == "skip" and now - entry.due(due[-1]) > entry.grace * 1000:
        runs, why = [], "missed"

    if entry.overlap == "queue" and len(runs) > 1:
        runs, following = runs[:1], runs[1]
    elif entry.overlap == "skip" and (unfinished or len(runs) > 1):
        runs, why = [] if unfinished else runs[:1], "skipped"
    elif entry.overlap == "cancel" and len(runs) > 1:
        runs, why = runs[-1:], "skipped"

    if entry.max_runs is not None:
        runs = runs[: max(0, entry.max_runs - state.runs)]
        if state.runs + len(runs) >= entry.max_runs:
            following = None
    cancel = unfinished and entry.overlap == "cancel" and bool(runs)
    return Decision(runs, following, failures, counted, cancel=cancel, why=why)


def _newest(entry: Entry, first: int, now: int, most: int) -> list[int]:
    """Return the newest slots, from *first* on, that are due now. It does not compute all the older ones."""
    span = 60_000
    while True:
        start = max(first, now - span)
        slots = [first] if start == first else []
        slots += [slot for slot in slots_of(entry, start, now) if entry.due(slot) <= now]
        if start == first or len(slots) >= most:
            return slots[-most:]
        span *= 4


def slots_of(entry: Entry, after: int, until: int) -> Iterator[int]:
    """Yield the slots later than *after* and not later than *until*. Raises as :func:`next_slot` does."""
    while (slot := next_slot(entry, after)) is not None and slot <= until:
        yield slot
        after = slot

"""A schedule entry: which task runs when, and what happens if a run cannot begin on time."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Literal, Self, get_args
from zoneinfo import ZoneInfo

from celery.exceptions import ImproperlyConfigured
from celery.schedules import solar

from tornado_celery_bridge.base import encoding
from tornado_celery_bridge.exceptions import BridgeError
from tornado_celery_bridge.schedules import crontab as _crontab

Overlap = Literal["allow", "skip", "queue", "cancel"]
Misfire = Literal["skip", "once", "all"]

#: Seconds. To run more often, write a loop, not a schedule.
MIN_INTERVAL = 0.1
MAX_NAME, MAX_NOTE, MAX_TAGS, MAX_CAP = 200, 4_000, 20, 1_000
#: Between an owner and a name in an entry's key. Neither of them has it, and a URL need not escape it.
OWNED = "~"
#: Options that an entry may not have, because the scheduler sets them.
RESERVED = frozenset({"task_id", "eta", "countdown"})


class InvalidEntry(BridgeError, ValueError):
    """
    A schedule entry is wrong, or makes no sense. ``field`` says where.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 422

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        #: The name of the entry's field.
        self.field = field


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """
    A schedule entry. Times are aware datetimes, and durations are seconds.

    Exactly one of ``crontab``, ``interval``, ``once`` and ``solar`` says when it is due. The first entry in a time zone
    reads the file of that zone, and a crontab that is rarely due takes some milliseconds to compute. So on an event
    loop, make entries and call their methods in a thread.

    Raises:
        InvalidEntry: A field is wrong, or the entry makes no sense.

    .. versionadded:: 0.1.0
    """

    name: str
    #: The task's name.
    task: str
    #: The task's keyword arguments (a dict) or positional ones (a list).
    input: dict[str, Any] | list[Any] = dataclasses.field(default_factory=dict)
    #: Options of ``apply_async``, except ``task_id``, ``eta`` and ``countdown``.
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    enabled: bool = True

    #: Five fields, as cron has them.
    crontab: str | None = None
    #: Seconds from one run to the next, counted from ``anchor``. Without an anchor, the time when the entry was made.
    interval: float | None = None
    anchor: datetime | None = None
    once: datetime | None = None
    #: ``{"event", "lat", "lon"}``, as in Celery; it needs ``celery[solar]``.
    solar: dict[str, Any] | None = None

    #: The time zone of the crontab, by its IANA name.
    timezone: str = "UTC"
    #: It is not due before *start*, and not after *end*.
    start: datetime | None = None
    end: datetime | None = None
    #: Each run begins up to so many seconds late. The delay of one slot is always the same.
    jitter: float = 0.0
    #: The most runs that the entry may have. Runs on demand do not count.
    max_runs: int | None = None

    #: What happens to a run that is due while the last one is unfinished.
    overlap: Overlap = "allow"
    #: What happens to runs that were missed.
    misfire: Misfire = "once"
    #: With ``misfire="all"``: how many missed runs begin at most.
    misfire_cap: int = 100
    #: With ``misfire="skip"``: a run that is later than so many seconds does not begin.
    grace: float = 60.0
    #: It is not due before this time.
    paused_until: datetime | None = None
    #: After so many failures in a row the entry is halted, until it is resumed.
    pause_after: int | None = None

    #: The owner of the entry and of its jobs; empty if there are no owners.
    owner: str = ""
    #: For people.
    note: str = ""
    #: The tags of the entry and of its jobs.
    tags: list[str] = dataclasses.field(default_factory=list)

    @property
    def key(self) -> str:
        """
        The entry's name among those of all owners, by which it is stored and asked for: ``owner~name``.

        An entry without an owner is stored by its name alone.
        """
        return f"{self.owner}{OWNED}{self.name}" if self.owner else self.name

    def __post_init__(self) -> None:
        for field, is_right, message in self._checks():
            if not is_right:
                raise InvalidEntry(field, message)
        given = [name for name in ("crontab", "interval", "once", "solar") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InvalidEntry("crontab", f"one of crontab, interval, once and solar is needed, not {len(given)}")
        _zone(self.timezone)
        if self.crontab is not None:
            try:
                _crontab.check(self.crontab)
            except ValueError as exc:
                raise InvalidEntry("crontab", str(exc)) from exc
        if self.solar is not None:
            self._event(datetime.now(UTC))
        try:
            self.encode()
        except (TypeError, ValueError) as exc:
            raise InvalidEntry("input", f"JSON does not hold it: {exc}") from exc

    def _checks(self) -> list[tuple[str, bool, str]]:
        name, tags, positive = self.name, self.tags, "this should be a positive number"
        times = {field: getattr(self, field) for field in ("anchor", "once", "start", "end", "paused_until")}
        return [
            ("name", _is_text(name) and len(name) <= MAX_NAME, f"1 to {MAX_NAME} characters, all of them printable"),
            ("name", OWNED not in str(name), f"{OWNED} parts an owner from a name: use another character"),
            ("task", _is_text(self.task), "this should be a task's name"),
            ("input", isinstance(self.input, dict | list), "this should be an object, or a list"),
            ("options", isinstance(self.options, dict), "this should be an object"),
            *(("options", option not in self.options, f"{option} is the schedule's own") for option in RESERVED),
            ("enabled", isinstance(self.enabled, bool), "this should be true or false"),
            ("crontab", self.crontab is None or isinstance(self.crontab, str), "this should be text"),
            ("interval", self.interval is None or _is_number(self.interval, MIN_INTERVAL), f"{MIN_INTERVAL} or more"),
            *((field, _is_time(value), "this should be a time with its zone") for field, value in times.items()),
            ("end", not (self.start and self.end and self.end < self.start), "it is before the start"),
            ("jitter", _is_number(self.jitter, 0), "this should be 0 or more"),
            ("max_runs", _is_count(self.max_runs), positive),
            ("overlap", self.overlap in get_args(Overlap), f"one of {', '.join(get_args(Overlap))}"),
            ("misfire", self.misfire in get_args(Misfire), f"one of {', '.join(get_args(Misfire))}"),
            ("misfire_cap", _is_count(self.misfire_cap) and 0 < (self.misfire_cap or 0) <= MAX_CAP, f"1 to {MAX_CAP}"),
            ("grace", _is_number(self.grace, 0), "this should be 0 or more"),
            ("pause_after", _is_count(self.pause_after), positive),
            ("owner", self.owner == "" or _is_text(self.owner), "this should be printable text"),
            ("owner", OWNED not in str(self.owner), f"{OWNED} parts an owner from a name: use another character"),
            ("note", isinstance(self.note, str) and len(self.note) <= MAX_NOTE, f"at most {MAX_NOTE} characters"),
            ("tags", isinstance(tags, list) and all(map(_is_text, tags)) and len(tags) <= MAX_TAGS, "a list of words"),
        ]

    # When it is due.

    def next_run(self, after: datetime) -> datetime | None:
        """Return the first due time later than *after*, without jitter; None if it is never due again."""
        if not self.enabled:
            return None
        for bound in (self.start, self.paused_until):
            after = after if bound is None else max(after, bound - timedelta(microseconds=1))
        try:
            found = self._next(after)
        except OverflowError:  # after the year 9999
            return None
        return None if found is None or (self.end is not None and found > self.end) else found

    def _next(self, after: datetime) -> datetime | None:
        if self.crontab is not None:
            return _crontab.parse(self.crontab).next(after, _zone(self.timezone))
        if self.interval is not None:
            anchor, every = to_ms(self.anchor or datetime.fromtimestamp(0, UTC)), round(self.interval * 1000)
            times = (to_ms(after) - anchor) // every + 1
            return from_ms(anchor + max(0, times) * every)
        if self.once is not None:
            once = from_ms(to_ms(self.once))  # as exact as a slot; otherwise it would be due again after its own slot
            return once if once > after else None
        return self._next_solar(after)

    def _next_solar(self, after: datetime) -> datetime:
        # Celery's times are exact to the microsecond, and our slots to the millisecond. One second more, so that the
        # same event does not come again as the next one.
        later = after.astimezone(UTC) + timedelta(seconds=1)
        return from_ms(to_ms(later + self._event(later).remaining_estimate(later)))

    def _event(self, now: datetime) -> Any:
        """Return the event as Celery has it. When it comes next is another matter: near a pole that takes 30 ms."""
        given = self.solar or {}
        try:
            return solar(given["event"], given["lat"], given["lon"], nowfun=lambda: now)
        except (KeyError, TypeError, ValueError, ImproperlyConfigured) as exc:
            raise InvalidEntry("solar", str(exc)) from exc

    def due(self, slot: int) -> int:
        """Return when the run of *slot* begins: the slot plus jitter. Both are milliseconds since 1970."""
        spread = round(self.jitter * 1000)
        return slot + (zlib.crc32(f"{self.key}@{slot}".encode()) % (spread + 1) if spread else 0)

    def next_runs(self, after: datetime, count: int) -> list[datetime]:
        """Return the first *count* due times later than *after*, without jitter; fewer if the entry ends."""
        found: list[datetime] = []
        while len(found) < count and (due := self.next_run(after)) is not None:
            found.append(due)
            after = due
        return found

    def begun(self, now: int) -> Self:
        """Return the entry with an anchor if it has an interval: its start, or *now* (milliseconds since 1970)."""
        if self.interval is None or self.anchor is not None:
            return self
        return dataclasses.replace(self, anchor=self.start or from_ms(now))

    # As it is stored.

    def encode(self) -> str:
        """Return the fields that are not empty as JSON."""
        given = {name: getattr(self, name) for name in _FIELDS}
        given |= {name: given[name] and given[name].isoformat() for name in _TIMES}
        return encoding.dumps({name: value for name, value in given.items() if value not in (None, "", [], {})})

    @classmethod
    def decode(cls, stored: bytes | str) -> Self:
        """
        Return the entry that was stored.

        Raises:
            InvalidEntry: The stored text is not an entry.
        """
        try:
            return cls.of_mapping(encoding.loads(stored))
        except InvalidEntry:
            raise
        except Exception as exc:  # the text may hold anything
            raise InvalidEntry("entry", f"not an entry: {exc!r}") from exc

    @classmethod
    def of_mapping(cls, given: Mapping[str, Any]) -> Self:
        """
        Return the entry with these fields. Times may be ISO 8601 texts.

        Raises:
            InvalidEntry: A field is missing, unknown or wrong.
        """
        if not isinstance(given, Mapping):
            raise InvalidEntry("entry", "this should be an object")
        for field in given:
            if field not in _FIELDS:
                raise InvalidEntry(str(field), "an entry has no such field")
        for field in ("name", "task"):
            if field not in given:
                raise InvalidEntry(field, "this is needed")
        times = {field: _time(field, given[field]) for field in _TIMES if isinstance(given.get(field), str)}
        return cls(**{**given, **times})


_FIELDS = tuple(field.name for field in dataclasses.fields(Entry))
_TIMES = ("anchor", "once", "start", "end", "paused_until")


def _time(field: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidEntry(field, str(exc)) from exc


@functools.lru_cache(maxsize=1024)
def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, TypeError, OSError, KeyError) as exc:  # ZoneInfoNotFoundError is a KeyError
        raise InvalidEntry("timezone", f"there is no such time zone: {name!r}") from exc


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()  # half of a surrogate pair is not printable


def _is_number(value: Any, least: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= least


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


def _is_time(value: Any) -> bool:
    return value is None or (isinstance(value, datetime) and value.tzinfo is not None)


_EPOCH = datetime.fromtimestamp(0, UTC)


def to_ms(time: datetime) -> int:
    """Return milliseconds since 1970, rounded down."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def from_ms(ms: int) -> datetime:
    """Return the time that is so many milliseconds after 1970, in UTC."""
    return _EPOCH + timedelta(milliseconds=ms)

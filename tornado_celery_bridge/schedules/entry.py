"""A schedule entry: which task runs when, and what happens if a run cannot begin on time."""

import dataclasses
import difflib
import functools
import math
import zlib
from collections.abc import Mapping, Sequence
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
#: Seconds: 366 days, for jitter and grace; and a hundred of these years, for an interval.
YEAR = 366 * 86_400
MAX_INTERVAL = 100 * YEAR
MAX_NAME, MAX_NOTE, MAX_TAGS, MAX_CAP = 200, 4_000, 20, 1_000
#: Between an owner and a name in an entry's key. Neither of them has it, and a URL need not escape it.
OWNED = "~"
#: Options that an entry may not have, because the scheduler sets them.
RESERVED = frozenset({"task_id", "eta", "countdown"})
#: As an example.
CRON = "0 6 * * *"


#: What says when an entry is due: one of these.
WAYS = ("crontab", "interval", "once", "solar")


class InvalidEntry(BridgeError, ValueError):
    """
    A schedule entry is wrong, or makes no sense. ``faults`` says all of it: pairs of a field's name and a message.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 422

    def __init__(self, field: str, message: str, *others: tuple[str, str]) -> None:
        #: What is wrong: the name of each field (``options.queue`` for what is in one), and what of it.
        self.faults = ((field, message), *others)
        super().__init__("; ".join(f"{field}: {message}" for field, message in self.faults))


def refuse(faults: Sequence[tuple[str, str]]) -> None:
    """
    Refuse an entry that has faults.

    Raises:
        InvalidEntry: It has any.
    """
    if faults:
        (field, message), *others = faults
        raise InvalidEntry(field, message, *others)


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
        faults = [(field, message) for field, is_right, message in self._checks() if not is_right]
        wrong = {field for field, _ in faults}
        given = [way for way in WAYS if getattr(self, way) is not None]
        if len(given) != 1 and wrong.isdisjoint(WAYS):
            faults.append(("crontab", f"one of {', '.join(WAYS)} is needed, not {len(given)}"))
        for field, check in (("timezone", self._zone), ("crontab", self._check_crontab), ("solar", self._event)):
            if field not in wrong:
                try:
                    check()
                except InvalidEntry as exc:
                    faults += exc.faults
        refuse(faults)
        try:
            self.encode()
        except (TypeError, ValueError) as exc:
            raise InvalidEntry("input", f"JSON does not hold it: {exc}") from exc

    def _checks(self) -> list[tuple[str, bool, str]]:
        name, task, tags, positive = self.name, self.task, self.tags, "this should be a positive number"
        options = self.options if isinstance(self.options, dict) else {}
        times = {field: getattr(self, field) for field in ("anchor", "once", "start", "end", "paused_until")}
        interval = MIN_INTERVAL if self.interval is None else self.interval
        seconds = [("interval", interval, MIN_INTERVAL, MAX_INTERVAL)]
        seconds += [("jitter", self.jitter, 0, YEAR), ("grace", self.grace, 0, YEAR)]
        return [
            ("name", _is_text(name) and len(name) <= MAX_NAME, f"1 to {MAX_NAME} characters, all of them printable"),
            ("name", OWNED not in str(name), f"{OWNED} parts an owner from a name: use another character"),
            ("task", _is_text(task), f"this should be a task's name{_named(task)}"),
            (
                "input",
                isinstance(self.input, dict | list),
                "this should be a list of arguments, or an object of them",
            ),
            ("options", isinstance(self.options, dict), "this should be an object"),
            ("options.queue", isinstance(options.get("queue", ""), str), "this should be a queue's name"),
            *((f"options.{each}", each not in options, "this is the schedule's own") for each in sorted(RESERVED)),
            ("enabled", isinstance(self.enabled, bool), "this should be true or false"),
            ("crontab", self.crontab is None or isinstance(self.crontab, str), f"this should be text, as in {CRON!r}"),
            *((field, _is_seconds(value, *bounds), _not_seconds(value, *bounds)) for field, value, *bounds in seconds),
            *((field, _is_time(value), "this should be a time with its zone") for field, value in times.items()),
            ("end", not _is_before(self.end, self.start), "it is before the start"),
            ("max_runs", _is_count(self.max_runs), positive),
            ("overlap", self.overlap in get_args(Overlap), f"one of {', '.join(get_args(Overlap))}"),
            ("misfire", self.misfire in get_args(Misfire), f"one of {', '.join(get_args(Misfire))}"),
            ("misfire_cap", _is_count(self.misfire_cap) and 0 < (self.misfire_cap or 0) <= MAX_CAP, f"1 to {MAX_CAP}"),
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
            return _crontab.parse(self.crontab).next(after, self._zone())
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

    # What may turn out to be wrong.

    def _zone(self) -> tzinfo:
        return _zone(self.timezone)

    def _check_crontab(self) -> None:
        try:
            _crontab.check(self.crontab or CRON)
        except ValueError as exc:
            raise InvalidEntry("crontab", str(exc)) from exc

    def _event(self, now: datetime | None = None) -> Any:
        """Return the event as Celery has it. When it comes next is another matter: near a pole that takes 30 ms."""
        given = self.solar
        if given is None:
            return None
        try:
            return solar(given["event"], given["lat"], given["lon"], nowfun=lambda: now or datetime.now(UTC))
        except KeyError as exc:
            raise InvalidEntry("solar", f"it needs event, lat and lon; {exc} is missing") from exc
        except (TypeError, ValueError, ImproperlyConfigured) as exc:
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
        faults = [(str(field), _no_such_field(field)) for field in given if field not in _FIELDS]
        faults += [(field, "this is needed") for field in ("name", "task") if field not in given]
        fields = {"name": "-", "task": "-"} | {field: value for field, value in given.items() if field in _FIELDS}
        for field in _TIMES:
            if isinstance(text := fields.get(field), str):
                try:
                    fields[field] = datetime.fromisoformat(text)
                except ValueError:
                    faults.append((field, f"not a time: {text[:100]!r}; as in 2027-01-31T06:00:00Z"))
                    fields[field] = _EPOCH if field in WAYS else None
        try:
            entry = cls(**fields)
        except InvalidEntry as exc:
            refuse([*faults, *exc.faults])
            raise
        refuse(faults)
        return entry


_EPOCH = datetime.fromtimestamp(0, UTC)
_FIELDS = tuple(field.name for field in dataclasses.fields(Entry))
_TIMES = ("anchor", "once", "start", "end", "paused_until")


def _no_such_field(name: Any) -> str:
    if name in ("args", "kwargs"):
        return "an entry has `input`: a list of arguments by position, or an object of arguments by name"
    close = difflib.get_close_matches(str(name)[:100], _FIELDS, n=1)
    return "an entry has no such field" + (f"; did you mean {close[0]}?" if close else "")


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


def _named(task: Any) -> str:
    name = getattr(task, "name", None)
    return f", {name!r}" if _is_text(name) else ""


def _is_seconds(value: Any, least: float, most: float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and least <= value <= most


def _not_seconds(value: Any, least: float, most: float) -> str:
    if isinstance(value, timedelta):
        return f"this should be a number of seconds, {value.total_seconds():g}, and not a timedelta"
    return f"this should be a number of seconds, {least:g} to {most:,}"


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


def _is_time(value: Any) -> bool:
    return value is None or (isinstance(value, datetime) and value.tzinfo is not None)


def _is_before(one: Any, other: Any) -> bool:
    """Return whether both are times, and *one* is the earlier; what else they may be is another fault."""
    return bool(one and other and _is_time(one) and _is_time(other) and one < other)


def to_ms(time: datetime) -> int:
    """Return milliseconds since 1970, rounded down."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def from_ms(ms: int) -> datetime:
    """Return the time that is so many milliseconds after 1970, in UTC."""
    return _EPOCH + timedelta(milliseconds=ms)

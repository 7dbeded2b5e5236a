"""
Reads entries from other places: a YAML document, Celery's ``beat_schedule``, RedBeat's keys.

An entry that cannot be used here is left out, with the reason. All others are returned.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from celery import Celery
from celery.exceptions import ImproperlyConfigured
from celery.schedules import crontab, schedule
from kombu.utils.json import dumps as kombu_dumps
from kombu.utils.url import maybe_sanitize_url
from redis import Redis

from tornado_celery_bridge.schedules.entry import Entry, InvalidEntry
from tornado_celery_bridge.schedules.runs import check_entry
from tornado_celery_bridge.schedules.static import entry_of

HEADER = "# Schedule entries. What a field means, and how they are imported: docs/schedules.md.\n"
#: Seconds to wait for an answer of RedBeat's Redis.
TIMEOUT = 5.0


class NotADocument(ValueError):
    """The text is not YAML, or not a list of entries."""


class Found(NamedTuple):
    """What was found."""

    entries: list[Entry]
    #: The reasons why others were left out, by name.
    left_out: dict[str, str]
    #: Where nothing was found, if so, and what to look at.
    nothing: str = ""


def _found(app: Celery, makers: Iterable[tuple[str, Callable[[], Entry]]]) -> Found:
    found = Found([], {})
    for name, make in makers:
        try:
            found.entries.append(_checked(app, make()))
        except Exception as exc:  # one bad entry must not stop the others
            why = str(exc) if isinstance(exc, InvalidEntry) else f"{type(exc).__name__}: {exc}"
            found.left_out[name] = " ".join(why.split())
    return found


def _checked(app: Celery, entry: Entry) -> Entry:
    """Return the entry as beat will read it."""
    check_entry(app, entry)
    return Entry.decode(entry.encode())


# YAML.


def to_document(entries: Iterable[Entry]) -> str:
    """
    Return entries as YAML that :func:`from_document` reads.

    Raises:
        ImproperlyConfigured: PyYAML is not installed.
    """
    document = {"schedules": [to_mapping(entry) for entry in entries]}
    return HEADER + str(_yaml().safe_dump(document, sort_keys=False, allow_unicode=True, width=100))


def to_mapping(entry: Entry) -> dict[str, Any]:
    """Return the fields that do not have their default value, as JSON values."""
    return {name: value for name, value in json.loads(entry.encode()).items() if value != _DEFAULTS[name]}


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Entry)}


def from_document(app: Celery, text: str) -> Found:
    """
    Return the entries of a document. If several have the same name, none of them is returned.

    Raises:
        NotADocument: The text is not such a document.
        ImproperlyConfigured: PyYAML is not installed.
    """
    yaml = _yaml()
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise NotADocument(f"not YAML: {exc}") from exc
    items = document.get("schedules") if isinstance(document, dict) and len(document) == 1 else None
    if not isinstance(items, list):
        raise NotADocument("it should have 'schedules', a list of entries, and nothing else")
    names = [_name_of(item) or f"number {number}" for number, item in enumerate(items, 1)]
    times = Counter(names)
    return _found(app, [(name, partial(_read, item, times[name])) for name, item in zip(names, items, strict=True)])


def _name_of(item: Any) -> str:
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else ""


def _read(item: Any, times: int) -> Entry:
    if times > 1:
        raise InvalidEntry("name", f"there are {times} of this name")
    return Entry.decode(kombu_dumps(item))  # not our own encoding: what the file has as a type is one


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as exc:
        raise ImproperlyConfigured("this needs PyYAML: pip install 'tornado-celery-bridge[yaml]'") from exc
    return yaml


# Celery's settings.


def from_settings(app: Celery) -> Found:
    """Return the entries of an app's ``beat_schedule``."""
    items = app.conf.beat_schedule.items()
    found = _found(app, [(name, partial(entry_of, app, name, each)) for name, each in items])
    return found if items else found._replace(nothing=f"the beat_schedule of {app.main} is empty")


# RedBeat.


def from_redbeat(app: Celery) -> Found:
    """
    Return the entries of RedBeat. The app's settings ``redbeat_redis_url`` (or ``broker_url``) and
    ``redbeat_key_prefix`` say where they are. Entries that RedBeat has from ``beat_schedule`` are left out, because
    beat loads these by itself. An interval keeps the rhythm of its last run.

    Raises:
        RedisError: Redis does not answer.
        ValueError: The URL is not that of a single Redis.
    """
    url = app.conf.get("redbeat_redis_url") or app.conf.broker_url
    prefix = app.conf.get("redbeat_key_prefix") or "redbeat:"
    with Redis.from_url(url, socket_timeout=TIMEOUT, decode_responses=True) as client:
        found = _found(app, list(_redbeat(app, client, prefix)))
        if found.entries or found.left_out:
            return found
        others = {key.removesuffix(":schedule") for key in client.scan_iter("*:schedule", count=1000, _type="zset")}
        told = f"; it has {', '.join(map(repr, sorted(others)))}: which of them is the app's?" if others else ""
        where = f"{maybe_sanitize_url(url)} has no entry of RedBeat's with the redbeat_key_prefix {prefix!r}"
        return found._replace(nothing=where + told)


def _redbeat(app: Celery, client: Redis, prefix: str) -> Iterator[tuple[str, Callable[[], Entry]]]:
    static = {"celery.backend_cleanup", *client.smembers(f"{prefix}:statics")}
    pattern = "".join(f"\\{char}" if char in r"*?[]\^" else char for char in prefix) + "*"
    for key in sorted(client.scan_iter(pattern, count=1000, _type="hash")):
        definition, meta = client.hmget(key, "definition", "meta")
        name = key.removeprefix(prefix)
        if definition is not None and name not in static:
            yield name, partial(_of_redbeat, app, definition, meta or "{}")


def _of_redbeat(app: Celery, definition: bytes | str, meta: bytes | str) -> Entry:
    given = json.loads(definition, object_hook=_time_of_redbeat)
    when = given.pop("schedule")
    kind = when.pop("__type__")
    if kind == "crontab":
        given["schedule"] = crontab(**when)
    elif kind == "interval":
        given["schedule"] = schedule(timedelta(seconds=when["every"]), relative=when["relative"])
        last_run = json.loads(meta, object_hook=_time_of_redbeat).get("last_run_at")
        given |= {"anchor": last_run} if last_run and not when["relative"] else {}
    else:
        raise InvalidEntry("schedule", f"there is nothing here that is like RedBeat's {kind}")
    return entry_of(app, given.pop("name"), given)


def _time_of_redbeat(given: dict[str, Any]) -> Any:
    if given.get("__type__") != "datetime":
        return given
    zone = given.get("timezone", "UTC")
    tz = ZoneInfo(zone) if isinstance(zone, str) else timezone(timedelta(seconds=zone))
    return datetime(**{name: given[name] for name in _TIME}, tzinfo=tz)


_TIME = ("year", "month", "day", "hour", "minute", "second", "microsecond")

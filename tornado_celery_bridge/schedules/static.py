"""Reads the entries of ``beat_schedule``, which are written as in Celery's own settings."""

import dataclasses
import inspect
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, timedelta
from typing import Any

from celery import Celery
from celery.schedules import crontab, schedule, solar
from celery.utils.time import maybe_timedelta

from tornado_celery_bridge.schedules.entry import Entry, InvalidEntry, from_ms

log = logging.getLogger(__name__)


def static_entries(app: Celery) -> list[Entry]:
    """Return the entries in *app*'s configuration. An entry that cannot be used is logged and left out."""
    given = dict(app.conf.beat_schedule)
    if app.conf.result_expires and not app.backend.supports_autoexpire:  # as celery.beat does
        cleanup = {"task": "celery.backend_cleanup", "schedule": crontab("0", "4"), "options": {"expires": 12 * 3600}}
        given.setdefault("celery.backend_cleanup", cleanup)
    found = []
    for name, one in given.items():
        try:
            found.append(entry_of(app, name, one))
        except Exception as exc:  # one bad entry must not stop the others
            log.error("beat_schedule: %s is left out: %s", name, exc)
    return found


def entry_of(app: Celery, name: str, given: Mapping[str, Any]) -> Entry:
    """
    Return an item of ``beat_schedule`` as an entry. Beside Celery's keys, the item may have the fields of
    :class:`Entry`.

    Raises:
        InvalidEntry: The item is wrong, or its kind of schedule is not one of Celery's own.
    """
    rest = dict(given)
    args, kwargs = _list(rest.pop("args", None)), _dict("kwargs", rest.pop("kwargs", None))
    relative, when = bool(rest.pop("relative", False)), rest.pop("schedule", None)
    fields = {} if when is None else _when(app, when, relative)
    options = _dict("options", rest.pop("options", None))
    if isinstance(options.get("expires"), timedelta):
        options["expires"] = options["expires"].total_seconds()
    if args and kwargs:  # a job has either positional or keyword arguments
        task: Any = app.tasks.get(rest.get("task", ""))
        if task is None:
            raise InvalidEntry("args", "there are kwargs as well, and the app does not know the task, nor their names")
        kwargs, args = _by_name(inspect.signature(task.run), args, kwargs), []
    if args or kwargs:
        fields["input"] = args or kwargs
    return Entry.of_mapping({"name": name, "options": options, **fields, **rest})


def _list(given: Any) -> list[Any]:
    if given is not None and not isinstance(given, list | tuple):
        raise InvalidEntry("args", f"this should be a list or a tuple, and {given!r:.100} is none; (1,) has a comma")
    return list(given or ())


def _dict(field: str, given: Any) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise InvalidEntry(field, f"this should be a dict, and {given!r:.100} is none")
    return dict(given or {})


def _by_name(signature: inspect.Signature, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return all arguments of a call by name."""
    named = dict(kwargs)
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
            raise InvalidEntry("args", f"{name!r} has no name to be given by, and there are kwargs as well")
        if kind is not inspect.Parameter.VAR_KEYWORD:
            named[name] = value
    return named


def taking_after(given: Entry, stored: Entry | None) -> Entry:
    """Return the configuration's entry with what the stored one has set: whether it is paused, and its anchor."""
    if stored is None:
        return given
    anchor = given.anchor or (stored.anchor if stored.interval == given.interval else None)
    return dataclasses.replace(given, enabled=stored.enabled, paused_until=stored.paused_until, anchor=anchor)


def _when(app: Celery, when: Any, relative: bool) -> dict[str, Any]:
    if isinstance(when, crontab):
        fields = "minute hour day_of_month month_of_year day_of_week"
        texts = [_field(getattr(when, f"_orig_{name}")) for name in fields.split()]
        return {"crontab": " ".join(texts), "timezone": str(app.timezone)}
    if isinstance(when, solar):
        return {"solar": {"event": when.event, "lat": when.lat, "lon": when.lon}}
    if isinstance(when, schedule):
        relative = relative or when.relative
        when = when.run_every  # type: ignore[attr-defined]
    every = maybe_timedelta(when)
    if not isinstance(every, timedelta):
        raise InvalidEntry("schedule", f"not one of Celery's own: {when!r}")
    return {"interval": every.total_seconds()} | ({"anchor": from_ms(0).astimezone(UTC)} if relative else {})


def _field(given: Any) -> str:
    """Return a field of Celery's crontab, which may be a number, text or a set of numbers, as text."""
    if isinstance(given, Iterable) and not isinstance(given, str):
        return ",".join(map(str, sorted(given)))
    return "".join(str(given).split())

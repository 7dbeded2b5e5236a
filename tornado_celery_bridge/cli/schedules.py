"""
``tcb schedules -A proj``: shows, changes, exports and imports an app's schedule entries.

Ends with 0; with 1 if it can't be done now, or not all of it; with 2 if what was given makes no sense; with 78 if the
app can't be used.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from celery import Celery
from celery.app.utils import find_app
from celery.exceptions import ImproperlyConfigured, QueueNotFound
from redis import RedisError

from tornado_celery_bridge.exceptions import BridgeError
from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.ledger.checks import is_installed
from tornado_celery_bridge.schedules import sources as _sources
from tornado_celery_bridge.schedules.entry import Entry, InvalidEntry
from tornado_celery_bridge.schedules.schedules import BackfillTooLarge, Run, Scheduled, Schedules
from tornado_celery_bridge.schedules.static import taking_after

NOT_ALL, USAGE_ERROR = 1, 2
#: Entries that are read at a time, and runs that are shown.
PAGE, SHOWN_RUNS = 500, 10


class _Wrong(Exception):
    """What was given makes no sense."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        app = _load(options.app)
        return asyncio.run(_do(app, options))
    except (_Wrong, InvalidEntry, BackfillTooLarge) as exc:
        _say(f"schedules: {exc}")
        return USAGE_ERROR
    except ImproperlyConfigured as exc:
        _say(f"schedules: {exc}")
        return os.EX_CONFIG
    except (BridgeError, QueueNotFound, RedisError, OSError) as exc:
        _say(f"schedules: {exc}")
        return NOT_ALL


async def _do(app: Celery, options: argparse.Namespace) -> int:
    ledger = await asyncio.to_thread(Ledger, app)
    try:
        return int(await options.run(Schedules(ledger, app), options, app) or 0)
    finally:
        await ledger.close()


def _load(name: str) -> Celery:
    """
    Return the app that ``celery -A name`` would find, with its tasks.

    Raises:
        ImproperlyConfigured: There is none, or it has no schedules of this kind.
    """
    app = _find(name)
    if not is_installed(app):
        raise ImproperlyConfigured(
            f"the workers of {name} keep no jobs, and its beat has other schedules: call "
            "tornado_celery_bridge.worker.install(app) beside the app"
        )
    return app


def _find(name: str) -> Celery:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        app: Any = find_app(name)
    except (ImportError, AttributeError) as exc:
        raise ImproperlyConfigured(f"no Celery app was found at {name}: {exc}") from exc
    if not isinstance(app, Celery):
        raise ImproperlyConfigured(f"{name} is not a Celery app")
    app.loader.import_default_modules()
    return app


# Looking.


async def _list(schedules: Schedules, *_: Any) -> None:
    rows = [("name", "task", "when", "next run", "runs", "state")]
    for one in await _all(schedules):
        entry = one.entry
        rows.append((entry.name, entry.task, _when(entry), _time(one.next_run), str(one.runs), _state(one)))
    for name, why in (await schedules.quarantined()).items():
        rows.append((name, "-", "-", "-", "-", f"set aside: {why}"))
    _table(rows)
    leader = await schedules.leader()
    _say("No beat leads: nothing is run." if leader is None else f"Beat {leader} leads.")


async def _show(schedules: Schedules, options: argparse.Namespace, _: Celery) -> None:
    one = await schedules.get(options.name)
    fields = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in _sources.to_mapping(one.entry).items()
    }
    fields |= {"version": str(one.version), "state": _state(one), "next run": _time(one.next_run)}
    fields |= {"runs": str(one.runs), "failures": str(one.failures), "from": _origin(one)}
    _table(fields.items())
    if runs := await schedules.runs(options.name, limit=SHOWN_RUNS):
        print()
        _table([("slot", "decided", "job", "state"), *map(_run_row, runs)])


def _run_row(run: Run) -> tuple[str, ...]:
    state = run.why if run.job_id is None else run.job.state if run.job else "forgotten"
    return "on demand" if run.slot is None else _time(run.slot), _time(run.at), run.job_id or "-", state


async def _next(schedules: Schedules, options: argparse.Namespace, _: Celery) -> None:
    zone = (await schedules.get(options.name)).entry.timezone
    times = await schedules.next_runs(options.name, options.count)
    if zone == "UTC":
        _table([("UTC",), *((_time(time),) for time in times)])
    else:
        local = [time.astimezone(ZoneInfo(zone)).isoformat(" ", "seconds") for time in times]
        _table([("UTC", zone), *zip(map(_time, times), local, strict=True)])


# Changing.


async def _run(schedules: Schedules, options: argparse.Namespace, _: Celery) -> None:
    job_id = await schedules.run(options.name)
    _say(f"{options.name} runs now, as the job")
    print(job_id)


async def _pause(schedules: Schedules, options: argparse.Namespace, _: Celery) -> None:
    until = options.until and _aware(options.until, (await schedules.get(options.name)).entry)
    await schedules.pause(options.name, until=until)
    _say(f"{options.name} is paused" + (f" until {_time(until)}." if until else "."))


async def _resume(schedules: Schedules, options: argparse.Namespace, _: Celery) -> None:
    _say(f"{options.name} goes on; its next run: {_time((await schedules.resume(options.name)).next_run)}")


async def _delete(schedules: Schedules, options: argparse.Namespace, _: Celery) -> None:
    await schedules.delete(options.name)
    _say(f"{options.name} is deleted.")


async def _backfill(schedules: Schedules, options: argparse.Namespace, _: Celery) -> None:
    entry = (await schedules.get(options.name)).entry
    since, until = _aware(options.since, entry), _aware(options.until or datetime.now(UTC), entry)
    made = await schedules.backfill(options.name, since, until, dry_run=options.dry_run)
    jobs = made.job_ids or ["-"] * len(made.slots)
    _table([("slot", "job"), *zip(map(_time, made.slots), jobs, strict=True)])
    _say(f"{len(made.slots)} runs" + (" would begin: this was a dry run." if options.dry_run else " begin."))


# Export and import.


async def _export(schedules: Schedules, options: argparse.Namespace, _: Celery) -> None:
    entries = [one.entry for one in await _all(schedules) if not one.static]
    text = _sources.to_document(entries)
    if options.file is None:
        sys.stdout.write(text)
    else:
        await asyncio.to_thread(options.file.write_text, text, "utf-8")
    _say(f"{len(entries)} entries; those of beat_schedule are where that is.")
    for name, why in (await schedules.quarantined()).items():
        _say(f"{name!r} is left out, as nobody can use it: {why}")


class Change(NamedTuple):
    """What an import does about one entry."""

    verb: str
    name: str
    detail: str = ""
    entry: Entry | None = None
    #: That it has to have; None for any.
    version: int | None = None


async def _import(schedules: Schedules, options: argparse.Namespace, app: Celery) -> int:
    found = await asyncio.to_thread(_found, options, app)
    stored = {one.entry.name: one for one in await _all(schedules)}
    aside = await schedules.quarantined()
    changes = [_change(entry, stored, entry.name in aside) for entry in found.entries]
    changes += [Change("left out", name, why) for name, why in found.left_out.items()]
    if options.prune:
        gone = stored.keys() - {change.name for change in changes}
        changes += [
            Change("deleted", name, version=stored[name].version) for name in sorted(gone) if not stored[name].static
        ]
    for change in changes:
        if not options.dry_run:
            await _apply(schedules, change)
        if change.verb != "unchanged":
            print(_shown(f"{change.verb:<9} {change.name}" + (f": {change.detail}" if change.detail else "")))
        if change.entry is not None and change.entry.task not in app.tasks:
            _say(f"{change.name}: the app has no task {change.entry.task!r}")
    counts = {verb: sum(change.verb == verb for change in changes) for verb in _VERBS}
    _say(", ".join(f"{count} {verb}" for verb, count in counts.items()) + ".")
    if options.dry_run:
        _say("This was a dry run: nothing is written.")
    return NOT_ALL if counts["left out"] else 0


_VERBS = ("created", "changed", "unchanged", "deleted", "left out")


def _found(options: argparse.Namespace, app: Celery) -> _sources.Found:
    if options.from_redbeat:
        try:
            return _sources.from_redbeat(app)
        except ValueError as exc:
            raise ImproperlyConfigured(f"redbeat_redis_url: {exc}") from exc
    if options.from_app:
        return _sources.from_settings(_find(options.from_app))
    try:
        text = sys.stdin.read() if str(options.file) == "-" else options.file.read_text("utf-8")
        found = _sources.from_document(app, text)
    except (OSError, UnicodeDecodeError, _sources.NotADocument) as exc:
        raise _Wrong(f"{options.file}: {exc}") from exc
    if found.left_out:  # all that is in a file, or nothing
        faults = "".join(f"\n  {name}: {why}" for name, why in found.left_out.items())
        raise _Wrong(f"{options.file}: nothing is imported, for this is wrong:{faults}")
    return found


def _change(entry: Entry, stored: Mapping[str, Scheduled], is_aside: bool) -> Change:
    """Return what is to be done so that an entry is as it should be."""
    before = stored.get(entry.name)
    if before is not None and before.static:
        return Change("left out", entry.name, "it is beat_schedule's: change it there")
    if before is not None and entry.anchor is None:
        entry = dataclasses.replace(entry, anchor=taking_after(entry, before.entry).anchor)
    fields = _sources.to_mapping(entry)
    if before is not None and (old := _sources.to_mapping(before.entry)) == fields:
        return Change("unchanged", entry.name)
    if entry.enabled and entry.next_run(datetime.now(UTC)) is None:
        return Change("left out", entry.name, "it is never due again")
    if before is None:
        return Change("changed" if is_aside else "created", entry.name, entry=entry)
    different = ", ".join(name for name in {**old, **fields} if old.get(name) != fields.get(name))
    return Change("changed", entry.name, different, entry, before.version)


async def _apply(schedules: Schedules, change: Change) -> None:
    if change.verb == "created" and change.entry is not None:
        await schedules.create(change.entry)
    elif change.verb == "changed" and change.entry is not None:
        await schedules.replace(change.entry, version=change.version)
    elif change.verb == "deleted":
        await schedules.delete(change.name, version=change.version)


# How it is shown.


async def _all(schedules: Schedules) -> list[Scheduled]:
    found: list[Scheduled] = []
    while page := await schedules.find(after=found[-1].entry.name if found else "", limit=PAGE):
        found += page
    return found


def _when(entry: Entry) -> str:
    if entry.crontab is not None:
        return entry.crontab + ("" if entry.timezone == "UTC" else f" {entry.timezone}")
    if entry.interval is not None:
        return f"every {entry.interval:g} s"
    if entry.once is not None:
        return f"once, {_time(entry.once)}"
    return "{event} at {lat:g}, {lon:g}".format(**(entry.solar or {}))


def _state(one: Scheduled) -> str:
    if one.halted:
        return f"halted: {one.halted}"
    if not one.entry.enabled:
        return "paused"
    if one.next_run is None:
        return "over"
    until = one.entry.paused_until
    return f"paused until {_time(until)}" if until and until > datetime.now(UTC) else "on"


def _origin(one: Scheduled) -> str:
    return "beat_schedule" if one.static else "run time"


def _time(time: datetime | None) -> str:
    return "-" if time is None else time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _aware(time: datetime, entry: Entry) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=ZoneInfo(entry.timezone))


def _table(rows: Iterable[Sequence[str]]) -> None:
    rows = [[_shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _shown(text: str) -> str:
    """Return text on one line, with nothing that a terminal would obey."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# What there is to say.


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tcb schedules",
        description="An app's schedule entries: see docs/schedules.md.",
    )
    default = os.environ.get("CELERY_APP")
    parser.add_argument("-A", "--app", default=default, required=not default, help="as celery has it; or CELERY_APP")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def add(name: str, run: Any, text: str, *, named: bool = True) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.set_defaults(run=run)
        if named:
            action.add_argument("name", help="the entry's")
        return action

    add("list", _list, "show all entries", named=False)
    add("show", _show, f"show an entry, and what became of its last {SHOWN_RUNS} runs")
    following = add("next", _next, "show when an entry is due next")
    following.add_argument("-n", "--count", type=_count, default=10, metavar="N", help="so many times; 10")
    add("run", _run, "have an entry run now, and print the job's id")
    pause = add("pause", _pause, "have an entry not be due")
    pause.add_argument("--until", type=_moment, metavar="TIME", help="or else until it is resumed")
    add("resume", _resume, "have a paused or halted entry be due again")
    add("delete", _delete, "remove an entry; its jobs go on")
    export = add("export", _export, "write the entries made at run time as YAML", named=False)
    export.add_argument("file", nargs="?", type=Path, metavar="FILE", help="standard output, if there is none")
    _add_import(add("import", _import, "create and change entries by a file, or by what others have", named=False))
    backfill = add("backfill", _backfill, "run each slot of a past time once, but for those that have run")
    backfill.add_argument("--since", type=_moment, required=True, metavar="TIME", help="the first slot may be then")
    backfill.add_argument("--until", type=_moment, metavar="TIME", help="the last one is before then; now")
    backfill.add_argument("--dry-run", action="store_true", help="only show the slots")
    return parser


def _add_import(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", nargs="?", type=Path, metavar="FILE", help="as exported; - is standard input")
    source.add_argument("--from-app", metavar="APP", help="the beat_schedule of a Celery app")
    source.add_argument("--from-redbeat", action="store_true", help="RedBeat's, by the app's redbeat_… settings")
    parser.add_argument("--prune", action="store_true", help="delete all others that were made at run time")
    parser.add_argument("--dry-run", action="store_true", help="only show what would change")


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000:
        raise argparse.ArgumentTypeError("should be from 1 to 1,000")
    return number


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"not a time: {text!r}; as in 2027-01-31T06:00, in the entry's time zone, or 2027-01-31T06:00Z"
        ) from None


if __name__ == "__main__":
    sys.exit(main())

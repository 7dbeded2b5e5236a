"""
``tcb schedules``: shows, changes, exports and imports the schedule entries of an app.

Ends with 0; with 1 if it can't be done now, or not all of it; with 2 if what was given is wrong; with 78 if the app
can't be used.
"""

import asyncio
import dataclasses
import functools
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import click
from celery import Celery
from celery.exceptions import ImproperlyConfigured, QueueNotFound
from redis import RedisError

from tornado_celery_bridge.base.app import load_celery_app
from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.cli import tables
from tornado_celery_bridge.cli.options import app as app_option
from tornado_celery_bridge.exceptions import BridgeError
from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.ledger.checks import is_installed
from tornado_celery_bridge.schedules import sources
from tornado_celery_bridge.schedules.entry import Entry, InvalidEntry
from tornado_celery_bridge.schedules.schedules import BackfillTooLarge, Run, Scheduled, Schedules
from tornado_celery_bridge.schedules.static import taking_after

#: The exit status if not all that was asked for could be done.
NOT_ALL = 1
#: Entries that are read at a time, and runs that are shown.
PAGE, SHOWN_RUNS = 500, 10


def moment(value: str | datetime) -> datetime:
    """Return a time, with or without its zone."""
    try:
        return value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except ValueError as exc:
        raise click.BadParameter(
            f"not a time: {value!r}; as in 2027-01-31T06:00, in the entry's time zone, or 2027-01-31T06:00Z"
        ) from exc


class Wrong(click.ClickException):
    """What was given is wrong."""

    exit_code = 2


@click.group()
@app_option
def schedules() -> None:
    """
    Show, change, export and import schedule entries: see docs/schedules.md.

    \b
    tcb schedules -A proj list
    tcb schedules -A proj next nightly -n 3
    tcb schedules -A proj export schedules.yaml
    """


def action(function: Callable[..., Awaitable[int | None]]) -> click.Command:
    """
    Make a command of the group, whose docstring and options are those of *function*.

    The function is given the app's :class:`Schedules`, the app, and the options. It returns the exit status, 0 if None.
    """

    @functools.wraps(function)
    def run(**options: Any) -> int:
        try:
            return asyncio.run(_with_schedules(function, options))
        except (InvalidEntry, BackfillTooLarge) as exc:
            raise Wrong(str(exc)) from exc
        except (BridgeError, QueueNotFound, RedisError, OSError) as exc:
            raise click.ClickException(str(exc)) from exc

    return schedules.command(function.__name__.strip("_"))(app_option(run))


async def _with_schedules(function: Callable[..., Awaitable[int | None]], options: Mapping[str, Any]) -> int:
    app = await asyncio.to_thread(_load)
    ledger = await asyncio.to_thread(Ledger, app)
    try:
        return await function(Schedules(ledger, app), app, **options) or 0
    finally:
        await ledger.close()


def _load() -> Celery:
    """
    Return the app with its tasks.

    Raises:
        SettingsError: There is none, or it has no schedules of this kind.
    """
    name = Settings.from_environment().celery_app
    app = _find(name)
    if not is_installed(app):
        raise SettingsError(
            f"the workers of {name} keep no jobs, and its beat has other schedules: call "
            "tornado_celery_bridge.worker.install(app) beside the app"
        )
    return app


def _find(name: str) -> Celery:
    return load_celery_app(name)


NAME = click.argument("name")


# Looking.


@action
async def list_(schedules: Schedules, _: Celery) -> None:
    """Show all entries."""
    rows = [("name", "task", "when", "next run", "runs", "state")]
    for one in await _all(schedules):
        entry = one.entry
        rows.append((entry.key, entry.task, _when(entry), _time(one.next_run), str(one.runs), _state(one)))
    for name, why in (await schedules.quarantined()).items():
        rows.append((name, "-", "-", "-", "-", f"set aside: {why}"))
    tables.write(rows)
    beat = await schedules.beat()
    _say(beat.hint or f"Beat {beat.leader} leads.")


@action
@NAME
async def show(schedules: Schedules, _: Celery, name: str) -> None:
    """Show an entry, and its last 10 runs."""
    one = await schedules.get(name)
    fields = {
        field: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for field, value in sources.to_mapping(one.entry).items()
    }
    fields |= {"version": str(one.version), "state": _state(one), "next run": _time(one.next_run)}
    fields |= {"runs": str(one.runs), "failures": str(one.failures), "from": _origin(one)}
    tables.write(fields.items())
    if runs := await schedules.runs(name, limit=SHOWN_RUNS):
        click.echo()
        tables.write([("slot", "decided", "job", "state"), *map(_run_row, runs)])


def _run_row(run: Run) -> tuple[str, ...]:
    state = run.why if run.job_id is None else run.job.state if run.job else "forgotten"
    return "on demand" if run.slot is None else _time(run.slot), _time(run.at), run.job_id or "-", state


@action
@NAME
@click.option("-n", "--count", type=click.IntRange(1, 1_000), default=10, show_default=True, help="How many times.")
async def next_(schedules: Schedules, _: Celery, name: str, count: int) -> None:
    """Show when an entry is due next."""
    zone = (await schedules.get(name)).entry.timezone
    times = await schedules.next_runs(name, count)
    if zone == "UTC":
        tables.write([("UTC",), *((_time(time),) for time in times)])
    else:
        local = [time.astimezone(ZoneInfo(zone)).isoformat(" ", "seconds") for time in times]
        tables.write([("UTC", zone), *zip(map(_time, times), local, strict=True)])


# Changing.


@action
@NAME
async def run(schedules: Schedules, _: Celery, name: str) -> None:
    """Run an entry now, and print the id of the job."""
    job_id = await schedules.run(name)
    _say(f"{name} runs now, as the job")
    click.echo(job_id)


@action
@NAME
@click.option("--until", type=moment, metavar="TIME", help="When it goes on; if left out, when it is resumed.")
async def pause(schedules: Schedules, _: Celery, name: str, until: datetime | None) -> None:
    """Pause an entry: it is not due."""
    until = until and _aware(until, (await schedules.get(name)).entry)
    await schedules.pause(name, until=until)
    _say(f"{name} is paused" + (f" until {_time(until)}." if until else "."))


@action
@NAME
async def resume(schedules: Schedules, _: Celery, name: str) -> None:
    """Let a paused or halted entry be due again."""
    _say(f"{name} goes on; its next run: {_time((await schedules.resume(name)).next_run)}")


@action
@NAME
async def delete(schedules: Schedules, _: Celery, name: str) -> None:
    """Remove an entry; its jobs go on."""
    await schedules.delete(name)
    _say(f"{name} is deleted.")


@action
@NAME
@click.option("--since", type=moment, metavar="TIME", required=True, help="The first slot is then, or later.")
@click.option("--until", type=moment, metavar="TIME", help="The last slot is before then; now if left out.")
@click.option("--dry-run", is_flag=True, help="Only show the slots.")
async def backfill(
    schedules: Schedules, _: Celery, name: str, since: datetime, until: datetime | None, dry_run: bool
) -> None:
    """Run each slot of a past time once, except those that have run."""
    entry = (await schedules.get(name)).entry
    since, until = _aware(since, entry), _aware(until or datetime.now(UTC), entry)
    made = await schedules.backfill(name, since, until, dry_run=dry_run)
    jobs = made.job_ids or ["-"] * len(made.slots)
    tables.write([("slot", "job"), *zip(map(_time, made.slots), jobs, strict=True)])
    _say(f"{len(made.slots)} runs" + (" would begin: this was a dry run." if dry_run else " begin."))


# Export and import.


@action
@click.argument("file", required=False, type=click.Path(path_type=Path))
async def export(schedules: Schedules, _: Celery, file: Path | None) -> None:
    """Write the entries that were made at run time to FILE, or to standard output, as YAML."""
    entries = [one.entry for one in await _all(schedules) if not one.static]
    text = sources.to_document(entries)
    if file is None:
        click.echo(text, nl=False)
    else:
        await asyncio.to_thread(file.write_text, text, "utf-8")
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


@action
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--from-app", metavar="APP", help="Take the beat_schedule of a Celery app.")
@click.option("--from-redbeat", is_flag=True, help="Take RedBeat's entries, by the app's redbeat_... settings.")
@click.option("--prune", is_flag=True, help="Delete all others that were made at run time.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
async def import_(
    schedules: Schedules,
    app: Celery,
    file: Path | None,
    from_app: str | None,
    from_redbeat: bool,
    prune: bool,
    dry_run: bool,
) -> int:
    """Create and change entries by a FILE as exported (- is standard input), or by what others have."""
    if sum(map(bool, (file, from_app, from_redbeat))) != 1:
        raise click.UsageError("give one of FILE, --from-app and --from-redbeat")
    found = await asyncio.to_thread(_found, app, file, from_app)
    if file is None and not found.entries and not found.left_out:  # with --prune it would delete all
        raise click.ClickException(f"nothing is imported: {found.nothing}")
    stored = {one.entry.key: one for one in await _all(schedules)}
    aside = await schedules.quarantined()
    changes = [_change(entry, stored, entry.key in aside) for entry in found.entries]
    changes += [Change("left out", name, why) for name, why in found.left_out.items()]
    if file is not None and found.left_out:  # all that is in a file, or nothing
        faults = "".join(f"\n  {change.name}: {change.detail}" for change in changes if change.verb == "left out")
        raise Wrong(f"{file}: nothing is imported, for this is wrong:{faults}")
    if prune:
        gone = stored.keys() - {change.name for change in changes}
        changes += [
            Change("deleted", name, version=stored[name].version) for name in sorted(gone) if not stored[name].static
        ]
    for change in changes:
        if not dry_run:
            await _apply(schedules, change)
        if change.verb != "unchanged":
            click.echo(
                tables.shown(f"{change.verb:<9} {change.name}" + (f": {change.detail}" if change.detail else ""))
            )
        if change.entry is not None and change.entry.task not in app.tasks:
            _say(f"{change.name}: the app has no task {change.entry.task!r}")
    counts = {verb: sum(change.verb == verb for change in changes) for verb in _VERBS}
    _say(", ".join(f"{count} {verb}" for verb, count in counts.items()) + ".")
    if dry_run:
        _say("This was a dry run: nothing is written.")
    return NOT_ALL if counts["left out"] else 0


_VERBS = ("created", "changed", "unchanged", "deleted", "left out")


def _found(app: Celery, file: Path | None, from_app: str | None) -> sources.Found:
    if from_app:
        return sources.from_settings(_find(from_app))
    if file is None:
        try:
            return sources.from_redbeat(app)
        except ValueError as exc:
            raise ImproperlyConfigured(f"redbeat_redis_url: {exc}") from exc
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
        return sources.from_document(app, text)
    except (OSError, UnicodeDecodeError, sources.NotADocument) as exc:
        raise Wrong(f"{file}: {exc}") from exc


def _change(entry: Entry, stored: Mapping[str, Scheduled], is_aside: bool) -> Change:
    """Return what is to be done so that an entry is as it should be."""
    before = stored.get(entry.key)
    if before is not None and before.static:
        return Change("left out", entry.key, "it is beat_schedule's: change it there")
    if before is not None and entry.anchor is None:
        entry = dataclasses.replace(entry, anchor=taking_after(entry, before.entry).anchor)
    fields = sources.to_mapping(entry)
    if before is not None and (old := sources.to_mapping(before.entry)) == fields:
        return Change("unchanged", entry.key)
    if entry.enabled and entry.next_run(datetime.now(UTC)) is None:
        return Change("left out", entry.key, "it is never due again")
    if before is None:
        return Change("changed" if is_aside else "created", entry.key, entry=entry)
    different = ", ".join(name for name in {**old, **fields} if old.get(name) != fields.get(name))
    return Change("changed", entry.key, different, entry, before.version)


async def _apply(schedules: Schedules, change: Change) -> None:
    if change.verb == "created" and change.entry is not None:
        await schedules.create(change.entry)
    elif change.verb == "changed" and change.entry is not None:
        await schedules.replace(change.entry, version=change.version)
    elif change.verb == "deleted":
        await schedules.delete(change.name, version=change.version)


# How it is shown.


async def _all(schedules: Schedules) -> list[Scheduled]:
    page = await schedules.find(limit=PAGE)
    found = page.schedules
    while page.cursor is not None:
        page = await schedules.find(limit=PAGE, cursor=page.cursor)
        found += page.schedules
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


def _say(text: str) -> None:
    click.echo(text, err=True)

"""
``tcb limits``: shows and changes the limits of tasks at run time, and switches tasks off and on.

Ends with 0; with 1 if it can't be done now; with 2 if what was given is wrong; with 78 if the app can't be used.
"""

import asyncio
import functools
import getpass
from collections.abc import Awaitable, Callable
from typing import Any

import click
from click.core import ParameterSource
from redis import RedisError

from tornado_celery_bridge.cli import tables
from tornado_celery_bridge.cli.client import Wrong
from tornado_celery_bridge.cli.deployment import load
from tornado_celery_bridge.cli.options import app as app_option
from tornado_celery_bridge.exceptions import BridgeError
from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.ledger.limits import LimitTaken, Use

#: What takes back a bound, and what click says of an option that is not there.
NONE, DEFAULT = "none", ParameterSource.DEFAULT


@click.group()
@app_option
def limits() -> None:
    """
    Change how many jobs of a task run at once or begin in a time, at run time.

    \b
    tcb limits -A proj list
    tcb limits -A proj task proj.export --max-concurrency 2 --max-rate 10/m
    tcb limits -A proj off proj.export --reason "the shop is closed"
    tcb limits -A proj share heavy proj.export proj.import --max-concurrency 3
    """


def action(function: Callable[..., Awaitable[None]]) -> click.Command:
    """Make a command of the group, whose docstring and options are those of *function*; it gets the ledger first."""

    @functools.wraps(function)
    def run(**options: Any) -> int:
        try:
            asyncio.run(_with_ledger(function, options))
        except (ValueError, LimitTaken) as exc:
            raise Wrong(str(exc)) from exc
        except (BridgeError, RedisError) as exc:
            raise click.ClickException(str(exc)) from exc
        return 0

    return limits.command(function.__name__.strip("_"))(app_option(run))


async def _with_ledger(function: Callable[..., Awaitable[None]], options: dict[str, Any]) -> None:
    app = await asyncio.to_thread(load)
    ledger = await asyncio.to_thread(Ledger, app)
    try:
        await function(ledger, **options)
    finally:
        await ledger.close()


def _most(text: str) -> int | None:
    """Return how many may run at once; None for ``none``."""
    if text == NONE:
        return None
    if not text.isdecimal():
        raise click.BadParameter(f"not a number: {text!r}; {NONE} goes back to what the code says")
    return int(text)


def _rate(text: str) -> str | None:
    return None if text == NONE else text


concurrency = click.option(
    "--max-concurrency", type=_most, metavar="N", help="How many may run at once; 0 lets none begin."
)
rate = click.option("--max-rate", type=_rate, metavar="RATE", help="How many may begin in a time: 10/s, 30/m.")
TASK = click.argument("task")


def _given(**bounds: Any) -> dict[str, Any]:
    """Return the bounds that the command line names, ``none`` included."""
    context = click.get_current_context()
    return {name: bound for name, bound in bounds.items() if context.get_parameter_source(name) != DEFAULT}


@action
async def list_(ledger: Ledger) -> None:
    """Show what limits the tasks, and how many jobs run and wait."""
    found = await ledger.limits.all()
    rows = [("limit", "of", "at once", "rate", "running", "waiting", "state")]
    for name, its in found.tasks.items():
        bounds = (
            _told(its.max_concurrency, its.code.max_concurrency),
            _told(its.max_rate, its.code.interval and f"{1 / its.code.interval:g}/s"),
        )
        state = f"off: {its.off.reason}" if its.off else f"under {its.limit}" if its.limit else "on"
        for use in its.uses or [Use(None, 0, 0)]:
            rows.append((name, use.key or "all", *bounds, str(use.running), str(use.waiting), state))
    for one in found.named:
        bounds = (_told(one.max_concurrency), _told(one.max_rate))
        rows.append((one.name, ", ".join(one.tasks), *bounds, str(one.use.running), str(one.use.waiting), "shared"))
    tables.write(rows)


def _told(*bounds: Any) -> str:
    return next((str(bound) for bound in bounds if bound is not None), "-")


@action
@TASK
@concurrency
@rate
async def task(ledger: Ledger, task: str, **bounds: Any) -> None:
    """Change the limits of a task; "none" goes back to what its code says. What is left out stays."""
    changes = _given(**bounds)
    if not changes:
        raise Wrong("nothing to change: give --max-concurrency, --max-rate or both")
    await ledger.limits.set_task(task, by=getpass.getuser(), **changes)


@action
@TASK
@click.option("--reason", required=True, help="What whoever submits a job is told.")
async def off(ledger: Ledger, task: str, reason: str) -> None:
    """Take no new jobs of a task. Jobs that were accepted before run."""
    await ledger.limits.set_task(task, enabled=False, reason=reason, by=getpass.getuser())


@action
@TASK
async def on(ledger: Ledger, task: str) -> None:
    """Take jobs of a task again."""
    await ledger.limits.set_task(task, enabled=True)


@action
@click.argument("name")
@click.argument("tasks", nargs=-1, required=True)
@concurrency
@rate
async def share(ledger: Ledger, name: str, tasks: tuple[str, ...], **bounds: Any) -> None:
    """Make or replace a limit over several tasks together."""
    await ledger.limits.set_named(name, tasks, **bounds)


@action
@click.argument("name")
async def remove(ledger: Ledger, name: str) -> None:
    """Remove a limit over several tasks."""
    if not await ledger.limits.remove_named(name):
        raise Wrong(f"there is no limit {name!r}")

"""Many jobs at once: the options that say which, and what is done with all of them."""

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from tornado_celery_bridge.cli import tables
from tornado_celery_bridge.cli.client import Client, connect

F = TypeVar("F", bound=Callable[..., Any])

#: The states that jobs are listed by.
STATES = ("PENDING", "STARTED", "RETRY", "SUCCESS", "IGNORED", "FAILURE", "REVOKED")
#: What was done, by the action.
DONE = {"cancel": "cancelled", "retry": "submitted again", "delete": "deleted"}


def known_tasks(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Return the tasks whose names begin with *begun*, for the shell; none if they can't be had."""
    try:
        client = connect()
    except Exception:
        return []
    try:
        return [CompletionItem(name) for name in client.tasks() if name.startswith(begun)]
    except Exception:
        return []
    finally:
        client.close()


def state(text: str) -> str:
    """Return a state, in capitals."""
    if text.upper() not in STATES:
        raise click.BadParameter(f"not a state: {text!r}; they are {', '.join(STATES)}")
    return text.upper()


def moment(text: str) -> str:
    """Return a time with its zone, as RFC 3339 has it."""
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except ValueError as exc:
        raise click.BadParameter(f"not a time: {text!r}; as in 2027-01-31T06:00 or 2027-01-31T06:00Z") from exc


_SECONDS = click.FloatRange(0)
#: The options that say which jobs. Their names are the parameters of ``GET /v1/jobs``.
_WHICH = (
    click.option("--task", metavar="NAME", shell_complete=known_tasks, help="Only jobs of this task."),
    click.option("--state", type=state, metavar="STATE", help="Only jobs in this state; STARTED is all that run."),
    click.option("--tag", multiple=True, metavar="WORD", help="Only jobs that have it; may be repeated."),
    click.option("--queue", metavar="NAME", help="Only jobs of this queue."),
    click.option("--worker", metavar="NAME", help="Only jobs whose last attempt this worker began."),
    click.option("--owner", metavar="NAME", help="Only this owner's jobs; for admins."),
    click.option("--since", type=moment, metavar="TIME", help="Only jobs that were accepted since."),
    click.option("--until", type=moment, metavar="TIME", help="Only jobs that were accepted before."),
    click.option("--min-duration", type=_SECONDS, metavar="SECONDS", help="Only jobs that ran for so long, or longer."),
    click.option("--min-wait", type=_SECONDS, metavar="SECONDS", help="Only jobs that waited for so long, once due."),
    click.option("--min-attempt", type=click.IntRange(1), metavar="N", help="Only jobs that have begun so often."),
    click.option("--search", "q", metavar="WORDS", help="Only jobs with these words in input, result, error or tags."),
    click.option("--dead", is_flag=True, help="Only jobs that were given up, as worker after worker was lost."),
)


def which(function: F) -> F:
    """Give a command the options that say which jobs."""
    for option in reversed(_WHICH):
        function = option(function)
    return function


def many(function: F) -> F:
    """Give a command that acts on jobs by their ids, or by what they are, its options."""
    for option in (
        click.option("--yes", is_flag=True, help="Do it without asking, to all jobs that the options say."),
        click.option("--dry-run", is_flag=True, help="Only count them."),
    ):
        function = option(function)
    return which(click.argument("job_ids", metavar="[ID...]", nargs=-1)(function))


def narrowed_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return which of the options that say which jobs were given, as the API has them."""
    known = {name: [*each] if isinstance(each, tuple) else each for name, each in given.items()}
    return {name: each for name, each in known.items() if each is not None and each is not False and each != []}


def act(
    client: Client,
    action: str,
    narrowed: dict[str, Any],
    *,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    terminate: bool = False,
) -> int:
    """
    Do something with all jobs that fit: count them, ask, and follow the operation to its end. Return the exit status.

    Args:
        client: Where they are.
        action: ``cancel``, ``retry`` or ``delete``.
        narrowed: Which jobs.
        yes: Do it without asking.
        dry_run: Only count.
        as_json: Write the operation at its end, as JSON.
        terminate: End the processes that run them, too.
    """
    if not narrowed:
        raise click.UsageError("the ids of jobs, or options that say which, please: --task, --state, --since…")
    if not yes or dry_run:
        *_, counted = client.operate(action, narrowed, dry_run=True, terminate=False)
        if dry_run:
            _show(counted, f"would be {DONE[action]}", as_json)
            return 0
        _show(counted, f"would be {DONE[action]}", False)
        if not counted["acted"]:
            return 0
        if not sys.stdin.isatty():
            raise click.UsageError("--yes does it; without a terminal nobody can be asked")
        click.confirm(f"{action.capitalize()} {counted['acted']:,} jobs?", abort=True, err=True)
    operation: dict[str, Any] = {}
    try:
        for operation in client.operate(action, narrowed, dry_run=False, terminate=terminate):
            if sys.stderr.isatty():
                current, total = operation["progress"]["current"], operation["progress"]["total"]
                click.echo(f"\r\x1b[K{action}: looked at {current:,} of {total:,}", nl=False, err=True)
    except KeyboardInterrupt:
        if operation:
            click.echo(f"\ntcb: the operation {operation['id']} goes on where a service runs", err=True)
        raise
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    _show(operation, DONE[action], as_json)
    return 0 if operation["state"] == "DONE" else 1


def _show(operation: dict[str, Any], done: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(operation, ensure_ascii=False))
        return
    left = [f"{many:,} {reason}" for reason, many in sorted(operation["skipped"].items())]
    told = f"{operation['acted']:,} of {operation['matched']:,} {done}"
    told += f"; left out: {', '.join(left)}" if left else ""
    click.echo(told + (f" ({tables.shown(operation['detail'])})" if operation["detail"] else ""))

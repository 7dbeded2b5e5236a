"""``tcb run``, ``watch``, ``list``, ``cancel``, ``retry``, ``change``, ``delete``: jobs from a terminal and scripts."""

import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import click

from tornado_celery_bridge.cli import tables
from tornado_celery_bridge.cli.client import Client, Event, Job, NotInTime, connect
from tornado_celery_bridge.cli.many import act, known_tasks, many, moment, narrowed_of, which
from tornado_celery_bridge.cli.options import app, setting

#: How a command that waits ends, by the state in which the job ended; 0 for one that succeeded.
STATUSES = {"FAILURE": 3, "REVOKED": 4}
#: The exit status if the job has not ended in time, and if something of what was asked for was not done.
NOT_IN_TIME, NOT_ALL = 5, 1
#: Seconds that a countdown may have, as in the HTTP API.
LONGEST_COUNTDOWN = 366 * 86_400
#: The most cells of a bar.
WIDEST = 30

COLOURS = {"SUCCESS": "green", "FAILURE": "red", "REVOKED": "yellow", "RETRY": "yellow", "STARTED": "cyan"}
ENDS = "Ends with 0 if the job succeeded, 3 if it failed, 4 if it was cancelled or expired, 5 if --timeout passed."

url = setting("--url", variable="TCB_URL", metavar="URL", help="The service; without it, the app's ledger")
as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON, one object a line.")
timeout_option = click.option(
    "--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Wait no longer. The job goes on."
)


def command(name: str, epilog: str | None = None) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a command whose function gets the client of the service, or of the ledger, first."""

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def run(**options: Any) -> int:
            with connected() as client:
                return function(client, **options) or 0

        return click.command(name, epilog=epilog)(app(url(run)))

    return decorate


@contextmanager
def connected() -> Iterator[Client]:
    client = connect()
    try:
        yield client
    finally:
        client.close()


def given_input(text: str) -> Any:
    """Return the input that was given: JSON, or @FILE with JSON, or - for standard input."""
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text("utf-8")
        value = json.loads(text)
    except (OSError, UnicodeDecodeError) as exc:
        raise click.BadParameter(str(exc)) from exc
    except ValueError as exc:
        raise click.BadParameter(f"""not JSON: {exc}; as in '{{"x": 1}}' or '[1, 2]'""") from exc
    if not isinstance(value, dict | list):
        raise click.BadParameter("an object of named arguments or a list of positional ones, please")
    return value


@command("run", epilog=f"With --wait: {ENDS[0].lower()}{ENDS[1:]}")
@click.argument("task", shell_complete=known_tasks)
@click.option(
    "--input",
    "given",
    type=given_input,
    default="{}",
    metavar="JSON",
    help="Its arguments; @FILE reads a file, - stdin.",
)
@click.option("--queue", metavar="NAME", help="Where it goes; where the app sends it if left out.")
@click.option("--priority", type=click.IntRange(0, 9), help="9 is the most urgent.")
@click.option(
    "--countdown", type=click.FloatRange(0, LONGEST_COUNTDOWN), metavar="SECONDS", help="It begins no sooner."
)
@click.option("--tag", "tags", multiple=True, metavar="WORD", help="To find it by; may be repeated.")
@click.option("--wait", is_flag=True, help="Wait for its end, show its progress, and write its result.")
@timeout_option
@as_json
def run(
    client: Client,
    task: str,
    given: Any,
    tags: tuple[str, ...],
    wait: bool,
    timeout: float | None,
    as_json: bool,
    **options: Any,
) -> int:
    """
    Run TASK as a job, and write the job's id; with --wait, its result.

    \b
    tcb run tasks.text.count_words --input '{"text": "to be or not to be"}' --wait
    tcb run proj.add --input '[2, 3]'            # positional arguments
    ID=$(tcb run proj.report --input @month.json)   # and then: tcb watch $ID
    """
    _check_timeout(timeout, wait)
    asked = {name: value for name, value in {**options, "tags": list(tags)}.items() if value not in (None, [])}
    job = client.submit(task, given, asked)
    if wait:
        return _wait(client, [job["id"]], timeout, as_json)
    if as_json:
        _write(job)
    else:
        click.echo(job["id"])
    return 0


@command("watch", epilog=ENDS)
@click.argument("job_id", metavar="ID")
@timeout_option
@click.option("--json", "as_json", is_flag=True, help="Write each event as JSON, one object a line.")
def watch(client: Client, job_id: str, timeout: float | None, as_json: bool) -> int:
    """
    Follow a job to its end: its states, log lines, items and progress, from the beginning.

    They go to standard error, and the result to standard output.

    \b
    tcb watch 5f4d2c9e-…
    tcb watch 5f4d2c9e-… --json | jq -r 'select(.event == "log").data.message'
    """
    if not as_json:
        return _wait(client, [job_id], timeout, as_json=False)
    try:
        for event in client.follow(job_id, timeout):
            _write({"event": event.kind, "data": event.data})
    except NotInTime:
        return NOT_IN_TIME
    return STATUSES.get(client.get(job_id)["state"], 0)


@command("list")
@which
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="At most so many.")
@as_json
def list_(client: Client, limit: int, as_json: bool, **narrowed: Any) -> None:
    """
    List jobs, newest first.

    \b
    tcb list --state FAILURE --since 2027-01-31
    tcb list --queue slow --min-wait 600 --json | jq -r .id
    """
    jobs = client.find(limit, **narrowed_of(narrowed))
    if as_json:
        for job in jobs:
            _write(job)
        return
    rows = [("id", "task", "state", "queue", "accepted", "ran", "input")]
    for job in jobs:
        times = (_time(job["created_at"]), _ran(job))
        rows.append((job["id"], job["task"], _state(job), job["queue"], *times, job["arguments"] or "-"))
    tables.write(rows)


@command("cancel")
@many
@click.option("--terminate", is_flag=True, help="End its process too, if it does not end by itself within seconds.")
@as_json
def cancel(client: Client, job_ids: tuple[str, ...], terminate: bool, as_json: bool, **more: Any) -> int:
    """
    Cancel jobs: one that has not begun never will, and one that runs is told.

    A job that has ended stays as it is. Name the jobs by their ids, or by options: then all that fit are counted first.
    Ends with 1 if there is no such job.

    \b
    tcb cancel 5f4d2c9e-… --terminate
    tcb cancel --task proj.mail --state PENDING
    """
    if job_ids:
        _check_ids(**more)
        return _each(job_ids, functools.partial(client.cancel, terminate=terminate), as_json, _canceled)
    return _all("cancel", client, as_json, terminate=terminate, **more)


def _due(text: str) -> str | None:
    """Return a time as RFC 3339 has it; None for ``now``."""
    return None if text == "now" else moment(text)


@command("change")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--eta", metavar="TIME", help="It begins no sooner; now: as soon as it can.")
@click.option("--priority", type=click.IntRange(0, 9), help="9 is the most urgent.")
@click.option("--queue", metavar="NAME", help="Where it goes.")
@click.option(
    "--input", "given", type=given_input, metavar="JSON", help="All of its arguments; @FILE reads a file, - stdin."
)
@click.option("--hold/--release", "held", default=None, help="Hold it back, or release it.")
@as_json
def change(client: Client, job_ids: tuple[str, ...], as_json: bool, eta: str | None, given: Any, **more: Any) -> int:
    """
    Change jobs that wait: when, where and with what they run; hold them back, and release them.

    It is for a service (TCB_URL). Ends with 1 if one of them has begun already.

    \b
    tcb change 5f4d2c9e-… --eta now --priority 9
    tcb change 5f4d2c9e-… --hold
    """
    asked = {name: value for name, value in {**more, "input": given}.items() if value is not None}
    if eta is not None:
        asked["eta"] = _due(eta)
    if not asked:
        raise click.UsageError("what to change, please: --eta, --priority, --queue, --input, --hold or --release")
    return _each(job_ids, functools.partial(client.change, asked=asked), as_json, _changed)


def _changed(job: Job) -> str:
    due = f", due {_time(job['eta'])}" if job["eta"] else ""
    priority = "" if job["priority"] is None else f", priority {job['priority']}"
    return f"{job['id']} in {job['queue']}{priority}{due}" + (", on hold" if job["held"] else "")


@command("delete")
@many
@as_json
def delete(client: Client, job_ids: tuple[str, ...], as_json: bool, **more: Any) -> int:
    """
    Delete jobs that have ended, with all that is kept of them: inputs, results, events.

    Name the jobs by their ids, or by options: then all that fit are counted first.

    \b
    tcb delete 5f4d2c9e-…
    tcb delete --task proj.mail --until 2027-01-31 --yes
    """
    if job_ids:
        _check_ids(**more)
        return _each(job_ids, client.delete, as_json, lambda job: f"{job['id']} deleted")
    return _all("delete", client, as_json, **more)


def _check_ids(*, yes: bool, dry_run: bool, **narrowed: Any) -> None:
    if yes or dry_run or narrowed_of(narrowed):
        raise click.UsageError("name jobs by their ids, or by options, not by both")


def _all(
    action: str, client: Client, as_json: bool, *, yes: bool, dry_run: bool, terminate: bool = False, **narrowed: Any
) -> int:
    given = narrowed_of(narrowed)
    return act(client, action, given, yes=yes, dry_run=dry_run, as_json=as_json, terminate=terminate)


def _canceled(job: Job) -> str:
    return f"{job['id']} {job['state']}" + ("" if job["done"] else ": it is told, and has not ended yet")


@command("retry", epilog=f"With --wait: {ENDS[0].lower()}{ENDS[1:]}")
@many
@click.option("--wait", is_flag=True, help="Wait for the end of each, and write its result; for jobs named by ids.")
@timeout_option
@as_json
def retry(
    client: Client, job_ids: tuple[str, ...], wait: bool, timeout: float | None, as_json: bool, **more: Any
) -> int:
    """
    Run jobs that have ended again, each as a new job with exactly the same input; write the ids of the new jobs.

    Name the jobs by their ids, or by options: then all that fit, failed or were cancelled, and were not retried before
    are counted first. With --wait, --timeout is for all of them together, and the highest of the statuses counts.

    \b
    tcb retry 5f4d2c9e-… 7c1e00ab-… --wait --timeout 60
    tcb retry --state FAILURE --task proj.mail --since 2027-01-31
    """
    _check_timeout(timeout, wait)
    if not job_ids:
        if wait:
            raise click.UsageError("--wait is for jobs that are named by their ids")
        return _all("retry", client, as_json, **more)
    _check_ids(**more)
    made: list[str] = []

    def again(job_id: str) -> Job:
        job = client.retry(job_id)
        made.append(job["id"])
        return job

    if not wait:
        return _each(job_ids, again, as_json, lambda job: str(job["id"]))
    return max(_each(job_ids, again, False, lambda job: None), _wait(client, made, timeout, as_json))


def _check_timeout(timeout: float | None, wait: bool) -> None:
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait: without it, nothing is waited for")


def _each(job_ids: Iterable[str], act: Callable[[str], Job], as_json: bool, shown: Callable[[Job], str | None]) -> int:
    """Do something with each job; go on with the others if it can't be done with one."""
    status = 0
    for job_id in job_ids:
        try:
            job = act(job_id)
        except click.ClickException as exc:
            click.echo(f"tcb: {job_id}: {tables.shown(exc.message)}", err=True)
            status = NOT_ALL
            continue
        if as_json:
            _write(job)
        elif (line := shown(job)) is not None:
            click.echo(line)
    return status


# Waiting.


def _wait(client: Client, job_ids: Sequence[str], timeout: float | None, as_json: bool) -> int:
    """
    Follow jobs to their ends, and write their results; return the highest of the exit statuses.

    Args:
        client: Where they are.
        job_ids: One is followed after the other. If they are several, their ids are written before.
        timeout: Seconds for all of them together; None for ever.
        as_json: Whether each job is written as JSON, and nothing of how it goes on.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    if several := len(job_ids) > 1:
        click.echo("\n".join(f"job {job_id}" for job_id in job_ids), err=True)
    status = 0
    for place, job_id in enumerate(job_ids):
        if several and not as_json:
            click.echo(f"\njob {job_id}", err=True)
        try:
            done = _follow(client, job_id, deadline, as_json)
        except KeyboardInterrupt:
            for each in job_ids[place:]:
                click.echo(f"tcb: job {each} goes on: tcb watch {each}, or tcb cancel {each}", err=True)
            raise
        if not done:
            click.echo(f"tcb: job {job_id} has not ended after {timeout:g} s, and goes on", err=True)
        status = max(status, _end(client, job_id, as_json) if done else NOT_IN_TIME)
    return status


def _follow(client: Client, job_id: str, deadline: float | None, as_json: bool) -> bool:
    """Show how a job goes on, to its end or up to the deadline; return whether it has ended."""
    display = Display(sys.stderr)
    try:
        for event in client.follow(job_id, None if deadline is None else max(0.0, deadline - time.monotonic())):
            if not as_json:
                display.show(event)
    except NotInTime:
        return bool(client.get(job_id)["done"])  # as far as it was looked at, it had not
    finally:
        display.clear()
    return True


def _end(client: Client, job_id: str, as_json: bool) -> int:
    """Write the result of a job that has ended, and return the exit status."""
    job = client.get(job_id)
    if as_json:
        _write(job)
    elif "result" in job or "result_size" in job:
        value = job["result"] if "result" in job else client.large_result(job_id)
        click.echo(tables.shown_json(value) if sys.stdout.isatty() else json.dumps(value, ensure_ascii=False))
    elif error := job.get("error"):
        click.echo(tables.shown_lines(f"tcb: {error['exception']}: {error['detail']}"), err=True)
    return STATUSES.get(job["state"], 0)


class Display:
    """
    A job's events, for people: states, log lines and items, and on a terminal a bar below them.

    Args:
        out: Where they are written.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._has_colour = self._is_terminal and not os.environ.get("NO_COLOR")
        self._bar = ""
        self._begun: float | None = None
        self._full, self._empty = ("━", "─") if "utf" in (out.encoding or "").lower() else ("#", ".")

    def show(self, event: Event) -> None:
        """Show an event."""
        match event.kind:
            case "state" | "end" | "snapshot" | "changed":
                job = event.data
                if job["state"] == "PROGRESS":
                    self._progress(job["progress"] or {})
                    return
                if job["state"] == "STARTED" and self._begun is None:
                    self._begun = time.monotonic()
                self.clear()
                self._line(f"{_clock(job)}  {_state(job, colour=self._has_colour)}{_about(job)}")
                if not job["done"] and self._is_terminal:
                    self._draw("  waiting for a worker…" if job["state"] == "PENDING" else "  …")
            case "progress":
                self._progress(event.data or {})
            case "item":
                value = json.dumps(event.data["value"], ensure_ascii=False)
                self._line(f"item {event.data['number']}  {tables.shown(value)}")
            case "log":
                line = event.data
                for said in str(line["message"]).splitlines():
                    self._line(
                        f"{_time(line['at'])[-8:]}  {tables.shown(line['level']).lower():<8} {tables.shown(said)}"
                    )

    def clear(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._bar = ""

    def _line(self, text: str) -> None:
        bar = self._bar
        self.clear()
        click.echo(text, file=self._out)
        if bar:
            self._draw(bar)

    def _progress(self, told: dict[str, Any]) -> None:
        current, total, message = told.get("current"), told.get("total"), tables.shown(str(told.get("message") or ""))
        is_known = isinstance(current, int | float) and isinstance(total, int | float) and total > 0
        counted = f"{current:g}/{total:g}" if is_known else "" if current is None else str(current)
        if not self._is_terminal:
            click.echo("  ".join(filter(None, ("progress", counted, message))), file=self._out)
            return
        share = min(1.0, max(0.0, current / total)) if is_known and current is not None and total else 0.0
        done = round(share * WIDEST)
        bar = f"{self._full * done}{self._empty * (WIDEST - done)}" if is_known else ""
        seconds = "" if self._begun is None else f"{time.monotonic() - self._begun:.0f} s"
        percent = f"{share:4.0%}" if is_known else ""
        self._draw("  " + "  ".join(filter(None, (bar, percent, counted, message, seconds))))

    def _draw(self, text: str) -> None:
        self._bar = text[: shutil.get_terminal_size().columns - 1]
        self._out.write(f"\r\x1b[K{self._bar}")
        self._out.flush()


def _state(job: Job, *, colour: bool = False) -> str:
    state = tables.shown(str(job["state"]))
    return click.style(state, fg=COLOURS[state]) if colour and state in COLOURS else state


def _about(job: Job) -> str:
    """Return what a line about a job's state says beside the state."""
    if job["done"]:
        return f"  after {_ran(job)}" if job["started_at"] else ""
    if job["state"] == "PENDING":
        what = "again" if _waits_again(job) else tables.shown(job["task"])
        return f"  {what} in {tables.shown(job['queue'])}"
    return f"  attempt {job['attempt']}" if job["attempt"] > 1 else ""


def _waits_again(job: Job) -> bool:
    """Return whether a job waits for its next attempt; since when, its events do not say."""
    return job["state"] in ("PENDING", "RETRY") and job["attempt"] > 0


def _clock(job: Job) -> str:
    """Return when a job got into its state, if that is known."""
    if _waits_again(job):
        return " " * len("hh:mm:ss")
    return _time(job["finished_at"] or job["started_at"] or job["created_at"])[-8:]


def _ran(job: Job) -> str:
    """Return for how long a job ran, or runs."""
    if not job["started_at"]:
        return "-"
    begun = datetime.fromisoformat(job["started_at"])
    ended = datetime.fromisoformat(job["finished_at"]) if job["finished_at"] else datetime.now(begun.tzinfo)
    seconds = max(0.0, (ended - begun).total_seconds())
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"


def _time(text: str) -> str:
    """Return a time in this machine's zone, to the second."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _write(document: Any) -> None:
    click.echo(json.dumps(document, ensure_ascii=False))

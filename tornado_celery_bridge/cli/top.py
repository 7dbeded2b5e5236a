"""``tcb top``: what goes on, in a terminal, read over HTTP from a running service."""

import os
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from tornado_celery_bridge.base.settings import Settings
from tornado_celery_bridge.cli.client import Http
from tornado_celery_bridge.cli.options import setting
from tornado_celery_bridge.cli.tables import shown

_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


@click.command(epilog="Where there are API keys, TCB_KEY is one with the scope monitor.")
@setting("--url", variable="TCB_URL", metavar="URL", help="The service (http://127.0.0.1:PORT)")
@click.option("--every", type=click.FloatRange(0.2, 3600), default=2.0, metavar="SECONDS", show_default=True)
@click.option("--once", is_flag=True, help="Show it once, and end.")
def top(every: float, once: bool) -> None:
    """Show the jobs, queues and workers of a running service, again and again; Ctrl-C ends it."""
    url = (os.environ.get("TCB_URL") or f"http://127.0.0.1:{Settings.from_environment().port}").rstrip("/")
    service = Http(url, os.environ.get("TCB_KEY", ""))
    clear = _CLEAR if sys.stdout.isatty() and not once else ""
    try:
        while True:
            click.echo(clear + "\n".join(_screen(service, url)))
            if once:
                return
            time.sleep(every)
    except KeyboardInterrupt:
        return


def _screen(service: Http, url: str) -> Iterable[str]:
    statistics = service.fetch("/v1/statistics")
    now, hour = statistics["now"], statistics["summary"]
    names: tuple[str, ...] = (
        "waiting",
        "scheduled",
        "running",
        "succeeded",
        "failed",
        "revoked",
        "dead",
        "unpublished",
    )
    yield f"{url}  {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    yield ""
    yield from _table(["jobs now", *names], [["", *(f"{now[name]:,}" for name in names)]])
    yield ""
    names = ("accepted", "started", "retried", "lost", "succeeded", "failed", "revoked")
    times = [_time(hour[name][share]) for name in ("wait", "run") for share in ("p50", "p95")]
    yield from _table(["last hour", *names], [["", *(f"{hour[name]:,}" for name in names)]])
    yield from _table(["         ", "wait p50", "p95", "run p50", "p95"], [["", *times]])
    yield ""
    columns = ["queue", "depth", "scheduled", "oldest", "consumers", ""]
    yield from _table(columns, [_queue(queue) for queue in service.fetch("/v1/queues")["queues"]])
    yield ""
    columns = ["worker", "slots", "running", "queues", ""]
    yield from _table(columns, [_worker(worker) for worker in service.fetch("/v1/workers")["workers"]])


def _queue(queue: dict[str, Any]) -> list[str]:
    oldest = _time(queue["oldest"]) if queue["depth"] else "-"
    counts = (f"{queue[name]:,}" for name in ("depth", "scheduled"))
    told = "NOBODY TAKES THEM" if queue["is_stuck"] else "paused" if queue["paused_since"] else ""
    return [shown(queue["name"]), *counts, oldest, str(queue["consumers"]), told]


def _worker(worker: dict[str, Any]) -> list[str]:
    told = "" if worker["alive"] else f"NOT SEEN SINCE {worker['last_seen']}"
    queues = shown(",".join(worker["queues"]))
    return [shown(worker["name"]), str(worker["slots"]), str(len(worker["jobs"])), queues, told]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yield a heading and rows: the first column, and those that say something in words, to the left."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            cell.ljust(width) if name in (columns[0], "queues", "") else cell.rjust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()

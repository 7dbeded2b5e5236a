"""``tcb attempts``: what happened in each attempt at a job."""

import json

import click

from tornado_celery_bridge.cli import tables
from tornado_celery_bridge.cli.client import Client
from tornado_celery_bridge.cli.jobs import as_json, command


@command("attempts")
@click.argument("job")
@as_json
def attempts(client: Client, job: str, as_json: bool) -> None:
    """
    Show each attempt at a job: when, where, how it ended, and its error.

    \b
    tcb attempts 5f4d3c2b-1a09-4f8e-9d7c-6b5a49382716
    """
    found = client.attempts(job)
    if as_json:
        for each in found:
            click.echo(json.dumps(each))
        return
    rows = [("attempt", "outcome", "began", "ended", "worker", "lines", "error")]
    for each in found:
        error = each["error"]
        told = f"{error['exception']}: {error['detail']}" if error else "-"
        times = (each["started_at"], each["ended_at"] or "-")
        rows.append((str(each["attempt"]), each["outcome"], *times, each["worker"], str(len(each["log"])), told))
    tables.write(rows)

"""``tcb up``: everything on this machine."""

import os
from pathlib import Path
from typing import Any

import click

from tornado_celery_bridge.base.settings import BROKERS
from tornado_celery_bridge.cli.options import app, setting
from tornado_celery_bridge.up import project


def _set_broker(_context: click.Context, _parameter: click.Parameter, kind: Any) -> None:
    if kind is not None:
        os.environ["BROKER"] = kind
        os.environ.pop("BROKER_URL", None)  # what is typed counts for more than what is set


@click.command()
@app
@setting("--port", variable="PORT", type=click.IntRange(1, 65_535), help="Where the service listens (8888)")
@setting("--flower-port", variable="FLOWER_PORT", type=click.IntRange(1, 65_535), help="Where Flower listens (5555)")
@click.option(
    "--broker",
    type=click.Choice(BROKERS),
    callback=_set_broker,
    expose_value=False,
    help="The broker to start; redis is the embedded server; or BROKER. Without it: BROKER_URL, CELERY_BROKER_URL, or "
    "what the app says.",
)
@click.option("--expose", multiple=True, metavar="PATTERN", help="Tasks to serve over HTTP, as in 'proj.*'.")
@click.option("-Q", "--queues", metavar="LIST", help="The worker's: only these queues, with commas.")
@click.option("-n", "--hostname", metavar="NAME", help="The worker's: its name.")
@click.option("-c", "--concurrency", type=click.IntRange(1), metavar="N", help="The worker's: how many tasks at once.")
@click.option("--reload", is_flag=True, help="Start service, worker and beat anew when a file of the project changes.")
@click.option("--yes", is_flag=True, help="Use servers on other machines, and take the messages that are there.")
def up(
    expose: tuple[str, ...],
    queues: str | None,
    hostname: str | None,
    concurrency: int | None,
    reload: bool,
    yes: bool,
) -> int:
    """
    Run everything on this machine: the embedded server, the service, a worker, beat and Flower. Ctrl-C ends it all.

    Any Celery app will do, with no line of it changed: what it lacks is set in its place, in these processes alone, and
    said, with the line that makes it permanent. In a folder with a Procfile whose lines start with tcb it runs that.
    What dies is started again. With REDIS_URL set, no server is started.

    \b
    tcb up -A proj --expose 'proj.*'             # with the app's broker
    tcb up -A proj --expose '*' --broker redis   # with one that it starts
    tcb up -A proj -Q mail,reports -c 4 --reload --port 9000
    """
    given = {"-Q": queues, "-n": hostname, "-c": concurrency}
    worker = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    return project.main(Path("Procfile"), project.Options(expose, worker, yes, reload))

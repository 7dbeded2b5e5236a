"""``tcb up``: everything on this machine."""

import os
from pathlib import Path
from typing import Any

import click

from tornado_celery_bridge.base.settings import BROKERS
from tornado_celery_bridge.cli.options import app, setting
from tornado_celery_bridge.up import supervisor


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
    help="The broker to start; redis is the embedded server; or BROKER",
)
def up() -> int:
    """
    Run everything on this machine: the embedded server, the service, a worker, beat and Flower. Ctrl-C ends it all.

    In a folder with a Procfile it runs what that lists. What dies is started again. With REDIS_URL set, no server is
    started.
    """
    return supervisor.main(Path("Procfile"))

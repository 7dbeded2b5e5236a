"""``tcb redis``: the embedded server alone."""

import click

from tornado_celery_bridge.base.settings import Settings
from tornado_celery_bridge.up import embedded


@click.command()
def redis() -> None:
    """Run the embedded Redis-compatible server on a Unix socket in DATA_DIR. tcb up does so by itself."""
    embedded.run(Settings.from_environment())

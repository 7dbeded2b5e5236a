"""``tcb upgrade``: the ledger of an older version, brought to this one's schema."""

import click
from redis.exceptions import RedisError

from tornado_celery_bridge.base.settings import SettingsError
from tornado_celery_bridge.cli.deployment import load
from tornado_celery_bridge.cli.options import app
from tornado_celery_bridge.ledger.schema import AnotherSchema
from tornado_celery_bridge.ledger.upgrade import StillRunning
from tornado_celery_bridge.ledger.upgrade import upgrade as bring


@click.command()
@app
def upgrade() -> None:
    """
    Bring the ledger of an older version to what this version needs.

    Stop all processes of the older version first, and keep a copy of the ledger's Redis: there is no way back. A
    release that needs this says so in its changelog.
    """
    try:
        before, after = bring(load())
    except AnotherSchema as exc:
        raise SettingsError(str(exc)) from exc
    except StillRunning as exc:
        raise click.ClickException(str(exc)) from exc
    except RedisError as exc:
        raise click.ClickException(f"the job ledger is not reachable: {exc}") from exc
    click.echo(f"schema {before}: nothing to do" if before == after else f"schema {before}: now {after}")

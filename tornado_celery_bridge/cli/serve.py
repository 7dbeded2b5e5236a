"""``tcb serve``: the service."""

import asyncio

import click

from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.cli.deployment import load_safe
from tornado_celery_bridge.cli.options import app
from tornado_celery_bridge.service.process.logs import set_up_logs
from tornado_celery_bridge.service.process.processes import run_processes
from tornado_celery_bridge.service.process.server import serve as serve_


@click.command()
@app
@click.option("--processes", type=click.IntRange(1, 256), default=1, metavar="N", help="Web processes on the one port.")
@click.option("--child", type=int, hidden=True)
def serve(processes: int, child: int | None) -> int:
    """
    Run the service: jobs over HTTP, the dashboard and the docs. PORT and BIND say where.

    \b
    tcb serve -A proj
    PORT=9000 tcb serve -A proj --processes 4
    """
    settings = Settings.from_environment()
    set_up_logs(settings.log_format)
    try:
        return asyncio.run(_run(settings, processes, child))
    except OSError as exc:
        raise SettingsError(f"cannot listen: {exc}") from exc


async def _run(settings: Settings, processes: int, child: int | None) -> int:
    if child is None and processes > 1:
        return await run_processes(settings, processes)
    await serve_(settings, load_safe, reuse_port=child is not None, parent=child)
    return 0

"""``tcb worker`` and ``tcb beat``: Celery's own commands, with the app and the files of this deployment."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from tornado_celery_bridge.base.settings import Settings
from tornado_celery_bridge.cli.options import app

#: As Celery finds a pool of somebody else's.
ASYNCIO_POOL = "tornado_celery_bridge.worker.asyncio_pool:TaskPool"

_all_others = click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[CELERY'S OPTIONS]")


def celerys_own(function: Callable[[tuple[str, ...]], None]) -> click.Command:
    """Make a command that takes ``-A`` and hands all other options on to Celery."""
    return click.command(context_settings={"ignore_unknown_options": True})(app(_all_others(function)))


@celerys_own
def worker(options: tuple[str, ...]) -> None:
    """
    Run a Celery worker: `celery -A APP worker`, which remembers revoked tasks in DATA_DIR.

    `--pool asyncio` runs thousands of tasks of `async def` at once. All other options are Celery's own: see `celery
    worker --help`.

    \b
    tcb worker -A proj -Q celery,mail -c 4
    tcb worker -A proj --pool asyncio -c 1000
    """
    settings = files_ready()
    words = as_celery_spells(options)
    become_celery(settings, "worker", "--loglevel=INFO", f"--statedb={settings.data_dir / 'worker-%n'}", *words)


def as_celery_spells(options: tuple[str, ...]) -> list[str]:
    """Return a worker's options; the asyncio pool is one that Celery knows as `custom`, by the environment."""
    words = list(options)
    for number, word in enumerate(words):
        after = words[number - 1] if number else ""
        if word in ("--pool=asyncio", "-Pasyncio") or (word == "asyncio" and after in ("--pool", "-P")):
            os.environ["CELERY_CUSTOM_WORKER_POOL"] = ASYNCIO_POOL
            words[number] = word.replace("asyncio", "custom")
    return words


@celerys_own
def beat(options: tuple[str, ...]) -> None:
    """
    Run Celery's beat: `celery -A APP beat`, without a pid file, which would keep it from starting after a crash.

    All other options are Celery's own: see `celery beat --help`.

    \b
    tcb beat -A proj
    """
    settings = files_ready()
    schedule = settings.data_dir / "celerybeat-schedule"
    become_celery(settings, "beat", "--loglevel=INFO", "--pidfile=", f"--schedule={schedule}", *options)


def files_ready() -> Settings:
    """Return the settings; DATA_DIR is there."""
    settings = Settings.from_environment()
    settings.make_data_dir()
    return settings


def become_celery(settings: Settings, *words: str, module: str = "deployment") -> NoReturn:
    """Become `celery` by exec, with the app of one of our modules. Signals, pids and restarts are Celery's own."""
    os.environ["CELERY_APP"] = settings.celery_app
    os.execv(sys.executable, [sys.executable, "-m", "celery", "-A", f"tornado_celery_bridge.cli.{module}", *words])

"""``tcb settings``: what each setting is, and where it was read."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from celery import Celery

from tornado_celery_bridge.base.settings import SECRETS, VARIABLES, Settings
from tornado_celery_bridge.base.spelling import Spelling
from tornado_celery_bridge.cli.deployment import load
from tornado_celery_bridge.cli.options import app
from tornado_celery_bridge.cli.tables import write

#: The settings of an app that say where things are.
OF_THE_APP = ("broker_url", "result_backend", "job_ledger_url", "job_store_url", "beat_scheduler", "task_default_queue")


@click.command()
@app
def settings() -> None:
    """
    Show each setting, with its value, its default and where it was read. No secret is shown.

    A variable that is empty counts as not set. Ends with 78 if one makes no sense.
    """
    write([("variable", "value", "from", "default", "unit", "meaning"), *_variables(os.environ)])
    Settings.from_environment()
    click.echo()
    write([("of the app", "value", "from"), *of_the_app(load())])


def _variables(environment: Mapping[str, str]) -> Iterator[Sequence[str]]:
    for name, variable in VARIABLES.items():
        given = environment.get(name)
        value = shown(name, given or variable.default) or "-"
        source = "environment" if given else "default"
        yield name, value, source, variable.default or "-", variable.unit, variable.meaning


def of_the_app(celery: Celery) -> Iterator[tuple[str, str, str]]:
    """Yield the name, the value and the source of an app, and of its settings that say where things are."""
    conf: Any = celery.conf
    where = Spelling.of(celery).where.removeprefix("in ")
    name = os.environ.get("CELERY_APP")
    yield "app", name or VARIABLES["CELERY_APP"].default, "environment" if name else "default"
    for name in OF_THE_APP:
        value = getattr(conf, name, None)  # not get(): some have a variable of Celery's own
        yield name, shown(name, str(value)) if value else "-", _source(celery, name, where)


def _source(celery: Celery, name: str, where: str) -> str:
    """Return where an app's setting comes from."""
    conf: Any = celery.conf
    if os.environ.get(variable := f"CELERY_{name.upper()}"):
        return variable
    return where if conf.value_set_for(name) else "default"


def shown(name: str, value: str) -> str:
    """Return a value without the secret that it may have."""
    if name in SECRETS:
        return "…" if value else ""
    # From the first slashes to the last @: also of a URL that nobody can read.
    return re.sub(r"://[^;,]*@", "://…@", value)

"""Options that several commands have. Each sets the environment variable that the setting is read from."""

import os
from collections.abc import Callable
from typing import Any

import click


def setting(*names: str, variable: str, help: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return an option that sets an environment variable, for this process and its children."""

    def store(_context: click.Context, _parameter: click.Parameter, value: object) -> None:
        if value is not None:
            os.environ[variable] = str(value)

    text = f"{help}; or {variable}"
    return click.option(*names, callback=store, expose_value=False, help=text, **attributes)


#: ``-A``, before or after the command.
app = setting("-A", "--app", variable="CELERY_APP", metavar="APP", help="The Celery app, as celery -A takes it")

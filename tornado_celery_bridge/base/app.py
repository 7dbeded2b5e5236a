"""The Celery app of a deployment, found as Celery's command line finds it."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery
from celery.app.utils import find_app

from tornado_celery_bridge.base.settings import SettingsError


def load_celery_app(name: str) -> Celery:
    """
    Return the Celery app that ``celery -A name`` finds.

    Raises:
        SettingsError: There is none, or it can't be imported.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        app: Any = find_app(name)
    except (ImportError, AttributeError) as exc:
        raise SettingsError(f"CELERY_APP={name}: no Celery app was found there: {exc}") from exc
    if not isinstance(app, Celery):
        raise SettingsError(f"CELERY_APP={name}: that is not a Celery app")
    return app


def check_arguments(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """
    Check that *task* takes these arguments, as its ``apply_async`` does: of a class-based task it does not.

    Raises:
        TypeError: It does not take them.
    """
    if task.typing and (header := getattr(task, "__header__", None)):
        header(*args, **kwargs)

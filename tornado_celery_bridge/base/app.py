"""The Celery app of a deployment, found as Celery's command line finds it."""

import sys
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

"""
The Celery app that the processes of a deployment run: :func:`load`, and ``app`` for ``celery -A``.

``tcb serve``, ``tcb worker`` and ``tcb beat`` refuse an app that is unsafe, all reasons at once. A worker or a beat of
an app that calls ``install`` does so itself, as Celery's own commands do; here it is done for one that does not.
"""

import os
import sys
from typing import Any

from celery import Celery

from tornado_celery_bridge.base.app import load_celery_app
from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.cli.trial import Trial
from tornado_celery_bridge.ledger.checks import is_installed, refuse_unsafe


def load() -> Celery:
    """
    Return the app that CELERY_APP names; in a process of ``tcb up``, with what that sets in its place.

    Raises:
        SettingsError: A setting is wrong, or the app can't be imported.
    """
    app = load_celery_app(Settings.from_environment().celery_app)
    if trial := Trial.of_environment():
        trial.apply(app)
    return app


def load_safe() -> Celery:
    """
    Return the app that CELERY_APP names, of which nothing is unsafe. Blocks: its servers are asked.

    Raises:
        SettingsError: A setting is wrong, the app can't be imported, or something is unsafe.
    """
    app = load()
    refuse_unsafe(app, "serve", is_logged=False)
    return app


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    try:
        app = load()
        if not is_installed(app):
            refuse_unsafe(app, is_logged=False)
    except SettingsError as exc:
        print(f"tcb: {exc}", file=sys.stderr)
        sys.exit(os.EX_CONFIG)
    globals()["app"] = app
    return app

"""
What ``tcb up`` sets in an app's place, so that any Celery project runs without a line of it changed.

``tcb up`` asks ``python -m tornado_celery_bridge.cli.survey`` what an app lacks: a :class:`Trial`. It gives that to the
processes that it starts, by their environment. In each of them the app gets it when it is loaded
(:mod:`.deployment`), after the app's own modules were imported, so it counts for an app with a loader of its own, and
for tasks that were made before.
"""

import dataclasses
import fnmatch
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from celery import Celery
from celery.exceptions import QueueNotFound

from tornado_celery_bridge import transports
from tornado_celery_bridge.base.app import is_exposed, own_tasks
from tornado_celery_bridge.ledger.destinations import queues_named
from tornado_celery_bridge.worker import install

#: The variable that has a trial.
VARIABLE = "TCB_TRIAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is set in an app's place."""

    #: Celery's settings, by their new names. A dictionary is merged into the app's.
    settings: Mapping[str, Any] = field(default_factory=dict)
    #: Patterns of the names of tasks that are served over HTTP, as in ``proj.*``.
    expose: Sequence[str] = ()

    @classmethod
    def of_environment(cls) -> Self | None:
        """Return the trial that ``tcb up`` gave to this process; None: it is none of its processes."""
        text = os.environ.get(VARIABLE)
        return cls(**json.loads(text)) if text else None

    def to_environment(self) -> str:
        """Return what :meth:`of_environment` reads."""
        return json.dumps(dataclasses.asdict(self))

    def apply(self, app: Celery) -> None:
        """
        Set it all. The app is loaded, with its tasks.

        Raises:
            ImportError: The broker's client is not installed; the message says how to install it.
        """
        conf: Any = app.conf
        for name, value in self.settings.items():
            conf[name] = {**(conf.get(name) or {}), **value} if isinstance(value, dict) else value
        for url in {url_of(conf.broker_read_url), url_of(conf.broker_write_url)}:
            transports.register(url)
        install(app)
        for name, task in own_tasks(app):
            task.acks_late = task.reject_on_worker_lost = True
            if getattr(task, "retry_on_worker_lost", False):
                task.retry_on_worker_lost = False
            if is_exposed(task) or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.expose):
                task.exposed = not why_not_sent(app, task)
        for queue in sorted(queues_named(app)):
            app.amqp.queues.select_add(app.amqp.queues[queue])


def why_not_sent(app: Celery, task: Any) -> str:
    """Return why Celery would not send a task: its queue is none of those that the app has; empty if it would."""
    asked = {name: value for name in ("queue", "routing_key") if (value := getattr(task, name, None))}
    try:
        app.amqp.router.route(asked, task.name, (), {})  # as the service does
    except QueueNotFound as exc:
        return str(exc.args[0])
    return ""


def url_of(url: Any) -> str:
    """Return a broker's URL, of a list the first; one may name several servers, with semicolons."""
    return str((url if isinstance(url, str) or not url else url[0]) or "amqp://")

"""What the tests of all transports ask of a broker and of a worker on it."""

import time
from typing import Any

from celery import Celery

from tests.needs import missing
from tornado_celery_bridge.up.brokers.activemq import ActiveMQ

#: Seconds for a worker's events to come.
PATIENCE = 30.0


def need_activemq() -> None:
    """Skip where there is no ActiveMQ and none can be installed; in CI, that is a failure."""
    if not ActiveMQ.available():
        missing("ActiveMQ")


def events_of_a_task(app: Celery) -> list[str]:
    """Have a worker that sends events run ``add``, and return the types of those events."""
    seen: list[str] = []
    ids: list[str] = []
    deadline = time.monotonic() + PATIENCE

    def note(event: dict[str, Any]) -> None:
        if not ids:  # the first event, a worker's heartbeat perhaps, says that the receiver has subscribed
            ids.append(app.tasks["add"].delay(1, 1).id)
        if event.get("uuid") in ids:
            seen.append(event["type"])
        if "task-succeeded" in seen or time.monotonic() > deadline:
            receiver.should_stop = True

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        receiver.capture(limit=None, timeout=PATIENCE, wakeup=False)
    return seen

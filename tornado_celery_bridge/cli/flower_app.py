"""
The Celery app that ``tcb flower`` runs: the deployment's, in a Flower that asks for its password everywhere.

Flower itself answers ``/metrics``, which has the names of tasks and workers, and ``/healthcheck`` without one. Its
broker page is for Redis and RabbitMQ alone (404 "broker is not supported"); of another broker it has the lengths of
queues that our transports know.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from flower.views import BaseHandler
from flower.views.monitor import Healthcheck, Metrics
from tornado.web import HTTPError, authenticated

from tornado_celery_bridge.cli.deployment import app
from tornado_celery_bridge.transports import depth

__all__ = ("app",)

#: Seconds for the broker to answer.
TIMEOUT = 5

for handler in (Healthcheck, Metrics):
    handler.get = authenticated(handler.get)


class OtherBroker:
    """A broker that Flower does not know, as its pages ask for one."""

    def __init__(self, celery: Any) -> None:
        self._celery = celery

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Return how many messages each queue has."""
        return await asyncio.to_thread(self._lengths, [*names])

    def _lengths(self, names: list[str]) -> list[dict[str, Any]]:
        with self._celery.connection_for_read(connect_timeout=TIMEOUT) as connection:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
            return [{"name": name, "messages": depth(connection, name)} for name in names]


_known = BaseHandler.get_broker


def _get_broker(handler: Any) -> Any:
    try:
        return _known(handler)
    except HTTPError:
        return OtherBroker(handler.capp)


BaseHandler.get_broker = _get_broker

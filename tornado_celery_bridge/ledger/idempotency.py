"""Idempotency keys: a request that comes again with the same key is answered as it was the first time."""

from tornado_celery_bridge.ledger.connection import Subject
from tornado_celery_bridge.ledger.records import Reservation

#: Seconds for which a key is held. After the second number another request may take it over, if there is no response.
KEY_TTL = 86_400.0
KEY_LEASE = 5.0


class IdempotencyKeys(Subject):
    """
    The idempotency keys in the ledger. One is held in the step that accepts its job or its workflow.

    .. versionadded:: 0.1.0
    """

    async def respond(self, reservation: Reservation, response: bytes) -> None:
        """Keep *response*: the same request with the same idempotency key is answered with it."""
        await self._redis.call("HSET", f"{self._redis.prefix}key:{reservation.name}", "response", response)

"""
The ``Idempotency-Key`` header: a request that is sent again is not done again, and shows what it made.

After the IETF's draft-ietf-httpapi-idempotency-key-header. A key belongs to whoever sends it, for a day.
"""

import hashlib
import uuid
from dataclasses import dataclass
from typing import ClassVar, Self

from tornado.httputil import HTTPHeaders

from tornado_celery_bridge.ledger import Reservation
from tornado_celery_bridge.service.http.headers import HeaderFields
from tornado_celery_bridge.service.http.problems import Kind

INVALID_IDEMPOTENCY_KEY = Kind(
    "invalid-idempotency-key", 400, "The key is empty, longer than 255 characters, or not printable."
)
IDEMPOTENCY_KEY_IN_FLIGHT = Kind(
    "idempotency-key-in-flight", 409, "A request with this key is being answered; `job` names its job."
)
IDEMPOTENCY_KEY_REUSED = Kind("idempotency-key-reused", 422, "The key was used for another request.")

MAX_LENGTH = 255

_NAMESPACE = uuid.UUID("a3f2e1c4-98a1-5c0e-9d5b-6f1f3a7c2b10")


@dataclass(frozen=True)
class IdempotencyKey(HeaderFields):
    """The request's key; None for a request without one."""

    PARAMETERS: ClassVar = {
        "Idempotency-Key": {
            "description": "For a day the same request with the same key is not done again: it shows what it made."
        }
    }

    key: str | None = None

    @classmethod
    def of_headers(cls, headers: HTTPHeaders) -> Self:
        """
        Return a request's key: a string in quotes, as in the draft, or without quotes, as most clients send it.

        Raises:
            Problem: 400, it is malformed.
        """
        header = headers.get("Idempotency-Key")
        if header is None:
            return cls()
        key = header.strip()
        if len(key) > 1 and key[0] == key[-1] == '"':
            key = key[1:-1]
        if not key or len(key) > MAX_LENGTH or not key.isascii() or not key.isprintable():
            raise INVALID_IDEMPOTENCY_KEY(f"Idempotency-Key should be 1 to {MAX_LENGTH} printable characters.")
        return cls(key)

    def reservation(self, owner: str, target: str, body: bytes) -> Reservation | None:
        """
        Return what to hold the key with; None for a request without one.

        Args:
            owner: Whose key it is.
            target: What the request is sent to. After a ``#`` comes the part of it that has a hold of its own.
            body: Exactly as it came.
        """
        if self.key is None:
            return None
        part = target.partition("#")[2]
        name = hashlib.sha256(f"{owner}\0{self.key}\0{part}".encode()).hexdigest()
        return Reservation(name, hashlib.sha256(target.encode() + b"\0" + body).hexdigest())


def job_id_of(reserved: Reservation | None) -> str:
    """Return a new job's id: with a key always the same one, so that not even a lost reservation makes two jobs."""
    return str(uuid.uuid4() if reserved is None else uuid.uuid5(_NAMESPACE, reserved.name))

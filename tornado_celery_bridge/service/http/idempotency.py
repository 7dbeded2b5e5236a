"""
The ``Idempotency-Key`` header: a request that is sent again is answered again, and not done again.

After the IETF's draft-ietf-httpapi-idempotency-key-header. A key belongs to whoever sends it, for a day.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import NamedTuple

from tornado_celery_bridge.ledger import Reservation
from tornado_celery_bridge.service.http.problems import Problem

__all__ = ("Answer", "job_id_of", "reservation")

MAX_LENGTH = 255

_NAMESPACE = uuid.UUID("a3f2e1c4-98a1-5c0e-9d5b-6f1f3a7c2b10")


class Answer(NamedTuple):
    """What a request was answered, to be said again."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def encode(self) -> bytes:
        """Return the answer as it is stored."""
        return json.dumps([self.status, dict(self.headers), self.body.decode()]).encode()

    @classmethod
    def decode(cls, stored: bytes) -> "Answer":
        """Return the answer that was stored."""
        status, headers, body = json.loads(stored)
        return cls(status, headers, body.encode())


def reservation(header: str | None, owner: str, target: str, body: bytes) -> Reservation | None:
    """
    Return what to hold a request's key with; None for a request without one.

    Args:
        header: The value of ``Idempotency-Key``: a string in quotes, as the draft has it, or bare, as most clients.
        owner: Whose key it is.
        target: What the request is sent to; after a ``#``, the part of it that has a hold of its own.
        body: Exactly as it came.

    Raises:
        Problem: 400, a key that is none.
    """
    if header is None:
        return None
    key = header.strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not key or len(key) > MAX_LENGTH or not key.isascii() or not key.isprintable():
        raise Problem(
            400, "invalid-idempotency-key", f"Idempotency-Key should be 1 to {MAX_LENGTH} printable characters."
        )
    part = target.partition("#")[2]
    name = hashlib.sha256(f"{owner}\0{key}\0{part}".encode()).hexdigest()
    return Reservation(name, hashlib.sha256(target.encode() + b"\0" + body).hexdigest())


def job_id_of(reserved: Reservation | None) -> str:
    """Return a new job's id: with a key always the same one, so that not even a lost reservation makes two jobs."""
    return str(uuid.uuid4() if reserved is None else uuid.uuid5(_NAMESPACE, reserved.name))

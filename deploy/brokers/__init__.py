"""Private message brokers, to try and to test with: each a process of this user's, on loopback, in a folder."""

from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ("KINDS", "make")

#: Where the class of each is. All have the same methods; :class:`deploy.brokers.rabbitmq.RabbitMQ` says which.
KINDS = {"rabbitmq": "RabbitMQ", "kafka": "Kafka", "activemq": "ActiveMQ"}


def make(kind: str, folder: Path, port: int) -> Any:
    """Return a broker of this kind, not started yet, that keeps what it has in *folder* and listens on *port*."""
    return getattr(import_module(f"{__name__}.{kind}"), KINDS[kind])(folder, port)

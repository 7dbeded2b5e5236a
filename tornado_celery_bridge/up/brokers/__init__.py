"""Private message brokers, to try and to test with: each a process of this user's, on loopback, in a folder."""

from importlib import import_module
from pathlib import Path

from tornado_celery_bridge.up.brokers.private import Private

__all__ = ("KINDS", "make")

#: The class of each, in the module of its name.
KINDS = {"rabbitmq": "RabbitMQ", "kafka": "Kafka", "activemq": "ActiveMQ"}


def make(kind: str, folder: Path, port: int) -> Private:
    """Return a broker of this kind, not started yet, that keeps what it has in *folder* and listens on *port*."""
    made: Private = getattr(import_module(f"{__name__}.{kind}"), KINDS[kind])(folder, port)
    return made

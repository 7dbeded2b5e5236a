"""Private message brokers for trials and tests. Each is a process of this user, on loopback, with its own folder."""

from importlib import import_module
from pathlib import Path

from tornado_celery_bridge.up.brokers.private import Private

__all__ = ("KINDS", "make")

#: The name of each kind's class. The class is in the module of the kind's name.
KINDS = {"rabbitmq": "RabbitMQ", "kafka": "Kafka", "activemq": "ActiveMQ"}


def make(kind: str, folder: Path, port: int) -> Private:
    """Return a broker of this kind, which is not started yet. It keeps its data in *folder* and listens on *port*."""
    made: Private = getattr(import_module(f"{__name__}.{kind}"), KINDS[kind])(folder, port)
    return made

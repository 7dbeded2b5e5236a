"""
A Kafka transport for kombu over confluent-kafka, for any Celery app: ``kafka://host1:9092,host2/``.

Workers share queues as members of one consumer group; each message is acknowledged by itself; commands, their replies
and events go to all. `Settings` has the options, docs/brokers/kafka.md what they are for and what Kafka can't do, and
docs/design/0010 why it is built as it is. To read it, begin with the theory of operation in :mod:`.reader`.

    settings    what a URL and its options say
    writer      publishes, with a report on each message
    consuming   polls a consumer in a thread
    reader      consumes queues, as a member of the group
    progress    which messages of a partition are done
    tail        follows broadcasts
    later       keeps messages with an eta
    handles     librdkafka's handles, and forks
    transport   what kombu sees of all that
"""

try:
    import confluent_kafka  # noqa: F401
except ImportError as exc:
    raise ImportError("kafka:// needs confluent-kafka: pip install 'tornado-celery-bridge[kafka]'") from exc

from tornado_celery_bridge.base.forks import mend_locks
from tornado_celery_bridge.transports.core import AccessRefused, NotSent, SentInDoubt
from tornado_celery_bridge.transports.kafka.errors import MessageTooLarge
from tornado_celery_bridge.transports.kafka.settings import PriorityRefused, Settings
from tornado_celery_bridge.transports.kafka.transport import Transport

__all__ = (
    "AccessRefused",
    "MessageTooLarge",
    "NotSent",
    "PriorityRefused",
    "SentInDoubt",
    "Settings",
    "Transport",
)

mend_locks()  # workers on this transport fork in a thread

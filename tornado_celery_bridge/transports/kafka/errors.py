"""What can go wrong with Kafka alone, and what librdkafka's errors say of a message; see also `transports.core`."""

from confluent_kafka import KafkaError, KafkaException


class BrokerLost(ConnectionError):
    """
    What was consumed from is gone; connect again.

    .. versionadded:: 0.1.0
    """


class MessageTooLarge(ValueError):
    """
    The message is larger than ``message.max.bytes`` or its topic's ``max.message.bytes``.

    .. versionadded:: 0.1.0
    """


#: Codes of a message that no broker has.
REFUSED = frozenset(
    {
        KafkaError._PURGE_QUEUE,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_EXCEPTION,
    }
)
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.RECORD_LIST_TOO_LARGE})


def error_of(exc: KafkaException) -> KafkaError:
    """Return what librdkafka says in *exc*."""
    error: KafkaError = exc.args[0]
    return error

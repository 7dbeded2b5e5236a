"""What can go wrong with a Kafka broker, and what to do then."""

from confluent_kafka import KafkaError, KafkaException

__all__ = ("AccessRefused", "BrokerLost", "MessageTooLarge", "NotSent", "SentInDoubt")


class NotSent(ConnectionRefusedError):
    """
    No broker was reached, or it refused: nothing of the message is in a queue. It may be sent again.

    .. versionadded:: 0.1.0
    """


class SentInDoubt(ConnectionError):
    """
    The message was on its way, and no answer came in time: it may be in its queue or not. Sent again, it may run twice.

    .. versionadded:: 0.1.0
    """


class BrokerLost(ConnectionError):
    """
    What was consumed from is gone; connect again.

    .. versionadded:: 0.1.0
    """


class AccessRefused(Exception):
    """
    The broker does not know the user, or the password is wrong: to try again is of no use.

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

"""What can go wrong with Kafka alone, and what librdkafka's errors say of a message; see also `transports.core`."""

from confluent_kafka import KafkaError, KafkaException

from tornado_celery_bridge.transports.core import SetupRefused


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
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.INVALID_RECORD,
    }
)
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.RECORD_LIST_TOO_LARGE})

#: Codes of a group whose coordinator has just begun, or just ended.
UNSETTLED = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)

#: And of one whose members change.
FORMING = frozenset(
    {KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.STALE_MEMBER_EPOCH, *UNSETTLED}
)

#: Codes of what the broker refuses until somebody gives a permission, or changes a setting.
FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
UNFIT = frozenset(
    {
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_CONFIG,
        KafkaError.TOPIC_EXCEPTION,
    }
)


def refusal(what: str, error: KafkaError, permission: str) -> SetupRefused | None:
    """
    Return what to raise of an error that stays as it is; None for one that may pass.

    Args:
        what: What is not done, such as "topic 'x' can't be made".
        error: What librdkafka says.
        permission: What the user needs for it.
    """
    if error.code() in FORBIDDEN:
        return SetupRefused(f"{what}: the user lacks the permission {permission} ({error.str()})")
    return SetupRefused(f"{what}: {error.str()}") if error.code() in UNFIT else None


def error_of(exc: KafkaException) -> KafkaError:
    """Return what librdkafka says in *exc*."""
    error: KafkaError = exc.args[0]
    return error

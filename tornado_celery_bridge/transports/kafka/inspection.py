"""
Looks at a cluster before anything runs on it: what a user may do there, and which settings would lose messages.

What can't be found out is no trouble: a broker that is away, or one that does not tell its settings to this user.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from tornado_celery_bridge.transports.core import Trouble
from tornado_celery_bridge.transports.kafka.errors import error_of
from tornado_celery_bridge.transports.kafka.settings import Settings
from tornado_celery_bridge.transports.kafka.writer import Writer

log = logging.getLogger(__name__)

#: Seconds for one answer.
TIMEOUT = 5.0
#: Seconds that a message may wait, and that all workers may be away, at the least.
SHORTEST = 86_400
#: Seconds for which Kafka keeps the offsets of a group that nobody is in, unless its servers say otherwise.
OFFSETS_RETENTION = 7 * 86_400


def inspect(settings: Settings, queues: Collection[str], *, consumes: bool) -> list[Trouble]:
    """
    Return what is wrong with a cluster for an app; blocks, for some seconds if it is away.

    Args:
        settings: Of a connection.
        queues: The queues that are published to.
        consumes: Whether a worker's permissions are looked at as well.
    """
    writer = Writer(settings)
    try:
        writer.connect()
        with writer.admin() as admin:
            return [*_Inspection(settings, writer, admin).look(queues, consumes=consumes)]
    except (OSError, KafkaException) as exc:
        log.debug("the cluster is not looked at: %s", exc)
        return []
    finally:
        writer.close()


class _Inspection:
    def __init__(self, settings: Settings, writer: Writer, admin: AdminClient) -> None:
        self._settings, self._writer, self._admin = settings, writer, admin

    def look(self, queues: Collection[str], *, consumes: bool) -> Iterator[Trouble]:
        topics = [topic for queue in sorted(queues) for topic in self._settings.topics_of(queue)]
        known = self._allowed([*topics, self._settings.broadcast_topic])
        yield from self._missing([each for each in (*topics, self._settings.broadcast_topic) if each not in known])
        needed = {AclOperation.WRITE: "Write", **({AclOperation.READ: "Read"} if consumes else {})}
        for operation, name in needed.items():
            if lacking := [topic for topic, allowed in known.items() if allowed and operation not in allowed]:
                yield _lacks(name, "topic", lacking)
        if consumes and not self._may_read_group():
            yield _lacks("Read", "group", [self._settings.group_id])
        undeleted = [topic for topic in topics if known.get(topic) and AclOperation.DELETE not in known[topic]]
        yield from self._retention([topic for topic in topics if topic in known], undeleted)

    def _allowed(self, topics: Collection[str]) -> dict[str, Collection[AclOperation]]:
        """Return what the user may do with those topics that are there; nothing, where the broker does not say."""
        names = TopicCollection([*topics])
        asked = self._admin.describe_topics(names, include_authorized_operations=True, request_timeout=TIMEOUT)
        known = {}
        for topic, answer in asked.items():
            try:
                known[topic] = answer.result().authorized_operations or ()
            except KafkaException as exc:
                if error_of(exc).code() not in (
                    KafkaError.UNKNOWN_TOPIC_OR_PART,
                    KafkaError.TOPIC_AUTHORIZATION_FAILED,
                ):
                    raise
        return known

    def _missing(self, topics: Collection[str]) -> Iterator[Trouble]:
        """Look at topics that would have to be made."""
        if not topics or not self._settings.create_topics:
            return
        new = [self._writer.new_topic(topic) for topic in topics]
        asked = self._admin.create_topics(new, validate_only=True, request_timeout=TIMEOUT)
        for topic, answer in asked.items():
            try:
                answer.result()
            except KafkaException as exc:
                refused = self._writer.refusal_of_topic(topic, error_of(exc))
                if refused is not None:
                    is_forbidden = "lacks the permission" in str(refused)
                    remedy = "an ACL that allows it" if is_forbidden else "another value, or topics made beforehand"
                    yield Trouble("no-permission" if is_forbidden else "no-topic", str(refused), remedy)
                    return  # the others are told the same

    def _may_read_group(self) -> bool:
        """Return False if the user may for certain not read the group."""
        group = self._settings.group_id
        asked = self._admin.describe_consumer_groups(
            [group], include_authorized_operations=True, request_timeout=TIMEOUT
        )
        try:
            allowed = asked[group].result().authorized_operations
        except KafkaException as exc:  # a group that is not there yet is none, too
            return bool(error_of(exc).code() != KafkaError.GROUP_AUTHORIZATION_FAILED)
        return not allowed or AclOperation.READ in allowed

    def _retention(self, topics: Collection[str], undeleted: Collection[str]) -> Iterator[Trouble]:
        """Look at what Kafka forgets by itself."""
        kept = {topic: self._seconds(ResourceType.TOPIC, topic, "retention.ms", 0.001) for topic in topics}
        short = {topic: seconds for topic, seconds in kept.items() if seconds is not None and 0 <= seconds < SHORTEST}
        for topic, seconds in short.items():
            yield Trouble(
                "short-retention",
                f"topic {topic!r} keeps messages for {seconds:g} s (retention.ms): a task that waits for longer is"
                " lost, unless it is a job",
                f"kafka-configs --alter --topic {topic} --add-config retention.ms=-1",
            )
        node = next(iter(self._admin.list_topics(timeout=TIMEOUT).brokers), None)
        offsets = self._seconds(ResourceType.BROKER, str(node), "offsets.retention.minutes", 60)
        offsets = OFFSETS_RETENTION if offsets is None else offsets
        longer = [each for each in undeleted if (kept[each] or 0) > offsets or (kept[each] or 0) < 0]
        if offsets < SHORTEST or longer:
            which = f"; they stay in {', '.join(longer)}, as the user lacks Delete" if longer else ""
            yield Trouble(
                "offsets-expire",
                f"{offsets:g} s after the last worker left, Kafka forgets which tasks are done (its servers'"
                f" offsets.retention.minutes): those whose messages are still there run again{which}",
                "offsets.retention.minutes=10080 or more on the servers, and Delete on the topics for the user",
            )

    def _seconds(self, kind: ResourceType, name: str, setting: str, unit: float) -> float | None:
        """Return a setting in seconds; None if it is not told."""
        asked: Mapping[Any, Any] = self._admin.describe_configs([ConfigResource(kind, name)], request_timeout=TIMEOUT)
        for answer in asked.values():
            try:
                return float(answer.result()[setting].value) * unit
            except (KafkaException, KeyError, TypeError, ValueError) as exc:
                log.debug("%s of %s is not known: %s", setting, name, exc)
        return None


def _lacks(permission: str, kind: str, names: Collection[str]) -> Trouble:
    told = ", ".join(map(repr, names))
    return Trouble("no-permission", f"the user lacks the permission {permission} on {kind} {told}", "an ACL for it")

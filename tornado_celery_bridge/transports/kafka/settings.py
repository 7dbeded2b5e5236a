"""What a Kafka URL and `broker_transport_options` say, checked once."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from tornado_celery_bridge.transports.core import BrokerUrl, WrongOption

#: What kombu itself takes out of the same options.
KOMBUS = frozenset("max_retries interval_start interval_step interval_max errback callback timeout".split())

#: librdkafka's settings that we rely on, or that we measured to be better than its own; an app's own settings win.
DEFAULTS: Mapping[str, Any] = {
    "socket.keepalive.enable": True,
    # A connection that is dead without a sign is noticed: librdkafka's own is a minute.
    "socket.timeout.ms": 10_000,
    "reconnect.backoff.ms": 100,
    "reconnect.backoff.max.ms": 1_000,
    # Of a message; Kafka's is 1 MB. Topics that are made here have the same limit.
    "message.max.bytes": 10 * 1024 * 1024,
    # Its callbacks report errors; its log on standard error would repeat each ten times a second.
    "log_level": 2,
}

#: Consumers do not know these: librdkafka would warn on standard error. And the other way round.
FOR_PRODUCERS = re.compile(
    r"(acks|enable\.idempotence|linger\.ms|batch\.|compression\.|queue\.buffering\.|message\.timeout\.ms"
    r"|delivery\.timeout\.ms|request\.(required\.acks|timeout\.ms)|retries|max\.in\.flight$|partitioner|sticky\.)"
)
FOR_CONSUMERS = re.compile(
    r"(group\.|session\.|heartbeat\.|max\.poll\.|partition\.assignment|fetch\.|queued\.|auto\.|enable\.auto\."
    r"|isolation\.|check\.crcs|allow\.auto)"
)

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True)
class Settings:
    """The options of a connection; each may be in the URL's query or in `broker_transport_options`."""

    #: librdkafka's settings: every option with a dot in its name.
    config: Mapping[str, Any] = field(default_factory=dict)
    #: Put before each queue's name to make its topic's.
    topic_prefix: str = ""
    #: The consumer group of all workers that share queues.
    group_id: str = "celery"
    #: Of a queue's topic, when it is made here: as many workers at most have a share of the queue.
    partitions: int = 8
    #: Copies of each partition; -1 for the broker's own default.
    replication: int = -1
    #: Whether missing topics are made with these; if not, they must exist, or the broker makes them.
    create_topics: bool = True
    #: The least priority of each topic of a queue. One step is one topic, and no priorities.
    priority_steps: tuple[int, ...] = (0,)
    #: Seconds for a message to be acknowledged by the broker.
    publish_timeout: float = 5.0
    #: Seconds for a broker to answer at first.
    connect_timeout: float = 5.0
    #: Seconds for which a partition that goes to another worker waits for the tasks that run from it.
    hand_over_timeout: float = 30.0
    #: URL of a Redis that keeps messages with an eta until they are due; None: the workers keep them.
    later_url: str | None = None

    @classmethod
    def of(cls, url: BrokerUrl, options: Mapping[str, Any], **defaults: Any) -> Self:
        """
        Return the settings of a connection.

        Args:
            url: ``kafka://[user:password@]host[:port][,host[:port]…]/[?option=value&…]``
            options: kombu's transport options; the URL's go before them.
            defaults: What holds unless either says otherwise.

        Raises:
            WrongOption: An option is unknown, or its value is wrong.
        """
        given = {key: value for key, value in options.items() if key not in KOMBUS} | dict(url.options)
        config = {key: value for key, value in given.items() if "." in key}
        if url.user:
            config = {
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": url.user,
                "sasl.password": url.password,
            } | config
        config = {**DEFAULTS, "bootstrap.servers": url.hosts or "localhost", **config}
        known = {each.name: each.type for each in fields(cls) if each.name != "config"}
        if unknown := {key for key in given if "." not in key} - set(known):
            raise WrongOption(f"the Kafka transport has no such options: {', '.join(sorted(unknown))}")
        named = {key: _read(key, known[key], value) for key, value in given.items() if key in known}
        made = cls(config, **(defaults | named))
        longest = float(config.get("max.poll.interval.ms", 300_000)) / 1000
        if made.hand_over_timeout > longest - 5:
            raise WrongOption(
                f"max.poll.interval.ms is {longest:g} s and hand_over_timeout {made.hand_over_timeout:g} s, for which a"
                " worker may not poll: have the first be longer by 5 s or more"
            )
        if not made.priority_steps or list(made.priority_steps) != sorted({*made.priority_steps}):
            raise WrongOption(f"priority_steps must ascend: {made.priority_steps}")
        return made

    @property
    def broadcast_topic(self) -> str:
        """The topic of all that is not kept in a queue: commands to workers, their replies, events."""
        return f"{self.topic_prefix}{self.group_id}.broadcast"

    def topics_of(self, queue: str) -> list[str]:
        """Return the topics of *queue*, the most urgent first."""
        return [self._topic(queue, step) for step in reversed(self.priority_steps)]

    def topic_of(self, queue: str, priority: int) -> str:
        """
        Return the topic of *queue* for messages of *priority*.

        Raises:
            PriorityRefused: The queue has one topic, and so no priorities.
        """
        if priority and len(self.priority_steps) == 1:
            raise PriorityRefused(priority)
        return self._topic(queue, max((step for step in self.priority_steps if step <= priority), default=0))

    def _topic(self, queue: str, step: int) -> str:
        name = self.topic_prefix + queue + (f".p{step}" if step > self.priority_steps[0] else "")
        if _TOPIC.fullmatch(name):
            return name
        # Kafka does not allow all characters in a name; the hash tells queues apart that look alike then.
        return f"{re.sub('[^A-Za-z0-9._-]', '-', name)[:232]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"

    def for_producer(self, **more: Any) -> dict[str, Any]:
        """Return librdkafka's settings of a producer or an admin client."""
        return {**more, **{key: value for key, value in self.config.items() if not FOR_CONSUMERS.match(key)}}

    def for_consumer(self, **more: Any) -> dict[str, Any]:
        """Return librdkafka's settings of a consumer."""
        return {**more, **{key: value for key, value in self.config.items() if not FOR_PRODUCERS.match(key)}}


class PriorityRefused(ValueError):
    """
    Kafka has no priorities: leave it out, use another queue, or set ``priority_steps``, which makes topics for it.

    .. versionadded:: 0.1.0
    """

    def __init__(self, priority: int) -> None:
        super().__init__(f"priority {priority}: Kafka has none; leave it out, or set priority_steps")


def _read(name: str, kind: Any, value: Any) -> Any:
    try:
        if kind is bool:
            return {"1": True, "true": True, "0": False, "false": False}[str(value).lower()]
        if kind is int or kind is float:
            return kind(value)
        if kind == tuple[int, ...]:
            return tuple(int(step) for step in (value.split(",") if isinstance(value, str) else value))
    except (KeyError, TypeError, ValueError):
        raise WrongOption(f"{name} can't be {value!r}") from None
    return value

"""
Keeps messages with an eta in Redis until they are due, so that others in Kafka need not wait for them.

There is a sorted set for each topic: messages by when they are due. Whoever consumes the topic moves due messages into
it, a little early: for the last moment they wait in the worker, as with every broker, and begin on time. A message that
is taken stays in the set, due again at a later time, until Kafka has it. So if a worker is killed in between, nothing
is lost: another takes it then.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import redis
from redis.exceptions import RedisError

from tornado_celery_bridge.base.repeating import Repeating
from tornado_celery_bridge.transports.core import NotSent, SetupRefused
from tornado_celery_bridge.transports.kafka.errors import MessageTooLarge
from tornado_celery_bridge.transports.kafka.writer import Batch, Record, Writer

log = logging.getLogger(__name__)

#: Seconds before its eta at which a message goes to Kafka, and between two looks for such.
LEAD, BEAT = 3.0, 1.0
#: Seconds to move what was taken, before another may take it; and messages taken at once.
LEASE, BATCH = 30.0, 100

TAKE = (Path(__file__).parent.parent / "lua" / "take_due.lua").read_text()


class Later:
    """
    Messages that are not due yet; connects at first use.

    Args:
        url: Redis, as redis-py or as Celery spells it.
        timeout: Seconds for an answer of it.
        most: Bytes of a message that Kafka takes.
    """

    def __init__(self, url: str, timeout: float, most: int) -> None:
        self._most = most
        options = {} if url.startswith(("unix", "redis+socket")) else {"socket_connect_timeout": timeout}
        self._redis = redis.Redis.from_url(_as_redis_py_has_it(url), socket_timeout=timeout, **options)
        self._take = self._redis.register_script(TAKE)

    def keep(self, record: Record, due: float) -> None:
        """
        Keep *record* until *due*, in seconds since 1970.

        Raises:
            NotSent: Redis is away.
            MessageTooLarge: Kafka would not take it later.
        """
        if len(record.value) + len(record.envelope) > self._most:
            raise MessageTooLarge(f"a message with an eta has {len(record.value)} bytes, of {self._most} at most")
        try:
            self._redis.zadd(_key(record.topic), {record.envelope + b"\n" + record.value: due})
        except RedisError as exc:
            raise NotSent(f"a message with an eta can't be kept in Redis: {exc}") from exc

    def take(self, topics: Collection[str]) -> list[Record]:
        """Return what is due soon, to be published and then to be given to :meth:`forget`."""
        ordered, now = [*topics], time.time()
        taken = self._take(keys=[*map(_key, ordered)], args=[now + LEAD, now + LEASE + LEAD, BATCH])
        return [Record(ordered[place], *reversed(kept.split(b"\n", 1))) for place, kept in taken]

    def forget(self, record: Record) -> None:
        """Keep *record* no more."""
        self._redis.zrem(_key(record.topic), record.envelope + b"\n" + record.value)

    def purge(self, topic: str) -> int:
        """Keep no message of *topic* any more; return how many there were."""
        with self._redis.pipeline() as pipeline:
            pipeline.zcard(_key(topic))
            pipeline.delete(_key(topic))
            return int(pipeline.execute()[0])

    def close(self) -> None:
        """Let go of connections."""
        self._redis.close()


class Releasing(Repeating):
    """Moves what is due of *topics* into Kafka, in a thread."""

    def __init__(self, later: Later, writer: Writer, topics: Callable[[], Collection[str]]) -> None:
        super().__init__("kafka-later", self._release, pause=BEAT)
        self._later = later
        self._writer = writer
        self._topics = topics

    def _release(self) -> None:  # what is taken, and fails to be moved, is due again after the lease
        while (topics := self._topics()) and (records := self._later.take(topics)):
            for sent in self._moved(records):
                self._later.forget(sent)

    def _moved(self, records: Sequence[Record]) -> Sequence[Record]:
        """Publish *records*, and return those that are not to be kept any more."""
        try:
            batch = Batch(self._writer)
            for record in records:
                batch.add(record)
            batch.wait()
        except (MessageTooLarge, SetupRefused) as exc:
            if len(records) > 1:  # the others are not held up by one; those that were sent come twice
                return [each for record in records for each in self._moved([record])]
            log.error("a message with an eta is not published to topic %r: %s", records[0].topic, exc)
            return records if isinstance(exc, MessageTooLarge) else []
        return records


def _key(topic: str) -> str:
    return f"kafka-later:{topic}"


def _as_redis_py_has_it(url: str) -> str:
    """Return *url* with what Celery spells otherwise: ``redis+socket:///path?virtual_host=0``."""
    if not url.startswith("redis+socket"):
        return url
    parts = urlsplit(url)
    database = parse_qs(parts.query).get("virtual_host", ["0"])[0]
    return f"unix://{parts.netloc}{parts.path}?db={database}"

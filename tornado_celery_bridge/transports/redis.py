"""
kombu's Redis transport, but a message is taken and noted as taken in one step.

kombu pops a message with BRPOP and writes it into ``unacked`` with a second command. A worker that is killed in
between, or whose connection ends with the reply under way, loses the message. Here a Lua script does both, for as many
messages as prefetch allows. All else in Redis is as kombu writes and reads it: queues, ``unacked``, restoring, fan-out.
So workers and publishers with either transport may share queues, and an app can change back at any time.

Theory of operation. A script can't wait, and every Redis command that waits for several lists also pops. So a channel
that found nothing *waits* without a command: it has the server track its lists (``CLIENT TRACKING``, made for caches in
clients) and tell it of the next change, whoever made it.

    asking    the script was sent; kombu's ``_in_poll`` is the connection, as with a BRPOP under way
    waiting   the script found nothing, tracking is on, and EXISTS said that all lists are empty. The connection
              becomes readable when something is pushed to one. Then, or after ``brpop_timeout`` (1 s), the channel
              asks again, so it notices a connection that died without a sign as soon as kombu does.

Tracking is off while asking: a worker with no room for more hears nothing. (kombu believes that an idle connection with
something to read is lost.)

Needs Redis 7 or Valkey, of which a cluster is served as well (the transport option ``cluster``). Sentinel keeps kombu's
own transport. ``tests/transports`` checks what is used here of kombu's inside against the version installed.
"""

import contextlib
import logging
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from queue import Empty
from time import monotonic, time
from typing import Any

import hiredis
from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.scheduling import priority_cycle
from redis.exceptions import NoScriptError

from tornado_celery_bridge.base.cluster import in_cluster, slot_of
from tornado_celery_bridge.base.encoding import escaped, loads
from tornado_celery_bridge.base.lua import sha_of
from tornado_celery_bridge.base.versions import RESP3, RESTORES_AS_TOLD, flush_reauth, logging_in_first
from tornado_celery_bridge.transports.core import close_channels

log = logging.getLogger(__name__)

#: Messages taken at once at most. Redis does nothing else meanwhile: about 10 µs for a message of 1 kB.
MAX_TAKEN = 100

#: Seconds after which it is measured again how far this machine's clock is from the server's.
CLOCK_INTERVAL = 60.0

#: The script, without comments.
TAKE = re.sub(r"^--.*\n", "", (Path(__file__).parent / "lua" / "take.lua").read_text(), flags=re.MULTILINE)


#: The delivery tags that this process held when it lost a connection, by where they are noted. Celery forgets these
#: messages with the connection (a task that waits for its eta, one that it ends): the next connection puts them back
#: into their queues, as RabbitMQ does. Else they come back after the visibility timeout alone, long after their time.
_LEFT: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)


#: In a thread that acknowledges together: what is to be acknowledged yet.
_together = threading.local()


@contextlib.contextmanager
def acknowledging_together() -> Iterator[None]:
    """Acknowledge in one round trip, at the end, what the block acknowledges. Not within another such block."""
    _together.tags = tags = defaultdict[QoS, list[str]](list)
    try:
        yield
    finally:
        del _together.tags
        for qos, those in tags.items():
            qos.acknowledge(those)


class QoS(redis.QoS):
    """kombu's, which does not note again what the script has noted, and puts back what a lost connection held."""

    visibility_timeout: float

    def restore_unacked(self, client: Any = None) -> None:
        held = list(self._delivered)
        try:
            super().restore_unacked(client)
        except self.channel.connection_errors:
            _LEFT[self.channel._notes].update(held)
            self._delivered.clear()
            raise

    def _remove_from_indices(self, delivery_tag: str, pipe: Any = None) -> Any:
        return self._remove([delivery_tag], pipe)

    def _remove(self, delivery_tags: Sequence[str], pipe: Any = None) -> Any:
        """Return *pipe* with the commands that remove the notes; or a pipe without MULTI, which they can do without:
        kombu removes a tag that has no message."""
        if pipe is None:
            with self.channel.conn_or_acquire() as client:
                pipe = client.pipeline(transaction=False)
        return pipe.hdel(self.unacked_key, *delivery_tags).zrem(self.unacked_index_key, *delivery_tags)

    def append(self, message: Any, delivery_tag: str) -> None:
        if delivery_tag == self.channel._noted:
            message._raw = None  # which kombu would note; it is as large as all else of a message that waits
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        if not RESTORES_AS_TOLD:
            kwargs["interval"] = self.channel.unacked_restore_throttle
        timeout = self.visibility_timeout
        self.visibility_timeout = timeout + self.channel._ahead  # kombu compares with this machine's time
        try:
            super().restore_visible(*args, **kwargs)
        finally:
            self.visibility_timeout = timeout

    # Celery logs an acknowledgement that is lost with its connection, and goes on. The message comes back after the
    # visibility timeout. Its slot is freed: else a worker that lost as many as it may hold would never ask again.

    def ack(self, delivery_tag: str) -> None:
        tags: dict[QoS, list[str]] | None = getattr(_together, "tags", None)
        if tags is None:
            try:
                super().ack(delivery_tag)
            except self.channel.connection_errors:
                virtual.QoS.ack(self, delivery_tag)
                raise
        else:
            virtual.QoS.ack(self, delivery_tag)
            tags[self].append(delivery_tag)

    def acknowledge(self, delivery_tags: Sequence[str]) -> None:
        """Acknowledge, at the server, messages whose slots are free."""
        try:
            self._remove(delivery_tags).execute()
        except self.channel.connection_errors as exc:
            log.critical("Couldn't ack %s messages, reason:%r", len(delivery_tags), exc)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        try:
            super().reject(delivery_tag, requeue)
        except self.channel.connection_errors:
            virtual.QoS.ack(self, delivery_tag)
            raise


class Channel(redis.Channel):
    """kombu's channel, with another way from the queues to `Transport._deliver`."""

    QoS = QoS

    #: The delivery tag that is being delivered, when the script has noted it.
    _noted: str | None = None
    _brpop_sent_at: Any = None  # kombu's; it looks at it while `_in_poll`
    # Options of kombu's transport, from 5.7 on.
    brpop_timeout: float = 1
    unacked_restore_throttle = 10
    #: Whether the servers are a Redis Cluster; see base/cluster.py.
    cluster: Any = None
    from_transport_options = (
        *redis.Channel.from_transport_options,
        *("cluster", *(() if RESTORES_AS_TOLD else ("unacked_restore_throttle",))),
    )
    #: The socket on which the server says when something comes, and the one on which tracking is on.
    _waiting: Any = None
    _tracked: Any = None
    #: How many replies come to what was asked; the last of them is the script's.
    _replies_due = 1
    #: The client of `_create_client`, with whose pool it ends.
    _reused: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unacknowledged: set[str] = set()
        super().__init__(*args, **kwargs)

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        (self._unacknowledged.add if no_ack else self._unacknowledged.discard)(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def prepare_message(
        self,
        body: Any,
        priority: Any = None,
        content_type: Any = None,
        content_encoding: Any = None,
        headers: Any = None,
        properties: Any = None,
    ) -> Any:
        # kombu writes the headers into JSON of its own, where a dict among them may look like a type.
        headers = escaped(headers)
        return super().prepare_message(body, priority, content_type, content_encoding, headers, properties)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return bool(self._size(queue))  # kombu asks by EXISTS, to which it gives no global_keyprefix

    # kombu's poller calls the next two by these names.

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for messages, unless waiting. Called when there is room for more and no question is under way."""
        if self._notes in _LEFT:
            self._restore_left()
        if monotonic() >= self._measured_until:
            self._measure_clock()
        connection, now = self.client.connection, monotonic()
        if self._waiting and self._waiting is connection._sock and now - self._brpop_sent_at < self.brpop_timeout:
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        self._in_poll, self._brpop_sent_at, self._waiting = connection, now, None
        self._asked = (
            queues,
            [self.global_keyprefix + self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues],
        )
        take = ("EVALSHA", sha_of(TAKE), *self._take(*self._asked))
        if self._tracked is not None and self._tracked is connection._sock:
            self._send(("CLIENT", "TRACKING", "OFF"), take)
            self._replies_due = 2
        else:
            self._send(take)
            self._replies_due = 1
        self._tracked = None

    def _brpop_read(self, **options: Any) -> bool:
        """Deliver what was taken; called when the connection is readable."""
        try:
            if not self._in_poll:  # woken
                self._waiting = None
                self._brpop_start()
            if not self._in_poll:  # by a queue that is consumed no more
                self.client.connection.disconnect()
                raise Empty
            try:
                try:
                    taken = self._replies(self._replies_due)[-1]
                except NoScriptError:
                    self._send(("EVAL", TAKE, *self._take(*self._asked)))
                    taken = self._replies(1)[0]
                if not taken:
                    self._wait()
            except Exception:  # the connection would have the rest of the replies for the next question
                self.client.connection.disconnect()
                raise
        finally:
            self._in_poll = None
            flush_reauth(self)
        if not taken:
            raise Empty
        if self._closing and taken[0][1]:  # kombu reads what is under way before it closes
            self._give_back(taken)
            raise Empty
        self._deliver_all(self._asked[0], taken)
        return True

    def _take(self, queues: Sequence[str], lists: Sequence[str]) -> tuple[Any, ...]:
        """Return what comes after the script in the command."""
        most = min(self.qos.can_consume_max_estimate() or 1, MAX_TAKEN)  # with no prefetch limit one by one, as kombu
        turns = not isinstance(self._queue_cycle, priority_cycle)
        noted = (self.ack_emulation and queue not in self._unacknowledged for queue in queues)
        unacked = [self.global_keyprefix + key for key in (self.unacked_key, self.unacked_index_key)]
        return (
            2 + len(lists),
            *unacked,
            *lists,
            most,
            repr(time() - self._ahead),
            int(turns),
            *map(int, noted),
        )

    def _wait(self) -> None:
        self._send(("CLIENT", "TRACKING", "ON"), ("EXISTS", *self._asked[1]))
        connection, found = self.client.connection, self._replies(2)[1]
        self._tracked = connection._sock
        if not found and not connection.can_read(0):  # what came along with the reply, no poll would see
            self._waiting = connection._sock

    def _deliver_all(self, queues: Sequence[str], taken: Sequence[tuple[int, Any, bytes]]) -> None:
        for position, (queue, tag, message) in enumerate(taken):
            self._queue_cycle.rotate(queues[queue])
            self._noted = tag and bytes_to_str(tag)
            try:
                if (payload := self._payload(queues[queue], message)) is not None:
                    self.connection._deliver(payload, queues[queue])
                elif tag:
                    self.qos._remove_from_indices(self._noted).execute()
            except BaseException:
                self._give_back(taken[position + 1 :])
                raise
            finally:
                self._noted = None

    def _payload(self, queue: str, message: bytes) -> Any:
        """Return a message as kombu has it; None for one that is none, which would end each worker that takes it."""
        try:
            payload = loads(bytes_to_str(message))
            payload["properties"]["delivery_tag"]
            for part in ("headers", "properties"):
                if isinstance(payload.get(part), dict):  # else each message that waits has names of its own
                    payload[part] = {sys.intern(name): value for name, value in payload[part].items()}
        except Exception as exc:
            log.error("a message in %s is not one of kombu's, and is dropped: %r", queue, exc)
            return None
        return payload

    def _give_back(self, taken: Sequence[tuple[int, Any, bytes]]) -> None:
        with contextlib.suppress(*self.connection_errors):  # else they come back after the visibility timeout
            for _, tag, _ in reversed(taken):
                self.qos.restore_by_tag(bytes_to_str(tag))

    def _send(self, *commands: tuple[Any, ...]) -> None:
        connection = self.client.connection
        connection.send_packed_command(connection.pack_commands(commands))

    def _replies(self, count: int) -> list[Any]:
        """Return *count* replies. What the server says unasked redis-py keeps apart, and redis-py 5 hands over."""
        client, replies = self.client, list[Any]()
        while len(replies) < count:
            reply = client.parse_response(client.connection, "EVAL")
            if not isinstance(reply, hiredis.PushNotification):
                replies.append(reply)
        return replies

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """Return kombu's, with RESP3, which has words unasked: redis-py's default from 8 on."""
        params = {**super()._connparams(asynchronous), **RESP3}
        params["connection_class"] = logging_in_first(params["connection_class"])
        options = {"cluster": self.cluster, "global_keyprefix": self.global_keyprefix}
        if slot := slot_of(options, params.get("host"), params.get("port")):
            params |= {"cluster": slot, "connection_class": in_cluster(params["connection_class"])}
        return params

    @cached_property
    def _notes(self) -> tuple[str, ...]:
        """Where it is noted which messages are taken."""
        return (self.connection.client.as_uri(), self.global_keyprefix, self.unacked_key)

    #: Seconds by which this machine's clock is ahead of the server's, and until when that is taken for true. When a
    #: message was taken is noted by the server's clock: else a machine whose clock is ahead by more than the visibility
    #: timeout gives the messages that others work on to somebody else.
    _ahead, _measured_until = 0.0, 0.0

    def _measure_clock(self) -> None:
        with self.conn_or_acquire() as client:
            before = time()
            seconds, microseconds = client.time()
            self._ahead = (before + time()) / 2 - seconds - microseconds / 1_000_000
        self._measured_until = monotonic() + CLOCK_INTERVAL

    def _restore_left(self) -> None:
        left = _LEFT[self._notes]
        log.info("%s messages that a lost connection held go back into their queues", len(left))
        with self.conn_or_acquire() as client:
            for tag in tuple(left):
                self.qos.restore_by_tag(tag, client=client)
                left.discard(tag)
        _LEFT.pop(self._notes, None)

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Return one client for all commands. kombu makes one for each, which takes longer than a round trip."""
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._reused is None or self._reused.connection_pool is not self.pool:
            self._reused = super()._create_client()
        return self._reused


class _Poller(redis.MultiChannelPoller):
    def get(self, callback: Any, timeout: float | None = None) -> Any:
        # Without an event loop: end waiting as often as BRPOP would, to ask again and to restore.
        return super().get(callback, min(1.0, timeout) if timeout is not None else 1.0)

    # Of a connection that is gone by now there may still be an event, which would end a worker with kombu below 5.7.

    def handle_event(self, fileno: int, event: int) -> Any:
        return super().handle_event(fileno, event) if fileno in self._fd_to_chan else None

    def on_readable(self, fileno: int) -> None:
        if fileno in self._fd_to_chan:
            super().on_readable(fileno)


class Transport(redis.Transport):
    """
    The transport; its options are kombu's.

    .. versionadded:: 0.1.0
    """

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = _Poller()
        self._restoring: Any = None  # a timer, with an older kombu

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Restore what is overdue as often as ``unacked_restore_interval`` says, whichever kombu this is."""
        super().register_with_event_loop(connection, loop)
        if not RESTORES_AS_TOLD:
            interval = connection.client.transport_options.get("unacked_restore_interval", 10)
            self._restoring = loop.call_repeatedly(interval, self.cycle.maybe_restore_messages)

    def _collect(self, connection: Any) -> None:
        """Close all channels, whether or not the broker is there."""
        if self._restoring is not None:
            self._restoring.cancel()
        close_channels(self)
        self.cycle.close()

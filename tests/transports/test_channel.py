"""The channel against a real server, beside kombu's own: the same order, the same in Redis, nothing lost."""

import contextlib
import hashlib
import inspect
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import trustme
from celery import Celery
from kombu import Connection
from kombu import transport as transports
from kombu.asynchronous import Hub
from kombu.transport import redis as stock
from kombu.transport.virtual import base

from tests.servers import Server, TlsProxy, wait_for
from tests.transports import consuming
from tornado_celery_bridge.base.versions import HAS_BATCHES
from tornado_celery_bridge.transports import depth, register
from tornado_celery_bridge.transports import redis as ours
from tornado_celery_bridge.worker.bootsteps import AcknowledgeTogether

log = logging.getLogger(__name__)

TRANSPORTS = {"ours": ours.Transport, "stock": stock.Transport}


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    with server.client() as made:
        made.flushall()
        yield made
        made.flushall()


@contextlib.contextmanager
def connected(server: Server, transport: str = "ours", **options: Any) -> Iterator[Connection]:
    with Connection(server.url, transport=TRANSPORTS[transport], transport_options=options) as connection:
        yield connection


def publish(
    server: Server, queue: str, *numbers: int, transport: str = "stock", priority: int = 0, **more: Any
) -> None:
    with connected(server, transport, **more.pop("options", {})) as connection:
        for number in numbers:
            connection.Producer().publish({"n": number}, routing_key=queue, priority=priority, **more)


class Consuming(consuming.Consuming):
    """That, and how it waits."""

    def drain(self, timeout: float = 0.3) -> list[int]:
        """Return the numbers of what comes until nothing comes for *timeout* seconds."""
        with contextlib.suppress(TimeoutError, socket.timeout):
            while True:
                self.connection.drain_events(timeout=timeout)
        return self.numbers


# Taking.


def test_as_many_as_prefetch_allows_in_one_step(server: Server, client: redis.Redis) -> None:
    publish(server, "a", *range(5))
    with connected(server) as connection:
        consuming = Consuming(connection, "a", prefetch=3)
        connection.drain_events(timeout=5)
        assert consuming.numbers == [0, 1, 2]
        assert client.hlen("unacked") == client.zcard("unacked_index") == 3
        assert client.llen("a") == 2
        assert consuming.drain() == [0, 1, 2]
        for message in consuming.messages:
            message.ack()
        assert client.exists("unacked", "unacked_index") == 0
        assert consuming.drain() == [0, 1, 2, 3, 4]


def test_a_server_that_has_forgotten_the_script_gets_it_again(server: Server, client: redis.Redis) -> None:
    with connected(server) as connection:
        consuming = Consuming(connection, "a")
        for number in range(3):
            client.script_flush()
            publish(server, "a", number)
            assert consuming.drain() == [*range(number + 1)]
            consuming.messages[-1].ack()
        assert not client.exists("a", "unacked", "unacked_index")


def test_a_message_costs_so_many_commands(server: Server, client: redis.Redis) -> None:
    """Of a worker that has enough to do: to ask, to take and to note, to acknowledge."""
    publish(server, "a", *range(8), transport="ours")
    with connected(server) as connection:
        consuming = Consuming(connection, "a", prefetch=2)
        connection.drain_events(timeout=5)
        client.config_resetstat()
        for number in range(5):
            consuming.messages[number].ack()
            while len(consuming.messages) < number + 3:
                connection.drain_events(timeout=5)
        found: Any = client.info("commandstats")
    spent = {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in found.items()}
    each = ("evalsha", "lindex", "zadd", "hset", "rpop", "hdel", "zrem")
    assert spent.keys() - {"config|resetstat", "info"} <= {*each, "time"}, spent
    assert sum(spent[name] for name in each) <= len(each) * 6, spent


def test_never_more_than_room_for(server: Server, client: redis.Redis) -> None:
    publish(server, "a", *range(ours.MAX_TAKEN + 5))
    with connected(server) as connection:
        consuming = Consuming(connection, "a", prefetch=0)
        connection.drain_events(timeout=5)
        assert consuming.numbers == [0]  # as kombu does, where nobody set a limit
    with connected(server) as connection:
        consuming = Consuming(connection, "a", prefetch=1000)
        connection.drain_events(timeout=5)
        assert len(consuming.numbers) == ours.MAX_TAKEN


def test_what_is_noted_is_what_kombu_notes(server: Server, client: redis.Redis) -> None:
    headers = {"big": 2**80, "deep": [[[{}]]], "text": 'é / \\ " \u2028', "float": 0.1, "empty": []}
    publish(server, "a", 1, priority=5, headers=headers)
    (raw,) = client.lrange("a\x06\x163", 0, -1)
    noted = {}
    for transport in TRANSPORTS:
        with connected(server, transport) as connection:
            consuming = Consuming(connection, "a")
            assert consuming.drain() == [1]
            ((tag, entry),) = client.hgetall("unacked").items()
            ((indexed, score),) = client.zrange("unacked_index", 0, -1, withscores=True)  # type: ignore[str-unpack]
            assert tag == indexed == consuming.messages[0].delivery_tag.encode()
            assert abs(score - time.time()) < 5  # type: ignore[operator]
            noted[transport] = json.loads(entry)
            consuming.messages[0].ack()
        client.lpush("a\x06\x163", raw)
    assert noted["ours"] == noted["stock"]
    assert raw in entry or json.loads(raw) == noted["ours"][0]  # type: ignore[operator]


@pytest.mark.parametrize("strategy", ["round_robin", "priority", "sorted"])
@pytest.mark.parametrize("prefetch", [1, 4, 100])
def test_the_order_is_kombus(server: Server, client: redis.Redis, strategy: str, prefetch: int) -> None:
    orders = {}
    for transport in TRANSPORTS:
        client.flushall()
        number = iter(range(100))
        for queue, count in (("b", 5), ("a", 3), ("c", 1)):
            for priority in (9, 0, 5):
                publish(server, queue, *(next(number) for _ in range(count)), priority=priority)
        with connected(server, transport, queue_order_strategy=strategy) as connection:
            consuming = Consuming(connection, "b", "c", "a", prefetch=prefetch)
            while len(consuming.numbers) < 27:
                connection.drain_events(timeout=10)
                for message in consuming.messages:
                    if not message.acknowledged:
                        message.ack()
            orders[transport] = consuming.numbers
    assert len(orders["stock"]) == 27
    assert orders["ours"] == orders["stock"]


def test_priorities_of_0_to_9(server: Server, client: redis.Redis) -> None:
    for priority in (9, 7, 5, 3, 1, 0, 2, 4, 6, 8):
        publish(server, "a", priority, priority=priority)
    with connected(server) as connection:
        assert Consuming(connection, "a").drain() == [1, 0, 2, 5, 3, 4, 7, 6, 8, 9]  # in steps of 0, 3, 6 and 9


def test_without_acknowledgement_nothing_is_noted(server: Server, client: redis.Redis) -> None:
    publish(server, "a", 1, 2)
    with connected(server) as connection:
        consuming = Consuming(connection, "a", no_ack=True)
        connection.drain_events(timeout=5)
        assert consuming.numbers == [1]  # what is not noted is taken one by one
        assert client.exists("unacked", "unacked_index") == 0
    with connected(server, ack_emulation=False) as connection:
        assert Consuming(connection, "a").drain() == [2]
        assert client.exists("unacked", "unacked_index") == 0


@pytest.mark.parametrize("header", [{"text": "\ud800"}, {"number": float("nan")}])
def test_what_lua_cannot_read_is_noted_all_the_same(
    server: Server, client: redis.Redis, header: dict[str, Any]
) -> None:
    publish(server, "a", 1)
    publish(server, "a", 2, headers=header)
    publish(server, "a", 3)
    with connected(server) as connection:
        consuming = Consuming(connection, "a")
        assert consuming.drain() == [1, 2, 3]
        assert client.hlen("unacked") == client.zcard("unacked_index") == 3


def test_a_header_that_looks_like_a_type_is_none(server: Server, client: redis.Redis) -> None:
    headers = {"like": [{"__type__": "datetime", "__value__": "x"}]}
    publish(server, "a", 1, transport="ours", headers=headers)
    with connected(server) as connection:
        consuming = Consuming(connection, "a")
        assert consuming.drain() == [1]
        assert consuming.messages[0].headers == headers


@pytest.mark.parametrize("poison", ["no JSON", "[]", "{}", "a type"])
def test_what_is_no_message_is_dropped(
    server: Server, client: redis.Redis, poison: str, caplog: pytest.LogCaptureFixture
) -> None:
    publish(server, "a", 1)
    if poison == "a type":
        publish(server, "a", 2, headers={"like": {"__type__": "nowhere", "__value__": 1}})
    else:
        client.lpush("a", poison)
    publish(server, "a", 3)
    with connected(server) as connection:
        consuming = Consuming(connection, "a")
        assert consuming.drain() == [1, 3]
        assert client.hlen("unacked") == client.zcard("unacked_index") == 2
    assert "a message in a is not one of kombu's, and is dropped" in caplog.text


def test_all_keys_have_the_prefix(server: Server, client: redis.Redis) -> None:
    options = {"global_keyprefix": "p-"}
    publish(server, "a", 1, options=options)
    publish(server, "a", 2, options=options, transport="ours", priority=9)
    with connected(server, **options) as connection:
        assert depth(connection, "a") == 2
        consuming = Consuming(connection, "a")
        assert consuming.drain() == [1, 2]
        assert all(key.startswith(b"p-") for key in client.scan_iter())
        consuming.messages[0].reject(requeue=True)
        assert consuming.drain() == [1, 2, 1]
    assert client.llen("p-a") == client.llen("p-a\x06\x169") == 1


def test_a_full_server_lets_its_queues_be_emptied(server: Server, client: redis.Redis) -> None:
    publish(server, "a", 1, 2)
    client.config_set("maxmemory", 1)
    try:
        with connected(server) as connection:
            consuming = Consuming(connection, "a")
            connection.drain_events(timeout=5)
            assert consuming.numbers == [1, 2]
            for message in consuming.messages:
                message.ack()
            assert client.exists("a", "unacked") == 0
    finally:
        client.config_set("maxmemory", 0)


def test_an_error_leaves_the_message_in_its_queue(server: Server, client: redis.Redis) -> None:
    publish(server, "a", 1)
    client.set("unacked", "no hash")
    with connected(server) as connection:
        consuming = Consuming(connection, "a")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            connection.drain_events(timeout=5)
        assert client.llen("a") == 1
        client.delete("unacked")
        assert consuming.drain() == [1]


# Waiting.


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("priority", [0, 4, 9])
def test_woken_by_any_publisher_at_any_priority(
    server: Server, client: redis.Redis, transport: str, priority: int
) -> None:
    with connected(server) as connection:
        consuming = Consuming(connection, "a", "b")
        for number, queue in enumerate("abba"):
            assert consuming.drain(0.05) == list(range(number))
            assert consuming.channel._waiting
            publish(server, queue, number, transport=transport, priority=priority)
            begun = time.monotonic()
            connection.drain_events(timeout=5)
            assert time.monotonic() - begun < 0.5  # by the server, not by asking every second


def test_what_comes_as_it_begins_to_wait_is_not_slept_over(server: Server, client: redis.Redis) -> None:
    count = 300
    with connected(server) as connection:
        consuming = Consuming(connection, "a", prefetch=1)
        thread = threading.Thread(target=publish, args=(server, "a", *range(count)))
        thread.start()
        slowest = 0.0
        while len(consuming.messages) < count:
            begun = time.monotonic()
            connection.drain_events(timeout=5)
            slowest = max(slowest, time.monotonic() - begun)
            consuming.messages[-1].ack()
        thread.join()
        assert slowest < 0.9
        assert consuming.numbers == list(range(count))


def test_a_connection_that_was_cut_is_made_anew(server: Server, client: redis.Redis) -> None:
    with connected(server) as connection:
        consuming = Consuming(connection, "a")
        for number in range(3):
            consuming.drain(0.05)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]
            publish(server, "a", number)
            with contextlib.suppress(*connection.connection_errors):
                connection.drain_events(timeout=5)
            assert consuming.drain() == list(range(number + 1))


def test_a_reply_that_never_arrived_is_no_loss(server: Server, client: redis.Redis) -> None:
    publish(server, "a", 1, priority=5)
    with connected(server) as connection:
        consuming = Consuming(connection, "a")
        connection.transport.cycle.on_poll_start()  # asks
        wait_for(lambda: client.hlen("unacked") == 1)
        consuming.channel.client.connection.disconnect()
        assert client.llen("a\x06\x163") == 0
        consuming.channel.qos.visibility_timeout = 0
        consuming.channel.qos.restore_visible(interval=1)
        assert client.llen("a\x06\x163") == 1
        assert consuming.drain() == [1]
        assert consuming.messages[0].delivery_info["redelivered"] is True


@pytest.mark.parametrize("ahead", [3_000.0, -3_000.0])
def test_what_others_work_on_stays_theirs_whatever_a_clock_says(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """One machine's clock is off by more than the visibility timeout; first it takes, then the other does."""
    right = time.time

    def look(connection: Connection) -> None:
        consuming = Consuming(connection, "b")
        consuming.drain(0.05)
        consuming.channel.qos.restore_visible(interval=1)

    for first, second in ((right, lambda: right() + ahead), (lambda: right() + ahead, right)):
        publish(server, "a", 1)
        with connected(server, visibility_timeout=1_260) as one, connected(server, visibility_timeout=1_260) as other:
            for module in ("kombu.transport.redis", "tornado_celery_bridge.transports.redis"):
                monkeypatch.setattr(f"{module}.time", first)
            working = Consuming(one, "a")
            assert working.drain() == [1]
            for module in ("kombu.transport.redis", "tornado_celery_bridge.transports.redis"):
                monkeypatch.setattr(f"{module}.time", second)
            look(other)
            assert client.hlen("unacked") == 1, "it is under way"
            assert client.llen("a") == 0
            working.messages[0].ack()


def test_no_stray_word_to_a_channel_without_room(server: Server, client: redis.Redis) -> None:
    with connected(server) as connection:
        consuming = Consuming(connection, "a", prefetch=1)
        consuming.drain(0.05)
        publish(server, "a", 1)
        connection.drain_events(timeout=5)
        sock = consuming.channel.client.connection._sock
        publish(server, "a", 2, priority=9)  # another list that it was waiting for
        assert consuming.drain(0.2) == [1]
        assert consuming.channel.client.connection._sock is sock
        consuming.messages[0].ack()
        assert consuming.drain() == [1, 2]
        assert consuming.channel.client.connection._sock is sock


# Giving back.


def test_an_error_in_a_callback_gives_the_rest_back_in_order(server: Server, client: redis.Redis) -> None:
    publish(server, "a", *range(5))

    def refuse(body: Any, message: Any) -> None:
        if body["n"] == 1:
            raise ZeroDivisionError

    with connected(server) as connection:
        consuming = Consuming(connection, "a")
        consuming.consumer.register_callback(refuse)
        with pytest.raises(ZeroDivisionError):
            connection.drain_events(timeout=5)
        assert client.hlen("unacked") == 2
        assert consuming.drain() == [0, 1, 2, 3, 4]


def test_reject_and_close_put_back_what_was_taken(server: Server, client: redis.Redis) -> None:
    publish(server, "a", 0, 1, 2)
    with connected(server) as connection:
        consuming = Consuming(connection, "a")
        consuming.drain()
        consuming.messages[0].reject(requeue=True)
        assert client.llen("a") == 1
        consuming.messages[1].reject()
        assert client.hlen("unacked") == 1
    assert client.llen("a") == 2
    assert client.exists("unacked", "unacked_index") == 0


def test_a_queue_that_is_consumed_no_more(server: Server, client: redis.Redis) -> None:
    with connected(server) as connection:
        consuming = Consuming(connection, "a", "b")
        consuming.drain(0.05)
        consuming.consumer.cancel_by_queue("a")
        publish(server, "a", 1)
        publish(server, "b", 2)
        assert consuming.drain() == [2]
        consuming.consumer.cancel_by_queue("b")
        publish(server, "b", 3)
        assert consuming.drain() == [2]
        assert client.llen("a") == client.llen("b") == 1


def test_what_is_acknowledged_together_takes_one_step(server: Server, client: redis.Redis) -> None:
    publish(server, "a", *range(10))
    with connected(server) as connection:
        consuming = Consuming(connection, "a", prefetch=10)
        assert consuming.drain() == list(range(10))
        client.config_resetstat()
        with ours.acknowledging_together():
            for message in consuming.messages[:9]:
                message.ack()
            assert client.hlen("unacked") == client.zcard("unacked_index") == 10
            assert consuming.channel.qos.can_consume_max_estimate() == 9
        assert client.hlen("unacked") == client.zcard("unacked_index") == 1
        assert client.info("commandstats")["cmdstat_hdel"]["calls"] == 1
        consuming.messages[9].ack()
        assert not client.exists("unacked", "unacked_index")


def test_a_turn_of_the_workers_loop_acknowledges_together(server: Server, client: redis.Redis) -> None:
    hub, said = Hub(), list[Any]()
    consumer = SimpleNamespace(hub=hub, call_soon_ack=None)
    AcknowledgeTogether(consumer)
    publish(server, "a", *range(4))
    with connected(server) as connection:
        consuming = Consuming(connection, "a", prefetch=10)
        consuming.drain()
        client.config_resetstat()
        for message in consuming.messages[:3]:
            consumer.call_soon_ack(message.ack_log_error, log, connection.connection_errors)
        consumer.call_soon_ack(said.append, "other")
        hub.run_once()
        assert client.hlen("unacked") == 1
        assert said == ["other"]
        assert client.info("commandstats")["cmdstat_hdel"]["calls"] == 1
        consumer.call_soon_ack(consuming.messages[3].ack_log_error, log, connection.connection_errors)
        hub.run_once()
        assert client.hlen("unacked") == 0
    hub.close()


@pytest.mark.parametrize("way", ["ack", "together", "reject", "requeue"])
def test_a_lost_acknowledgement_keeps_no_slot(tmp_path: Path, way: str) -> None:
    made = Server(tmp_path / "redis").start()
    try:
        publish(made, "a", 1)
        connection = Connection(made.url, transport=ours.Transport)
        consuming = Consuming(connection, "a", prefetch=1)
        connection.drain_events(timeout=5)
        assert not consuming.channel.qos.can_consume()
        made.kill()
        message, errors = consuming.messages[0], connection.connection_errors
        if way == "together":
            with ours.acknowledging_together():
                message.ack_log_error(log, errors)
        elif way == "ack":
            message.ack_log_error(log, errors)
        else:
            message.reject_log_error(log, errors, requeue=way == "requeue")
        assert consuming.channel.qos.can_consume()
        connection.collect()
    finally:
        made.stop()


# Connections.


def test_commands_share_a_client_and_each_pool_has_its_own(server: Server, client: redis.Redis) -> None:
    with connected(server) as connection:
        channel = connection.channel()
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second
        channel._after_fork()
        with channel.conn_or_acquire() as third:
            assert third is not first
            assert third.ping()
        assert channel.client is not third  # whose connection the poller keeps
        assert channel.subclient.connection_pool is not third.connection_pool


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_broker_that_is_gone_can_be_let_go_of(tmp_path: Path, transport: str) -> None:
    """Fails for kombu's when kombu heals it: then `Transport._collect` is needed no more."""
    made = Server(tmp_path / "redis").start()
    publish(made, "a", 0)
    connection = Connection(made.url, transport=TRANSPORTS[transport])
    try:
        channels = {"a": connection.default_channel, "b": connection.channel()}
        # A message taken by the default channel, and both waiting: a worker with a task under way, and its control.
        consumings = [Consuming(connection, name, channel=channel) for name, channel in channels.items()]
        consumings[0].drain()
        connection.transport.cycle.on_poll_start()
        made.kill()
        connection.collect(socket_timeout=0.1)
        with contextlib.nullcontext() if transport == "ours" else pytest.raises(AttributeError, match="hostname"):
            connection.close()
        for consuming in consumings:
            consuming.channel.qos._on_collect.cancel()  # at the end of the process, it would try once more
        made.start()
        with connected(made, visibility_timeout=1, unacked_restore_throttle=1) as connection:
            consuming = Consuming(connection, "a")
            connection.drain_events(timeout=10)
            assert consuming.numbers == [0]
    finally:
        made.stop()


@pytest.mark.parametrize("way", ["collect", "close"])
def test_what_is_under_way_when_it_is_closed_goes_back(server: Server, client: redis.Redis, way: str) -> None:
    """Another connection of the worker was lost, say; the broker is there."""
    publish(server, "a", 0, 1, 2)
    connection = Connection(server.url, transport=ours.Transport)
    consuming = Consuming(connection, "a")
    connection.transport.cycle.on_poll_start()  # asks
    wait_for(lambda: client.hlen("unacked") == 3)
    getattr(connection, way)()
    connection.close()
    assert consuming.messages == []
    assert client.exists("unacked", "unacked_index") == 0
    with connected(server) as connection:
        assert Consuming(connection, "a").drain() == [0, 1, 2]


@pytest.fixture
def registered() -> Iterator[None]:
    before = {name: transports.TRANSPORT_ALIASES[name] for name in ("redis", "rediss")}
    register("redis://")
    yield
    transports.TRANSPORT_ALIASES.update(before)
    for name in before:
        transports._transport_cache.pop(name, None)


@pytest.mark.usefixtures("registered")
def test_registered_for_every_url_but_sentinels(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    made = Server(tmp_path, "--unixsocket", str(tmp_path / "s")).start()
    proxy = TlsProxy(made.port, tmp_path / "cert.pem", tmp_path / "cert.pem")
    try:
        for url in (
            made.url,
            f"redis+socket://{tmp_path}/s?virtual_host=0",
            f"rediss://127.0.0.1:{proxy.port}/0?ssl_cert_reqs=required&ssl_ca_certs={tmp_path}/ca.pem",
        ):
            with Connection(url) as connection:
                assert type(connection.transport) is ours.Transport
                assert connection.as_uri().partition(":")[0] == url.partition(":")[0]  # what Flower and others read
                consuming = Consuming(connection, "a")
                assert consuming.drain(0.05) == []
                publish(made, "a", 1)
                connection.drain_events(timeout=5)
                consuming.messages[0].ack()
        assert type(Connection("sentinel://127.0.0.1").transport) is stock.SentinelTransport
    finally:
        proxy.close()
        made.stop()


def test_for_one_app_by_its_setting(server: Server) -> None:
    app = Celery("own", broker=server.url, set_as_current=False)
    app.conf.broker_transport = "tornado_celery_bridge.transports.redis:Transport"
    with app.connection_for_write() as connection:
        assert type(connection.transport) is ours.Transport
        assert connection.transport.driver_type == "redis"  # what Celery asks for
    app.close()


@pytest.mark.parametrize(("environment", "expected"), [({}, ours), ({"STOCK_TRANSPORT": "1"}, stock)])
@pytest.mark.parametrize("url", ["redis://127.0.0.1/0", "rediss://127.0.0.1/0", "redis+socket:///nowhere"])
def test_the_service_uses_it_unless_told_otherwise(environment: dict[str, str], expected: Any, url: str) -> None:
    code = "from tasks.celery import app; print(type(app.connection_for_write().transport).__module__)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "STOCK_TRANSPORT": "", "REDIS_URL": url, "BROKER_URL": "", **environment},
        cwd=Path(__file__).parent.parent.parent,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert ran.stdout.strip() == expected.__name__


# kombu's inside, of which this is a part.


@pytest.mark.skipif(not HAS_BATCHES, reason="impossible here: it is about the newest kombu")
def test_the_kombu_that_this_was_written_for() -> None:
    """Fails when kombu changes what we replace or call: read its `transport/redis.py` again, then change this."""

    def digest(*parts: Any) -> str:
        return hashlib.sha256("".join(inspect.getsource(part) for part in parts).encode()).hexdigest()[:12]

    channel, poller = stock.Channel, stock.MultiChannelPoller
    assert {
        "replaced": digest(
            *(channel._brpop_start, channel._brpop_read, channel._create_client),
            *(stock.QoS.append, stock.QoS._remove_from_indices),
        ),
        "our callers": digest(
            *(poller.on_poll_start, poller._register_BRPOP, poller._register, poller._client_registered),
            *(poller.on_readable, poller.get, poller.maybe_check_brpop_health, channel.close, channel.__init__),
        ),
        "restoring": digest(stock.QoS.restore_by_tag, stock.QoS.restore_visible, channel._do_restore_message),
        "delivering": digest(base.Transport._deliver, base.Channel.basic_consume, base.QoS.append),
        "closing": digest(Connection.collect, base.Transport.close_connection),
    } == {
        "replaced": "f85e120363fc",
        "our callers": "cb282b510d04",
        "restoring": "85ba8e225eda",
        "delivering": "38b06817c868",
        "closing": "6bc3e110a1a0",
    }

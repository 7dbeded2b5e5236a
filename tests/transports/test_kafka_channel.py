"""The channel against servers that speak Kafka's protocol: Tansu, and librdkafka's own mock cluster."""

import contextlib
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
import trustme
from celery import Celery
from kombu import Connection, Exchange, Queue
from kombu.exceptions import ChannelError

from tests.faults.proxy import Proxy
from tests.servers import Server, TlsProxy, free_port, wait_for
from tests.transports.kafka_client import Consuming, connected, length, publish
from tornado_celery_bridge.base.versions import HAS_BATCHES
from tornado_celery_bridge.transports import kafka, register
from tornado_celery_bridge.transports.kafka import AccessRefused, MessageTooLarge, NotSent, PriorityRefused, SentInDoubt
from tornado_celery_bridge.transports.servers import server_of
from tornado_celery_bridge.up.brokers.tansu import Tansu

needs_batches = pytest.mark.skipif(not HAS_BATCHES, reason="impossible here: kombu below 5.7 has no batches")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tansu]:
    made = Tansu(tmp_path_factory.mktemp("kafka")).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    """A cluster of three, in this process; it makes topics by itself and knows no admin."""
    cluster = confluent_kafka.Producer({"test.mock.num.brokers": 3, "bootstrap.servers": "none", "log_level": 0})
    found = cluster.list_topics(timeout=10).brokers.values()
    yield f"kafka://{','.join(f'{each.host}:{each.port}' for each in found)}/"
    del cluster


# Queues.


def test_who_consumes_is_told_that_nothing_will_come_any_more(broker: Tansu) -> None:
    """So that kombu connects again."""
    with connected(broker.url) as connection:
        Consuming(connection, "ended")
        reader = connection.connection._parts._reader
        reader._fail(RuntimeError("librdkafka gave up"))
        with pytest.raises(connection.recoverable_connection_errors, match="librdkafka gave up"):
            connection.drain_events(timeout=20)


def test_prefetch_acknowledgement_and_length(broker: Tansu) -> None:
    with connected(broker.url) as connection:
        publish(connection, "a", *range(5))
        assert length(connection, "a") == 5
        consuming = Consuming(connection, "a", prefetch=2)
        consuming.get(2)
        assert len(consuming.drain()) == 2
        consuming.messages[1].ack()
        assert len(consuming.get(3)) == 3
        for message in (consuming.messages[0], consuming.messages[2]):
            message.ack()
        assert len(consuming.get(5)) == 5
        consuming.messages[3].ack()
        consuming.messages[4].reject()
        assert sorted(consuming.numbers) == [*range(5)]
        wait_for(lambda: length(connection, "a") == 0)

        publish(connection, "a", 7)
        consuming.get(6)
        consuming.messages[5].requeue()
        consuming.get(7)
        assert consuming.messages[6].delivery_info["redelivered"]
        assert consuming.numbers[5:] == [7, 7]
        consuming.messages[6].ack()
        wait_for(lambda: length(connection, "a") == 0)


def test_what_was_not_acknowledged_comes_again_and_nothing_else(mock: str) -> None:
    """Acknowledged out of order, and what is done above the first that is not is said in the commit's text."""
    with connected(mock, create_topics=False) as connection:
        publish(connection, "out-of-order", *range(40))
        consuming = Consuming(connection, "out-of-order", prefetch=100)
        consuming.get(40)
        for message in consuming.messages:
            if message.payload["n"] % 10:
                message.ack()
        wait_for(lambda: length(connection, "out-of-order") == 4)
    with connected(mock, create_topics=False) as connection:
        consuming = Consuming(connection, "out-of-order")
        assert sorted(consuming.get(4)) == [0, 10, 20, 30]
        assert len(consuming.drain()) == 4


class Unanswered:
    """A consumer whose commits get no answer, unless they are waited for."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def commit(self, *, offsets: list[Any], asynchronous: bool) -> Any:
        if not asynchronous:
            return self._consumer.commit(offsets=offsets, asynchronous=False)
        self.asked += len(offsets)
        return None


def test_a_commit_without_an_answer_counts_for_nothing(mock: str) -> None:
    """It may be refused once its consumer has gone, so a consumer that leaves says again what it said."""
    with connected(mock, create_topics=False) as one, connected(mock, create_topics=False) as other:
        publish(one, "unanswered", *range(40))
        consuming = Consuming(one, "unanswered", prefetch=40)
        consuming.get(40)
        reader = one.connection._parts._reader
        reader._consumer = unanswered = Unanswered(reader._consumer)
        for message in consuming.messages:
            message.ack()
        wait_for(lambda: unanswered.asked)
        one.close()
        assert length(other, "unanswered") == 0


def test_two_consumers_share_and_one_takes_over(mock: str) -> None:
    with connected(mock, create_topics=False) as one, connected(mock, create_topics=False) as other:
        publish(one, "shared", 0)
        first, second = Consuming(one, "shared", prefetch=1000), Consuming(other, "shared", prefetch=1000)
        for sent in range(1, 400):
            publish(one, "shared", sent)
            first.drain(0.01)
            second.drain(0.01)
            if len(second.messages) > 20 and len(first.messages) > 20:
                break
        for message in (*first.messages, *second.messages):
            message.ack()
        wait_for(lambda: len({*first.drain(0.1), *second.drain(0.1)}) == sent + 1)
        assert len(first.messages) + len(second.messages) <= sent + 1 + 5  # what was in hands as it changed
        one.close()
        before = len(second.messages)
        publish(other, "shared", *range(10))
        wait_for(lambda: {*second.drain(0.1)[before:]} >= {*range(10)})  # some may come again as one goes


def test_without_acknowledgement_and_messages_of_others(broker: Tansu) -> None:
    with connected(broker.url) as connection:
        publish(connection, "open", 1, 2)
        stranger = confluent_kafka.Producer({"bootstrap.servers": f"127.0.0.1:{broker.port}"})
        stranger.produce("open", b"not Celery's")
        assert stranger.flush(5) == 0
        publish(connection, "open", 3)
        consuming = Consuming(connection, "open", no_ack=True)
        assert sorted(consuming.get(3)) == [1, 2, 3]
        consuming.drain(0.2)
        wait_for(lambda: length(connection, "open") == 0)


def test_queues_take_turns_and_priorities_go_first(broker: Tansu) -> None:
    with connected(broker.url, priority_steps="0,5", partitions=1, topic_prefix="steps.") as connection:
        publish(connection, "x", *range(10))
        publish(connection, "y", *range(10, 20))
        publish(connection, "x", 100, priority=9)
        consuming = Consuming(connection, "x", "y", prefetch=1)
        consuming.get(1)
        reader = connection.transport._parts._reader
        wait_for(lambda: sum(len(each.buffer) for each in reader._share.values()) == 20)
        while len(consuming.messages) < 21:
            consuming.messages[-1].ack()
            connection.drain_events(timeout=10)
        consuming.messages[-1].ack()
        assert consuming.numbers.index(100) <= 1
        rest = [number for number in consuming.numbers if number != 100][1:]
        assert all((a < 10) != (b < 10) for a, b in zip(rest[:-2:2], rest[1:-1:2], strict=False))


def test_a_priority_that_is_not_served_is_refused(broker: Tansu) -> None:
    with connected(broker.url) as connection, pytest.raises(PriorityRefused):
        publish(connection, "a", 1, priority=3)


def test_purge_and_delete(broker: Tansu) -> None:
    with connected(broker.url) as connection:
        with pytest.raises(ChannelError, match="NOT_FOUND"):
            length(connection, "heap")
        publish(connection, "heap", *range(5))
        with connection.channel() as channel:
            assert channel.queue_purge("heap") == 5
            assert length(connection, "heap") == 0
            channel.queue_delete("heap")
        with pytest.raises(ChannelError):
            length(connection, "heap")


@needs_batches
def test_more_than_a_buffer_holds(broker: Tansu) -> None:
    with connected(broker.url, partitions=1) as connection:
        producer = connection.Producer()
        with producer.batch(max_size=1000):
            for number in range(1000):
                producer.publish({"n": number}, routing_key="many")
        consuming = Consuming(connection, "many", prefetch=1)
        for count in range(1, 1001):
            assert consuming.get(count)[-1] == count - 1  # in order
            consuming.messages[-1].ack()
        reader = connection.transport._parts._reader
        assert not any(each.buffer for each in reader._share.values())
        wait_for(lambda: length(connection, "many") == 0)


# Broadcasts.


def test_fanout_topic_and_direct_over_the_broadcast_topic(broker: Tansu) -> None:
    everybody = Exchange("everybody", type="fanout")
    some = Exchange("some", type="topic", durable=False)
    options: dict[str, Any] = {"durable": False, "auto_delete": True}
    with connected(broker.url) as one, connected(broker.url) as other, connected(broker.url) as sender:
        producer = sender.Producer()
        producer.publish({"n": 0}, exchange=everybody, declare=[everybody])  # nobody listens yet
        first = Consuming(one, Queue("1", everybody, **options), Queue("2", some, "a.#", **options), no_ack=True)
        second = Consuming(other, Queue("3", everybody, **options), no_ack=True)
        producer.publish({"n": 1}, exchange=everybody)
        producer.publish({"n": 2}, exchange=some, routing_key="a.b", declare=[some])
        producer.publish({"n": 3}, exchange=some, routing_key="b.a")
        producer.publish({"n": 4}, routing_key="3", delivery_mode=1)  # as `rpc://` results are sent
        assert first.get(2) == [1, 2]
        assert second.get(2) == [1, 4]
        assert first.drain(0.2) == [1, 2]
        with one.channel() as channel:
            channel.queue_delete("1")
            channel.queue_delete("2")
        assert one.transport._parts._tail is None
        assert not sender.transport.has_topic("3")


def test_two_apps_on_one_broker(broker: Tansu) -> None:
    everybody = Exchange("all", type="fanout")
    transient = Queue("t", everybody, durable=False, auto_delete=True)
    with (
        connected(f"{broker.url}?topic_prefix=one.&group_id=one") as one,
        connected(f"{broker.url}?topic_prefix=two.&group_id=two") as two,
    ):
        first, second = (Consuming(each, "tasks", transient, no_ack=True) for each in (one, two))
        publish(one, "tasks", 1)
        publish(two, "tasks", 2)
        one.Producer().publish({"n": 3}, exchange=everybody, declare=[everybody])
        assert sorted(first.get(2)) == [1, 3]
        assert second.get(1) == [2]
        assert second.drain(0.3) == [2]


# Publishing, and what can go wrong.


@needs_batches
def test_a_batch_is_waited_for_as_one(mock: str) -> None:
    with connected(mock, create_topics=False) as connection:
        producer = connection.Producer()
        assert producer.supports_batch_publish
        with producer.batch(max_size=100):
            for number in range(50):
                producer.publish({"n": number}, routing_key="batch")
        assert length(connection, "batch") == 50  # Tansu's count of a batch is too low


def test_too_large(broker: Tansu) -> None:
    with (
        connected(broker.url, **{"message.max.bytes": 1500}) as connection,
        pytest.raises(MessageTooLarge, match="1998"),
    ):
        connection.Producer().publish("x" * 1998, routing_key="large")


def test_nobody_there() -> None:
    url = f"kafka://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/"
    with pytest.raises(NotSent, match="refused"), connected(url) as connection:
        connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)


def test_a_host_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"kafka://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(NotSent), connected(url, connect_timeout=1.0) as connection:
            connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)


def test_a_user_that_is_unknown(tmp_path: Path) -> None:
    broker = Tansu(tmp_path, None, "--authentication").start()
    url = f"kafka://me:wrong@127.0.0.1:{broker.port}/?sasl.mechanism=SCRAM-SHA-256"
    try:
        with pytest.raises(AccessRefused, match="authentication"), connected(url) as connection:
            connection.connect()
        assert "wrong" not in connection.as_uri()
    finally:
        broker.stop()


def test_a_broker_that_freezes(tmp_path: Path) -> None:
    """What was on its way is in doubt, what never was is not sent; neither takes longer than it was told to."""
    broker = Tansu(tmp_path).start()
    try:
        with connected(broker.url, publish_timeout=1.0) as connection:
            publish(connection, "a", 1)
            broker.freeze()
            with pytest.raises(SentInDoubt):
                for _ in range(1000):  # until it stands still
                    begun = time.monotonic()
                    publish(connection, "a", 1)
            assert time.monotonic() - begun < 4
            connection.collect()
            broker.kill()
            broker.start()
            publish(connection, "a", 2)
            assert length(connection, "a") == 1
    finally:
        broker.stop()


def test_a_broker_that_comes_back_with_nothing(tmp_path: Path) -> None:
    """It counts from the beginning again: what was done or in hands before is not what has these offsets now."""
    broker = Tansu(tmp_path).start()
    options = {"partitions": 1}
    try:
        with connected(broker.url, **options) as connection:
            publish(connection, "a", *range(6))
            consuming = Consuming(connection, "a")
            consuming.get(6)
            for message in consuming.messages[:3]:  # and the others stay in hands
                message.ack()
            wait_for(lambda: length(connection, "a") == 3)
            broker.kill()
            broker.start()
            with connected(broker.url, **options) as sender:
                publish(sender, "a", *range(100, 107))  # before anybody has missed the topic
            while {*consuming.numbers} != {*range(6), *range(100, 107)}:
                consuming.get(len(consuming.messages) + 1)
            consuming.drain()  # what was read before it was clear that the broker is another one comes twice
            for message in consuming.messages[3:]:
                message.ack()
            wait_for(lambda: length(connection, "a") == 0)
    finally:
        broker.stop()


def test_a_producer_that_has_failed_for_good_is_replaced(tmp_path: Path) -> None:
    """As an idempotent one does at a broker that has lost its data: what is published next arrives."""
    broker = Tansu(tmp_path).start()
    options = {"partitions": 1, "publish_timeout": 0.5, "topic.metadata.propagation.max.ms": 500}
    try:
        with connected(broker.url, **options) as connection:
            writer = connection.connection.writer
            first = writer.producer
            publish(connection, "a", *range(20))
            broker.kill()
            broker.start()
            deadline = time.monotonic() + 30
            while writer.producer is first:
                assert time.monotonic() < deadline
                with contextlib.suppress(NotSent, SentInDoubt):
                    writer.ensure(["a"])
                    publish(connection, "a", 1)
            before = length(connection, "a")
            publish(connection, "a", 2, 3)
            assert length(connection, "a") == before + 2
            connection.collect()
    finally:
        broker.stop()


def test_a_connection_that_is_half_open(tmp_path: Path) -> None:
    broker_port = free_port()
    proxy = Proxy(broker_port)
    broker = Tansu(tmp_path, broker_port, advertised=proxy.port).start()
    try:
        options = {"socket.timeout.ms": 2000}
        with connected(f"kafka://127.0.0.1:{proxy.port}/", **options) as connection, connected(broker.url) as sender:
            publish(connection, "a", 1)
            consuming = Consuming(connection, "a")
            assert consuming.get(1) == [1]
            consuming.messages[0].ack()
            proxy.drop()
            time.sleep(0.2)
            sender.close()
            publish(sender, "a", 2)
            assert consuming.get(2, timeout=30) == [1, 2]
    finally:
        broker.stop()
        proxy.close()


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    port = free_port()
    proxy = TlsProxy(port, tmp_path / "cert.pem", tmp_path / "key.pem")
    broker = Tansu(tmp_path / "kafka", port, advertised=proxy.port).start()
    try:
        url = f"kafka://127.0.0.1:{proxy.port}/?security.protocol=SSL"
        with connected(f"{url}&ssl.ca.location={tmp_path}/ca.pem") as connection:
            publish(connection, "a", 1)
            assert length(connection, "a") == 1
        with pytest.raises(NotSent), connected(url, connect_timeout=2.0) as connection:  # by nobody that we know
            connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
    finally:
        broker.stop()
        proxy.close()


# Processes.


def test_a_forked_child_leaves_its_parents_connection_alone(broker: Tansu) -> None:
    with connected(broker.url) as connection:
        publish(connection, "forked", 1)
        everybody = Queue("f", Exchange("e", type="fanout"), durable=False, auto_delete=True)
        consuming = Consuming(connection, "forked", everybody)
        consuming.get(1)
        consuming.messages[0].ack()
        child = os.fork()
        if not child:  # pragma: no cover
            try:
                consuming.messages[0].channel.close()
                publish(connection, "forked", 2)  # by a producer of its own
                connection.close()
                del consuming, connection
                gc.collect()
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert consuming.get(2) == [1, 2]
        consuming.messages[1].ack()
        publish(connection, "forked", 3)
        assert consuming.get(3) == [1, 2, 3]


def test_a_lock_that_was_held_as_a_child_was_forked(broker: Tansu) -> None:
    """As it happens to pool processes, which a worker on this transport forks in a thread."""
    app = Celery("locks", broker=broker.url, set_as_current=False)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with vars(Celery)["timezone"].lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if not child:  # pragma: no cover
        signal.alarm(20)
        os._exit(0 if app.now() else 1)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
    assert app.now()
    app.close()


def test_registered_and_by_an_apps_setting(broker: Tansu) -> None:
    register("kafka://")
    assert type(Connection("kafka://h1:9092,h2/").transport) is kafka.Transport
    assert Connection("kafka://u:p@h1:9092,h2/?a.b=1").as_uri() == "kafka://u:**@h1:9092,h2/?a.b=1"
    app = Celery("own", broker=broker.url, set_as_current=False)
    app.conf.broker_transport = "tornado_celery_bridge.transports.kafka:Transport"
    with app.connection_for_write() as connection:
        assert type(connection.transport) is kafka.Transport
        connection.transport.check_connection(connection.connection)
        assert "1 brokers" in str(server_of(connection))
    app.close()


def test_what_is_due_goes_to_kafka_even_if_who_took_it_died(broker: Tansu, server: Server) -> None:
    with connected(broker.url, later_url=server.url) as connection:
        eta = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 3600))
        publish(connection, "etas", 1, headers={"eta": eta})
        assert length(connection, "etas") == 0
        later = connection.transport.later
        with server.client() as client:
            [(member, _)] = client.zrange("kafka-later:etas", 0, -1, withscores=True)
            client.zadd("kafka-later:etas", {member: time.time()})
            assert len(later.take(["etas"])) == 1  # and then he died
            assert later.take(["etas"]) == []
            client.zadd("kafka-later:etas", {member: time.time()})
        consuming = Consuming(connection, "etas")
        assert consuming.get(1) == [1]
        with connection.channel() as channel:
            publish(connection, "etas", 2, headers={"eta": eta})
            consuming.messages[0].ack()
            wait_for(lambda: length(connection, "etas") == 0)
            assert channel.connection.later.purge("etas") == 1

"""The channel against Apache Kafka itself: what its permissions, its settings and its own protocols do."""

import contextlib
import ctypes
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType
from kombu import Connection

from tests.doctor import said_of
from tests.servers import Server, wait_for
from tests.servers.kafka import ApacheKafka, need_kafka
from tests.transports.kafka_client import Consuming, connected, length, publish
from tests.transports.kafka_sample import make_app
from tornado_celery_bridge.transports.core import SetupRefused, errors_of
from tornado_celery_bridge.transports.kafka import AccessRefused, MessageTooLarge, NotSent
from tornado_celery_bridge.transports.servers import server_of
from tornado_celery_bridge.worker import install


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """A server that lets `celery` do everything, and the others what they are allowed."""
    if not ApacheKafka.available():
        need_kafka()
    users = {"celery": "secret", **dict.fromkeys(("reader", "writer", "nobody", "maker"), "secret")}
    settings = {"super.users": "User:ANONYMOUS;User:celery"}
    made = ApacheKafka(tmp_path_factory.mktemp("kafka"), settings, users=users, acls=True).start()
    made.allow("writer", "Topic Write q.", "Topic Describe q.", "Topic Describe_Configs q.")
    made.allow("reader", "Topic Read q.", "Topic Describe_Configs q.")
    made.allow("maker", "Topic Create made.")
    yield made
    made.stop()


def offsets(broker: ApacheKafka, topic: str, group: str = "celery") -> tuple[int, int, int]:
    """Return what is committed of a topic's one partition, and where it begins and ends."""
    asking = confluent_kafka.Consumer({"bootstrap.servers": f"127.0.0.1:{broker.admin_port}", "group.id": group})
    try:
        place = TopicPartition(topic, 0)
        low, high = asking.get_watermark_offsets(place, timeout=10)
        return asking.committed([place], timeout=10)[0].offset, low, high
    finally:
        asking.close()


# Permissions and settings that are missing.


def test_a_topic_that_may_not_be_made(broker: ApacheKafka) -> None:
    with (
        connected(broker.url_of("nobody", "secret")) as connection,
        pytest.raises(SetupRefused, match=r"can't be made: the user lacks the permission Create on topic 'q[.]new'"),
    ):
        publish(connection, "q.new", 1)


def test_more_copies_than_there_are_brokers(broker: ApacheKafka) -> None:
    with (
        connected(broker.url, replication=3) as connection,
        pytest.raises(SetupRefused, match=r"can't be made with replication=3: .*only 1 broker"),
    ):
        publish(connection, "q.copies", 1)


def test_a_message_that_may_not_be_written(broker: ApacheKafka) -> None:
    """It is not sent, for certain, at once and again; and a connection that closes says nothing."""
    with connected(broker.url) as connection:
        publish(connection, "q.read", 1)
    with connected(broker.url_of("reader", "secret"), publish_timeout=30.0) as connection:
        for _ in range(3):
            with pytest.raises(SetupRefused, match=r"permission Write on topic 'q[.]read'"):
                publish(connection, "q.read", 2)
        assert issubclass(SetupRefused, errors_of(connection))
    with connected(broker.url) as connection:
        assert length(connection, "q.read") == 1


def test_a_queue_that_may_not_be_read(broker: ApacheKafka) -> None:
    with connected(broker.url) as connection:
        publish(connection, "q.written", 1)
    with connected(broker.url_of("writer", "secret")) as connection:
        publish(connection, "q.written", 2)
        with pytest.raises(SetupRefused, match="lacks the permission Read on group 'celery'"):
            Consuming(connection, "q.written").get(1)
    broker.allow("reader", "Group Read celery")
    with connected(broker.url_of("reader", "secret")) as connection:
        assert sorted(Consuming(connection, "q.written").get(2)) == [1, 2]


@pytest.mark.parametrize(
    ("user", "query", "found"),
    [
        ("celery", "", {}),
        ("nobody", "", {"no-permission": "permission Create on topic 'plain'"}),
        ("celery", "replication=3&topic_prefix=three.", {"no-topic": "only 1 broker"}),
        (
            "reader",
            "topic_prefix=q.&group_id=other",
            {
                "no-permission": "permission Write on topic 'q.plain', 'q.other.broadcast'",
                "offsets-expire": "they stay in q.plain, as the user lacks Delete",
            },
        ),
        (
            "writer",
            "topic_prefix=q.&group_id=other",
            {
                "no-permission": "permission Read on topic 'q.plain', 'q.other.broadcast'",
                "offsets-expire": "they stay in q.plain, as the user lacks Delete",
            },
        ),
        ("celery", "topic_prefix=short.", {"short-retention": "'short.plain' keeps messages for 60 s"}),
        ("celery", "max.poll.interval.ms=14000", {"no-transport": "max.poll.interval.ms is 14 s"}),
    ],
)
def test_the_doctor_looks_at_topics_group_and_user(
    broker: ApacheKafka, server: Server, user: str, query: str, found: dict[str, str]
) -> None:
    """It ends with 1, and no worker starts."""
    with connected(f"{broker.url}?topic_prefix=q.&group_id=other") as connection, connection.channel() as channel:
        channel.queue_declare("plain")
        channel.queue_declare("", exclusive=True)
    with broker.admin() as admin:
        new = NewTopic("short.plain", 1, config={"retention.ms": "60000"})
        with contextlib.suppress(confluent_kafka.KafkaException):  # it is there
            admin.create_topics([new])["short.plain"].result()
    app = make_app(broker.url_of(user, "secret", f"?{query}"), server.url)
    install(app)
    status, said = said_of(app, "worker")
    assert status == (1 if found else 0), said
    told = re.findall(r"UNSAFE (\S+) (.*?) remedy: \S", said)
    for name, what in found.items():
        assert any(each == name and what in text for each, text in told), said
    assert {name for name, _ in told} == found.keys()


@pytest.mark.nightly
def test_offsets_that_expire_within_a_day(tmp_path: Path, server: Server) -> None:
    if not ApacheKafka.available():
        need_kafka()
    made = ApacheKafka(tmp_path, {"offsets.retention.minutes": "60"}).start()
    try:
        app = make_app(made.url, server.url)
        install(app)
        status, said = said_of(app, "worker")
    finally:
        made.stop()
    assert status == 1
    assert "UNSAFE offsets-expire Kafka: 3600 s after the last worker left, Kafka forgets which tasks are done" in said


# Who somebody is.


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_passwords(broker: ApacheKafka, mechanism: str) -> None:
    broker.add_scram_user("celery", "secret")
    query = f"?sasl.mechanism={mechanism}"
    with connected(broker.url_of("celery", "secret", query)) as connection:
        publish(connection, "q.passwords", 1)
        assert str(server_of(connection)).startswith("Kafka")
    with (
        connected(broker.url_of("celery", "wrong", query)) as connection,
        pytest.raises(AccessRefused, match="Authentication failed"),
    ):
        connection.connect()


def test_a_port_that_wants_a_password_says_so(broker: ApacheKafka) -> None:
    with (
        pytest.raises(NotSent, match=r"security[.]protocol"),
        connected(f"kafka://127.0.0.1:{broker.port}/", connect_timeout=5.0) as connection,
    ):
        connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)


# What is done.


def test_what_is_done_is_deleted_and_does_not_come_again_when_its_offsets_have_expired(broker: ApacheKafka) -> None:
    options = {"partitions": 1, "group_id": "expiring"}
    with connected(broker.url, **options) as connection:
        publish(connection, "kept", *range(50))
        consuming = Consuming(connection, "kept", prefetch=100)
        consuming.get(50)
        for message in consuming.messages[:40]:
            message.ack()
        wait_for(lambda: length(connection, "kept") == 10)
    assert offsets(broker, "kept", "expiring") == (40, 40, 50)
    with broker.admin() as admin:
        retention = admin.describe_configs([ConfigResource(ResourceType.TOPIC, "kept")])
        (found,) = (each.result() for each in retention.values())
        assert found["retention.ms"].value == "-1"
        wait_for(lambda: admin.list_consumer_groups().result() and _deleted(admin, "expiring"))
    with connected(broker.url, **options) as connection:
        assert Consuming(connection, "kept").get(10) == [*range(40, 50)]


def _deleted(admin: Any, group: str) -> bool:
    with contextlib.suppress(confluent_kafka.KafkaException):
        for done in admin.delete_consumer_groups([group]).values():
            done.result()
        return True
    return False


def test_the_new_protocol_of_groups(broker: ApacheKafka) -> None:
    options = {"group.protocol": "consumer", "group_id": "new"}
    with connected(broker.url, **options) as connection, connected(broker.url, **options) as other:
        publish(connection, "new", *range(20))
        first, second = Consuming(connection, "new", prefetch=20), Consuming(other, "new", prefetch=20)
        while len({*first.numbers, *second.numbers}) < 20:
            first.drain(0.1)
            second.drain(0.1)
        for message in first.messages + second.messages:
            message.ack()
        wait_for(lambda: length(connection, "new") == 0)
    with broker.admin() as admin:
        (group,) = (each.result() for each in admin.describe_consumer_groups(["new"]).values())
        assert "consumer" in str(group.type).lower()


@pytest.mark.nightly  # a member hears of another after 5 s, the server's own interval
def test_in_the_new_protocol_each_worker_has_a_share_of_each_queue(broker: ApacheKafka) -> None:
    """Also one that comes second: in a classic group it may get all partitions of one queue, and none of the other."""
    options = {"group.protocol": "consumer", "group_id": "shares", "partitions": 4}
    with connected(broker.url, **options) as connection, connected(broker.url, **options) as other:
        consumers = [Consuming(connection, "share-1", "share-2")]
        wait_for(lambda: shares(connection) == {"share-1": 4, "share-2": 4})
        consumers.append(Consuming(other, "share-1", "share-2"))
        half = {"share-1": 2, "share-2": 2}
        wait_for(lambda: [shares(each) for each in (connection, other)] == [half, half])
        publish(connection, "share-1", *range(20))
        while len({*consumers[0].numbers, *consumers[1].numbers}) < 20:
            for each in consumers:
                each.drain(0.1)
                for message in each.messages:
                    if not message.acknowledged:
                        message.ack()
        assert all(each.numbers for each in consumers)


def shares(connection: Connection) -> Counter[str]:
    """Return how many partitions of each topic a connection has."""
    reader = connection.transport._parts._reader
    return Counter(topic for topic, _ in dict(reader._share)) if reader else Counter()


# Producers.


def test_a_producer_that_failed_for_good_is_replaced(broker: ApacheKafka, caplog: pytest.LogCaptureFixture) -> None:
    with connected(broker.url) as connection:
        publish(connection, "fatal", 1)
        writer = connection.transport.writer
        _fail_for_good(writer.producer)
        publish(connection, "fatal", 2)
        _fail_for_good(writer.producer)
        batch = connection.default_channel.create_publish_batch(10)
        del batch
        publish(connection, "fatal", 3)
        assert length(connection, "fatal") == 3
        assert "another takes its place" in caplog.text


def _fail_for_good(producer: Any) -> None:
    """Have librdkafka's own test function end a producer, as a broker that lost its state would."""
    (path,) = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "librdkafka" in line}
    library = ctypes.CDLL(path)
    handle = ctypes.c_void_p.from_address(id(producer) + object.__basicsize__)
    library.rd_kafka_test_fatal_error(handle, confluent_kafka.KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, b"as asked")


# Messages for later.


def test_a_message_for_later_that_is_too_large_is_refused_and_holds_up_no_other(
    broker: ApacheKafka, server: Server
) -> None:
    def send(connection: Connection, body: str, seconds: float) -> None:
        eta = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + seconds))
        connection.Producer().publish({"n": body}, routing_key="later", headers={"eta": eta})

    options = {"later_url": server.url, "partitions": 1}
    with connected(broker.url, **options, **{"message.max.bytes": 20_000}) as connection:
        publish(connection, "later", 0)
        with pytest.raises(MessageTooLarge):
            send(connection, "x" * 30_000, 60)
    with connected(broker.url, **options) as sender:  # it does not know the limit of the topic
        send(sender, "x" * 30_000, 8)  # later than what goes to Kafka at once, also where it takes long to connect
        send(sender, "small", 8)
        consuming = Consuming(sender, "later")
        assert consuming.get(2) == [0, "small"]

"""The channel and its connection, against a real ActiveMQ."""

import contextlib
import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12
from cryptography.x509 import load_pem_x509_certificate
from kombu import Connection, Exchange, Queue
from kombu import transport as transports

from tests.faults.proxy import Proxy
from tests.servers import free_port, wait_for
from tests.threads import takes
from tests.transports import consuming
from tests.transports.brokers import need_activemq
from tornado_celery_bridge.transports import activemq as transport
from tornado_celery_bridge.transports import register
from tornado_celery_bridge.transports.servers import server_of
from tornado_celery_bridge.up.brokers.activemq import ActiveMQ

names = (f"n{number}" for number in itertools.count())


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    register("activemq://")
    yield
    del transports.TRANSPORT_ALIASES["activemq"]


@pytest.fixture
def url(activemq: ActiveMQ) -> str:
    """Of the broker, with a name of this test's own."""
    return activemq.url + next(names)


@contextlib.contextmanager
def connected(url: str, **options: Any) -> Iterator[Connection]:
    with Connection(url, transport=transport.Transport, transport_options=options) as connection:
        connection.connect()
        yield connection


def wait_for_the_loss(connection: Connection) -> None:
    """Raise it: kombu's own `drain_events` connects again if the loss was noticed before the call."""
    connection.transport.drain_events(connection.transport, timeout=10)


def publish(connection: Connection, queue: str, *numbers: int, channel: Any = None, **more: Any) -> None:
    for number in numbers:
        connection.Producer(channel).publish({"n": number}, routing_key=queue, **more)


class Consuming(consuming.Consuming):
    """That, and how it waits."""

    def drain(self, count: int = 0, timeout: float = 10.0) -> list[int]:
        """Return the numbers of what came once *count* came, or, with none given, nothing for a moment."""
        with contextlib.suppress(TimeoutError):
            while not count or len(self.messages) < count:
                self.connection.drain_events(timeout=timeout if count else 0.4)
        return self.numbers

    def just(self, count: int) -> list[int]:
        """Return the numbers of what came once *count* came and then nothing for a moment."""
        self.drain(count)
        return self.drain()


def dead_letters(connection: Connection) -> list[str]:
    """Return the bodies of what is in the broker's own queue of dead letters."""
    link = connection.transport.link
    with link.listening("/queue/ActiveMQ.DLQ", {"ack": "auto", "browser": "true"}) as listening:
        found = []
        while (frame := listening.take(5)) and "browser" not in frame.headers:
            found.append(frame.body.decode())
        listening.keep = True
    return found


# Consuming.


def test_as_many_as_prefetch_allows_over_all_queues_and_the_rest_to_others(url: str) -> None:
    with connected(url) as connection, connected(url) as other:
        first = Consuming(connection, "a", "b", prefetch=3)
        for number, queue in enumerate("aba"):
            publish(connection, queue, number)
            first.drain(number + 1)
        publish(connection, "a", 3, 4, 5)
        publish(connection, "b", 6, 7)
        assert first.just(3) == [0, 1, 2]
        second = Consuming(other, "a", "b", prefetch=10)
        for done in range(5):  # each is acknowledged: one may wait behind another (docs/brokers/activemq.md, "Limits")
            second.drain(done + 1)
            second.messages[done].ack()
        assert sorted(second.numbers) == [3, 4, 5, 6, 7]
        publish(connection, "a", 8)
        first.messages[0].ack()
        wait_for(lambda: sorted(first.drain() + second.drain()) == [*range(9)])


def test_another_prefetch_takes_effect_at_once(url: str) -> None:
    with connected(url) as connection, connected(url) as other:
        publish(connection, "a", *range(6))
        consuming = Consuming(connection, "a", prefetch=1)
        assert consuming.just(1) == [0]
        consuming.consumer.qos(prefetch_count=4)
        assert consuming.just(4) == [0, 1, 2, 3]
        consuming.consumer.qos(prefetch_count=1)
        for message in consuming.messages[:3]:
            message.ack()
        assert consuming.drain() == [0, 1, 2, 3]
        assert Consuming(other, "a").drain(2) == [4, 5]


def test_a_consumer_that_is_cancelled_keeps_what_it_has_and_takes_nothing_more(url: str) -> None:
    with connected(url) as connection, connected(url) as other:
        publish(connection, "a", 0, 1, 2)
        consuming = Consuming(connection, "a", prefetch=2)
        consuming.drain(2)
        consuming.consumer.cancel()
        second = Consuming(other, "a")
        assert second.just(1) == [2]
        consuming.messages[0].ack()
        consuming.messages[1].reject(requeue=True)  # as a worker does that stops
        publish(connection, "a", 3)
        assert second.just(3) == [2, 1, 3]
        assert consuming.drain() == [0, 1]
    with connected(url) as connection:
        assert connection.channel().queue_declare("a", passive=True).message_count == 3  # the second's


def test_without_a_limit(url: str) -> None:
    with connected(url) as connection, connected(url) as other:
        publish(connection, "a", *range(50))
        consuming = Consuming(connection, "a", "b", prefetch=0)
        assert consuming.drain(50) == [*range(50)]
        consuming.consumer.cancel_by_queue("a")
        publish(connection, "a", 50)  # while the subscription to both has messages that are not acknowledged
        assert consuming.drain() == [*range(50)]
        second = Consuming(other, "a")
        for message in consuming.messages:
            message.ack()
        publish(connection, "b", 51)
        assert (consuming.drain(51)[-1], second.drain(1)) == (51, [50])


@pytest.mark.parametrize("how", ["channel", "connection", "collect"])
def test_what_is_not_acknowledged_comes_again(url: str, how: str) -> None:
    with connected(url) as connection, connected(url) as other:
        publish(other, "a", 0, 1)
        consuming = Consuming(connection, "a")
        consuming.drain(2)
        consuming.messages[1].ack()
        {"channel": consuming.channel.close, "connection": connection.close, "collect": connection.collect}[how]()
        second = Consuming(other, "a")
        assert second.drain(1) == [0]
        assert second.messages[0].delivery_info["redelivered"] is True
        consuming.messages[0].channel.basic_ack(consuming.messages[0].delivery_tag)  # too late, and no harm
        assert second.drain() == [0]


def test_acknowledged_by_other_threads_nothing_comes_twice(url: str) -> None:
    count = 300
    with connected(url) as connection, connected(url) as other:
        consuming = Consuming(connection, "a", prefetch=4)
        thread = threading.Thread(target=publish, args=(other, "a", *range(count)))
        thread.start()
        for number in range(count):
            consuming.drain(number + 1)
            threading.Thread(target=consuming.messages[number].ack).start()
        thread.join()
        assert sorted(consuming.numbers) == [*range(count)]
        wait_for(lambda: other.default_channel.queue_declare("a", passive=True).message_count == 0)


def test_rejected_it_is_a_dead_letter_and_requeued_it_comes_again_once(url: str) -> None:
    with connected(url) as connection:
        publish(connection, "a", 7, 8, headers={"x": url})
        consuming = Consuming(connection, "a", prefetch=1)
        consuming.drain(1)
        consuming.messages[0].reject()
        consuming.drain(2)
        consuming.messages[1].reject(requeue=True)
        assert consuming.drain(3) == [7, 8, 8]
        assert consuming.messages[2].delivery_info["redelivered"] is True
        consuming.messages[2].ack()
        assert consuming.drain() == [7, 8, 8]
        assert sum(url in letter for letter in dead_letters(connection)) == 1


def test_a_message_that_is_none_of_ours_is_a_dead_letter(url: str) -> None:
    with connected(url) as connection:
        destination = connection.transport.queue("a")
        connection.transport.link.request("SEND", {"destination": destination, "persistent": "true"}, url.encode())
        publish(connection, "a", 1)
        assert Consuming(connection, "a").drain(1) == [1]
        wait_for(lambda: url in dead_letters(connection))


def test_nobody_acknowledges(url: str) -> None:
    with connected(url) as connection:
        publish(connection, "a", 0, 1)
        consuming = Consuming(connection, "a", prefetch=1, no_ack=True)
        assert consuming.drain(2) == [0, 1]
        consuming.consumer.cancel()
        publish(connection, "a", 2)
        assert consuming.drain() == [0, 1]
        channel = connection.channel()
        assert channel.basic_get("a", no_ack=True).payload == {"n": 2}
        assert channel.basic_get("a") is None


# Publishing.


def test_the_most_urgent_first(url: str) -> None:
    with connected(url) as connection:
        for number in (0, 5, 9, 3):
            publish(connection, "a", number, priority=number)
        publish(connection, "a", -1)
        assert Consuming(connection, "a", prefetch=1, no_ack=True).drain(5) == [9, 5, 3, 0, -1]


@pytest.mark.parametrize("name", ["a.b", "a.*", "a.>", ">", "a,b", "a b?c=1", "a%2Eb", "ä/ö\n:\\", "queue://x"])
def test_a_name_is_a_name(url: str, name: str) -> None:
    with connected(url) as connection:
        publish(connection, "a.c", 1)
        publish(connection, name, 2)
        consuming = Consuming(connection, name)
        assert consuming.just(1) == [2]
        consuming.messages[0].ack()
        assert Consuming(connection, "a.c").drain(1) == [1]


def test_two_apps_on_one_broker_do_not_meet(activemq: ActiveMQ) -> None:
    exchange = Exchange("e", type="fanout")
    with connected(activemq.url + "one") as one, connected(activemq.url + "two") as two:
        ours, theirs = (Consuming(each, "a", Queue("q", exchange)) for each in (one, two))
        publish(one, "a", 1)
        one.Producer().publish({"n": 2}, exchange=exchange)
        assert ours.drain(2) == [1, 2]
        assert theirs.drain() == []


def test_the_broker_keeps_what_is_for_later(url: str) -> None:
    with connected(url) as connection:
        eta = datetime.now(UTC) + timedelta(seconds=1)
        publish(connection, "a", 1, headers={"eta": eta.isoformat()})
        publish(connection, "a", 2, headers={"eta": "2020-01-01T00:00:00"})
        publish(connection, "a", 3, headers={"eta": "tomorrow"})
        consuming = Consuming(connection, "a")
        assert consuming.drain(2) == [2, 3]
        assert connection.default_channel.queue_declare("a", passive=True).message_count == 2
        assert consuming.drain(3) == [2, 3, 1]
        assert datetime.now(UTC) >= eta


def test_many_messages_wait_once(url: str) -> None:
    with connected(url) as connection:
        producer = connection.Producer()
        with producer.batch(max_size=50):
            for number in range(120):
                producer.publish({"n": number}, routing_key="a")
            assert connection.channel().queue_declare("a", passive=True).message_count == 100
        assert Consuming(connection, "a", no_ack=True).drain(120) == [*range(120)]
        with pytest.raises(ZeroDivisionError), producer.batch():
            producer.publish({"n": 120}, routing_key="a")
            raise ZeroDivisionError
        connection.transport.link.abort()
        with pytest.raises(transport.NotSent), producer.batch():
            producer.publish({"n": 121}, routing_key="a")
    with connected(url) as connection:
        assert connection.channel().queue_declare("a", passive=True).message_count == 0


def test_counting_and_emptying(url: str) -> None:
    with connected(url) as connection:
        channel = connection.channel()
        assert channel.queue_declare("a").message_count == 0
        publish(connection, "a", *range(20))
        assert channel.queue_declare("a", passive=True).message_count == 20
        assert channel.queue_purge("a") == 20
        assert channel.queue_declare("a", passive=True).message_count == 0


# Topics.


def test_everybody_who_listens_gets_a_copy_and_others_by_their_keys(url: str) -> None:
    with connected(url) as connection, connected(url) as other:
        fanout, topic = Exchange("f", type="fanout"), Exchange("t", type="topic", durable=False)
        everybody = [Consuming(each, Queue(f"q{place}", fanout)) for place, each in enumerate((connection, other))]
        keys = {key: Consuming(connection, Queue(key, topic, key, durable=False)) for key in ("a.*", "a.#", "#", "_.%")}
        other.Producer().publish({"n": 1}, exchange=fanout)
        for number, key in enumerate(("a.b", "a.b.c", "b", "x.y", "_.%")):
            other.Producer().publish({"n": number}, exchange=topic, routing_key=key)
        assert [each.drain(1) for each in everybody] == [[1], [1]]
        everybody[0].drain()
        assert {key: each.numbers for key, each in keys.items()} == {
            "a.*": [0],
            "a.#": [0, 1],
            "#": [0, 1, 2, 3, 4],
            "_.%": [4],
        }


def test_a_reply_that_comes_before_it_is_waited_for(url: str) -> None:
    with connected(url) as connection, connected(url) as other:
        replies = Exchange("replies", type="direct", durable=False)
        queue, another = (Queue(f"{key}.replies", replies, key, durable=False) for key in ("it's", "else"))
        for declared in (queue, another):
            declared(connection.default_channel).declare()
        other.Producer().publish({"n": 1}, exchange=replies, routing_key="it's")
        asking = Consuming(connection, another, no_ack=True, channel=connection.default_channel)
        assert asking.drain() == []
        waiting = Consuming(connection, queue, no_ack=True, channel=connection.default_channel)
        assert waiting.numbers == [1]
        connection.default_channel.after_reply_message_received(queue.name)
        other.Producer().publish({"n": 2}, exchange=replies, routing_key="it's")
        assert waiting.drain() == [1]


# What can become of the connection.


def test_three_outcomes(url: str, activemq: ActiveMQ) -> None:
    proxy = Proxy(activemq.port)
    through = url.replace(str(activemq.port), str(proxy.port))
    try:
        with connected(through, confirm_timeout=0.5) as connection:
            channel = connection.default_channel
            publish(connection, "a", 1)  # sent
            link = connection.transport.link
            with pytest.raises(transport.Refused, match="transaction"):
                link.request("COMMIT", {"transaction": "none"})
            publish(connection, "a", 2)
            proxy.hold()
            begun = time.monotonic()
            with pytest.raises(transport.SentInDoubt, match=r"within 0\.5 s"):
                publish(connection, "a", 3)
            assert time.monotonic() - begun < 5
            with pytest.raises(transport.NotSent):
                publish(connection, "a", 4, channel=channel)
            connection.collect()
            proxy.release()
        with connected(url) as connection:
            assert Consuming(connection, "a").just(2) in ([1, 2], [1, 2, 3])
    finally:
        proxy.close()


def test_a_write_that_nobody_takes_in_ends(url: str, activemq: ActiveMQ) -> None:
    proxy = Proxy(activemq.port)
    try:
        with connected(url.replace(str(activemq.port), str(proxy.port)), confirm_timeout=0.5) as connection:
            proxy.hold()
            with pytest.raises(transport.SentInDoubt):
                publish(connection, "a", 1, headers={"much": "x" * 20_000_000})
            connection.collect()
    finally:
        proxy.close()


def test_a_half_open_connection_is_noticed(url: str, activemq: ActiveMQ) -> None:
    proxy = Proxy(activemq.port)
    try:
        with connected(url.replace(str(activemq.port), str(proxy.port)), heartbeat=0.4) as connection:
            consuming = Consuming(connection, "a")
            consuming.drain(timeout=3)  # the heart-beats hold an idle one
            publish(connection, "a", 1)
            assert consuming.drain(1) == [1]
            proxy.drop()
            with pytest.raises(ConnectionError):
                wait_for_the_loss(connection)
            connection.collect()
    finally:
        proxy.close()


def test_hosts_are_tried_in_order(activemq: ActiveMQ) -> None:
    nobody = free_port()
    with connected(f"activemq://127.0.0.1:{nobody},127.0.0.1:{activemq.port}/failover") as connection:
        publish(connection, "a", 1)
        assert Consuming(connection, "a").drain(1) == [1]
        assert str(server_of(connection)).startswith("ActiveMQ ")
        assert connection.as_uri() == f"activemq://127.0.0.1:{nobody},127.0.0.1:{activemq.port}/failover"
    with connected(f"activemq://127.0.0.1:{nobody}/x;activemq://u:p@127.0.0.1:{activemq.port}/x") as connection:
        publish(connection, "a", 1)  # kombu's own way
        assert connection.transport.queue("a") == "/queue/x.a"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"activemq://127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{activemq.port}/"
        with connected(url, connect_timeout=1.0) as connection:
            assert connection.connected
    with (
        pytest.raises(ConnectionRefusedError, match=str(nobody)),
        Connection(f"activemq://127.0.0.1:{nobody}", transport=transport.Transport) as connection,
    ):
        connection.connection.establish_connection()


def test_a_fork_leaves_the_connection_alone(url: str) -> None:
    code = f"""
        import os
        from kombu import Connection
        from tornado_celery_bridge.transports import activemq

        connection = Connection({url!r}, transport=activemq.Transport)
        producer = connection.Producer()
        producer.publish({{"n": 1}}, routing_key="a")
        if not os.fork():
            try:
                producer.publish({{"n": 2}}, routing_key="a")
            except activemq.NotSent:
                connection.collect()
                connection.close()
                Connection({url!r}, transport=activemq.Transport).Producer().publish({{"n": 3}}, routing_key="a")
                os._exit(0)
            os._exit(1)
        assert os.wait()[1] == 0
        producer.publish({{"n": 4}}, routing_key="a")
        connection.close()
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=True, timeout=60)
    with connected(url) as connection:
        assert Consuming(connection, "a").drain(3) == [1, 3, 4]


def test_threads_leave_signals_to_the_main_thread(url: str) -> None:
    """Else TERM ends a process of Celery's pool while it holds a lock of the whole pool, and blocks TERM for that."""
    before = set(threading.enumerate())
    with connected(url):
        # One reads, and starts one that sends and watches for heart-beats.
        wait_for(lambda: len([each for each in set(threading.enumerate()) - before if each.native_id]) == 2)
        assert not any(takes(each, signal.SIGTERM) for each in set(threading.enumerate()) - before)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


# Another broker: as nobody touched it, with a login, and with TLS.


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ActiveMQ, Path]]:
    """A broker that asks for a login, speaks TLS and is stock in all else; and who signed its certificate."""
    need_activemq()
    folder = tmp_path_factory.mktemp("guarded")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    certificate = load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    store = pkcs12.serialize_key_and_certificates(b"s", key, certificate, None, BestAvailableEncryption(b"secret"))  # type: ignore[arg-type]
    (folder / "key.p12").write_bytes(store)
    made = ActiveMQ(folder, login=("us:er", "p\\a:s s@/ä"), keystore=(folder / "key.p12", "secret"), stock=True).start()
    yield made, folder / "ca.pem"
    made.stop()


def test_login_and_tls(guarded: tuple[ActiveMQ, Path], caplog: pytest.LogCaptureFixture) -> None:
    broker, authority = guarded
    assert broker.url.startswith("activemq+ssl://us%3Aer:p")
    with connected(f"{broker.url}x?ssl_ca_certs={authority}&confirm_timeout=30") as connection:
        shown = connection.as_uri()
        assert shown.startswith("activemq+ssl://us%3Aer:**@127.0.0.1")
        consuming = Consuming(connection, "a")
        publish(connection, "a", 1, headers={"much": "ä" * 1_000_000})
        publish(connection, "a", 2, headers={"eta": (datetime.now(UTC) + timedelta(hours=1)).isoformat()})
        assert consuming.drain(2) == [1, 2]  # nothing keeps what is for later: its worker will
        for message in consuming.messages:
            message.ack()
    given = {"ca_certs": str(authority), "cert_reqs": ssl.CERT_REQUIRED}
    with Connection(broker.url + "x", transport=transport.Transport, ssl=given) as connection:
        assert Consuming(connection, "a").drain() == []
    assert not caplog.records


@pytest.mark.parametrize("wrong", ["password", "authority", "host"])
def test_whoever_is_not_let_in_is_told_why(guarded: tuple[ActiveMQ, Path], wrong: str) -> None:
    broker, authority = guarded
    url = f"{broker.url}?ssl_ca_certs={authority}"
    expected: Any = PermissionError, "password is invalid"
    if wrong == "password":
        url = url.replace(":p", ":x")
    else:
        expected = ssl.SSLCertVerificationError, "certificate verify failed"
        url = broker.url if wrong == "authority" else url.replace("127.0.0.1", "localhost")
    connection = Connection(url, transport=transport.Transport)
    with pytest.raises(expected[0], match=expected[1]):
        connection.transport.establish_connection()
    connection.collect()


@pytest.mark.parametrize("how", ["drop", "reset", "end"])
def test_a_tls_connection_that_is_lost_is_noticed_and_let_go_of(guarded: tuple[ActiveMQ, Path], how: str) -> None:
    broker, authority = guarded
    proxy = Proxy(broker.port)
    try:
        url = f"{broker.url.replace(str(broker.port), str(proxy.port))}?ssl_ca_certs={authority}&heartbeat=0.4"
        with connected(url) as connection:
            wire = connection.transport.link._wire
            (proxy.close if how == "end" else getattr(proxy, how))()
            with pytest.raises(ConnectionError):
                wait_for_the_loss(connection)
            connection.collect()
            wire.io_thread.join(10)
            assert not wire.io_thread.is_alive()
    finally:
        if how != "end":
            proxy.close()


def test_descriptors_do_not_pile_up(url: str) -> None:
    """In a process of its own: in this one, what other tests left behind comes and goes."""
    subprocess.run(
        [sys.executable, "-c", f"import {__name__} as here; here.connect_again_and_again({url!r})"], check=True
    )


def connect_again_and_again(url: str) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd")) + threading.active_count()

    with connected(url):
        before = opened()
        for _ in range(5):
            with connected(url) as connection:
                Consuming(connection, "a")
        wait_for(lambda: opened() <= before)

"""What needs no broker: options, names, and what of a partition is done."""

import hashlib
import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection, messaging
from kombu.transport.virtual import base

from tornado_celery_bridge.base.versions import HAS_BATCHES
from tornado_celery_bridge.transports.core import BrokerUrl, hide_secrets
from tornado_celery_bridge.transports.kafka import PriorityRefused, Settings
from tornado_celery_bridge.transports.kafka.later import _as_redis_py_has_it
from tornado_celery_bridge.transports.kafka.progress import MAX_TEXT, PartitionProgress, Ranges


def test_what_a_url_says() -> None:
    url = "kafka://me:p%40ss@h1:9092,h2/?partitions=12&create_topics=false&ssl.ca.location=/ca.pem"
    made = Settings.of(BrokerUrl.of(url), {})
    assert (made.partitions, made.create_topics) == (12, False)
    assert made.config["bootstrap.servers"] == "h1:9092,h2"
    assert (made.config["sasl.username"], made.config["sasl.password"]) == ("me", "p@ss")
    assert made.config["security.protocol"] == "SASL_PLAINTEXT"
    assert made.config["ssl.ca.location"] == "/ca.pem"


def test_a_url_goes_before_options_and_they_before_defaults() -> None:
    options = {"partitions": 3, "group_id": "mine", "security.protocol": "SASL_SSL", "max_retries": 3}
    made = Settings.of(BrokerUrl.of("kafka://u:p@h/?partitions=4"), options, connect_timeout=2.0)
    assert (made.partitions, made.group_id, made.connect_timeout) == (4, "mine", 2.0)
    assert made.config["security.protocol"] == "SASL_SSL"
    assert "group.id" not in made.for_producer()
    assert "linger.ms" not in Settings.of(BrokerUrl.of("kafka://h"), {"linger.ms": 3}).for_consumer()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"partitons": 3}, "partitons"),
        ({"partitions": "many"}, "partitions"),
        ({"create_topics": "perhaps"}, "create_topics"),
        ({"priority_steps": "6,3"}, "ascend"),
    ],
)
def test_what_can_not_be_meant(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Settings.of(BrokerUrl.of("kafka://h"), options)


def test_names_of_topics() -> None:
    made = Settings.of(BrokerUrl.of("kafka://h/?topic_prefix=shop."), {})
    assert made.topics_of("plain") == ["shop.plain"]
    assert made.broadcast_topic == "shop.celery.broadcast"
    odd = {made.topic_of(name, 0) for name in ("a@b", "a b", "a/b", "é", "x" * 300)}
    assert len(odd) == 5
    assert all(len(name) <= 249 and name.isascii() for name in odd)


def test_priorities_are_topics_or_refused() -> None:
    with pytest.raises(PriorityRefused, match="priority_steps"):
        Settings.of(BrokerUrl.of("kafka://h"), {}).topic_of("a", 5)
    made = Settings.of(BrokerUrl.of("kafka://h/?priority_steps=0,5"), {})
    assert [made.topic_of("a", priority) for priority in (0, 4, 5, 9)] == ["a", "a", "a.p5", "a.p5"]
    assert made.topics_of("a") == ["a.p5", "a"]


def test_secrets_are_hidden() -> None:
    url = "kafka://me:secret@h1,h2:9092/?sasl.oauthbearer.client.secret=secret&ssl.key.password=secret&partitions=3"
    assert hide_secrets(url, "**") == (
        "kafka://me:**@h1,h2:9092/?sasl.oauthbearer.client.secret=**&ssl.key.password=**&partitions=3"
    )


def test_urls_of_redis() -> None:
    assert _as_redis_py_has_it("redis+socket:///a/b.sock?virtual_host=2") == "unix:///a/b.sock?db=2"
    assert _as_redis_py_has_it("redis://h:1/0") == "redis://h:1/0"


# What is done.


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5))), st.integers(0, 70))
def test_ranges_are_a_set(added: list[tuple[int, int]], below: int) -> None:
    ranges, model = Ranges(), set[int]()
    for first, length in added:
        ranges.add(first, first + length)
        model.update(range(first, first + length + 1))
    assert [offset for offset in range(80) if offset in ranges] == sorted(model)
    assert len(ranges) == len(model)
    ranges.forget_below(below)
    assert {offset for offset in range(80) if offset in ranges and offset >= below} == {
        offset for offset in model if offset >= below
    }


@given(st.sets(st.integers(1, 10_000), max_size=3000))
def test_what_is_done_survives_as_text(offsets: set[int]) -> None:
    ranges = Ranges()
    for offset in offsets:
        ranges.add(1000 + offset)
    text = ranges.encode(1000)
    assert len(text) <= MAX_TEXT
    read = Ranges.decode(1000, text)
    kept = {offset - 1000 for offset in range(1001, 11_001) if offset in read}
    assert kept <= offsets
    assert kept == offsets or len(text) > MAX_TEXT - 20
    assert not kept or kept == {offset for offset in offsets if offset <= max(kept)}  # the lowest are kept


@pytest.mark.parametrize("text", [None, "", "nonsense", "1-2,x", "1-2-3"])
def test_what_somebody_else_wrote_is_nothing(text: str | None) -> None:
    assert len(Ranges.decode(5, text)) == 0


@given(st.permutations(range(8)), st.integers(0, 8))
def test_what_was_finished_is_not_read_again_and_the_rest_is(order: list[int], finished: int) -> None:
    """Whatever the order of acknowledgements, and with a gap in the offsets, as compaction leaves."""
    offsets = [10, 11, 12, 14, 15, 16, 20, 21]
    progress = PartitionProgress(10)
    assert all(progress.read(offset, offset) for offset in offsets)
    progress.flying.update(zip(offsets, offsets, strict=True))
    for place in order[:finished]:
        assert progress.finish(offsets[place], offsets[place])
        assert not progress.finish(offsets[place], offsets[place])  # twice does nothing
    told = progress.to_commit()
    assert told is not None
    base, text = told
    again = PartitionProgress(base, Ranges.decode(base, text))
    left = {offset for offset in offsets if offset >= base and again.read(offset, offset)}
    assert left == {offsets[place] for place in order[finished:]}


def test_what_is_in_hands_here_does_not_come_again() -> None:
    """The partition went to another worker and came back meanwhile."""
    progress = PartitionProgress(None)
    assert progress.base is None
    assert progress.to_commit() is None
    assert progress.read(5, 1000)
    progress.flying[5] = 1000
    back = PartitionProgress(5, Ranges(), progress.flying)
    assert not back.read(5, 1000)
    assert back.read(6, 1001)
    assert back.base == 5
    assert not back.finish(5, 2000)  # another message, of a broker that lost its data
    assert back.finish(5, 1000)
    assert back.base == 6
    assert back.is_past(6)
    assert not back.is_past(7)
    assert PartitionProgress(0, Ranges(), {5: 1000}).read(5, 2000)


# kombu's inside, of which this is a part.


@pytest.mark.skipif(not HAS_BATCHES, reason="below kombu 5.7 its inside is another; what it does is tested as it is")
def test_the_kombu_that_this_was_written_for() -> None:
    """Fails when kombu changes what we replace or call: read its `transport/virtual` again, then change this."""

    def digest(*parts: Any) -> str:
        return hashlib.sha256("".join(inspect.getsource(part) for part in parts).encode()).hexdigest()[:12]

    channel, transport = base.Channel, base.Transport
    assert {
        "replaced": digest(channel.basic_publish, channel.queue_declare, channel.queue_delete, transport.drain_events),
        "called": digest(channel._inplace_augment_message, channel.queue_bind, channel.queue_unbind, channel.typeof),
        "consuming": digest(channel.basic_consume, channel.basic_cancel, transport._deliver, base.QoS),
        "closing": digest(channel.close, transport.close_connection, Connection.collect),
        "batches": digest(messaging._ProducerBatchState, messaging._ProducerBatch),
    } == {
        "replaced": "4bc8d8f78593",
        "called": "4d713f86e9ea",
        "consuming": "f7650a55ce02",
        "closing": "0c53935a9b31",
        "batches": "95bf62cb2fd4",
    }

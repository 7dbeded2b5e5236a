"""The short way and `apply_async` send the same message, field by field."""

import contextvars
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery import Celery
from celery.events import EventDispatcher
from celery.signals import before_task_publish
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kombu.exceptions import EncodeError

from tests.bridge.recorder import Recorder
from tests.sample import make_app
from tests.servers import Server
from tornado_celery_bridge.base.tracing import follow_publishing, mark_message
from tornado_celery_bridge.base.versions import HAS_BATCHES, publish_batch
from tornado_celery_bridge.transports.publisher import Message, Publisher

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ETA = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "queue": st.sampled_from(["sample", "other"]),
        "eta": st.just(ETA) | st.just((ETA + timedelta(1)).isoformat()),
        "countdown": st.just(0) | st.none(),
        "priority": st.integers(0, 9),
        "headers": st.dictionaries(st.sampled_from(["trace", "tenant"]), st.text(max_size=4)),
        "serializer": st.just("json"),
        "compression": st.sampled_from(["gzip", "zlib"]),
        "time_limit": st.integers(1, 100),
        "soft_time_limit": st.integers(1, 100),
        "ignore_result": st.booleans(),
        "shadow": st.text(min_size=1, max_size=5),
    },
)


@pytest.fixture(scope="module")
def publisher(server: Server) -> Iterator[Recorder]:
    app = make_app(server.url, server.url, task_queues=None, task_create_missing_queues=True)
    app.finalize()
    made = Recorder(app)
    assert made.ready()
    yield made
    made.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(args=st.lists(JSON, max_size=3), own=st.lists(JSON, max_size=2), options=OPTIONS, immutable=st.booleans())
def test_short_way_sends_what_apply_async_sends(
    publisher: Recorder, args: list[Any], own: list[Any], options: dict[str, Any], immutable: bool
) -> None:
    task = publisher._app.tasks["sample.fail"]
    signature = task.signature(tuple(own), immutable=immutable)
    for target in (task, signature):
        sent = [
            publisher.record(target, tuple(args), {}, {"task_id": "id", **options}, short=short)
            for short in (True, False)
        ]
        assert sent[0] == sent[1]


SAME = st.fixed_dictionaries(
    {"task_id": st.sampled_from(["id", 'i"d\\', "ï𝄞"]) | st.text(min_size=1, max_size=9)},
    optional={
        "queue": st.sampled_from(["sample", "other"]),
        "priority": st.integers(0, 9),
        "headers": st.dictionaries(
            st.sampled_from(["trace", "tenant", "id", "__type__", "__value__"]) | st.text(max_size=4),
            JSON,
            max_size=3,
        ),
        "time_limit": st.integers(1, 100) | st.floats(1, 100),
        "soft_time_limit": st.integers(1, 100),
        "ignore_result": st.booleans(),
        "shadow": st.text(min_size=1, max_size=5),
        "countdown": st.none(),
    },
)


class Texts:
    """A publisher, and what it puts into Redis."""

    def __init__(self, server: Server, transport: str = "kombu", **conf: Any) -> None:
        url = f"{server.url.rpartition('/')[0]}/9"
        self.app = make_app(url, url, task_queues=None, task_create_missing_queues=True, **conf)
        if transport == "ours":
            self.app.conf.broker_transport = "tornado_celery_bridge.transports.redis:Transport"
        self.app.finalize()
        self.publisher = Publisher(self.app)
        assert self.publisher.ready()
        self.client = redis.Redis.from_url(url)

    def close(self) -> None:
        self.publisher.close()
        self.client.close()
        self.app.close()

    def put(self, send: Callable[[Message], Any], message: Message) -> list[tuple[bytes, str]]:
        """Return the lists' names, and the texts in them without what differs each time."""
        self.client.flushdb()
        with publish_batch(self.publisher._producer, 1_000):
            send(message)
        lists = [key for key in self.client.scan_iter() if self.client.type(key) == b"list"]
        found: Any = [(key, text) for key in sorted(lists) for text in self.client.lrange(key, 0, -1)]
        return [(key, re.sub('"delivery_tag": "[^"]+"', "", text.decode())) for key, text in found]

    def both(self, target: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
        """Return what is put by the short way and by `apply_async`."""
        message = Message(target, args, {}, {"task_id": "id", **options}, contextvars.copy_context())
        publisher = self.publisher

        def short(message: Message) -> None:
            plan = publisher._plan(message)
            assert plan is not None
            publisher._send_plain(message, plan)

        return self.put(short, message), self.put(publisher._apply_async, message)


@pytest.fixture(scope="module", params=["kombu", "ours"])
def texts(request: pytest.FixtureRequest, server: Server) -> Iterator[Texts]:
    made = Texts(server, request.param)
    for queue in (None, "sample", "other"):  # templates are for queues that are declared
        made.both(made.app.tasks["sample.fail"], **({"queue": queue} if queue else {}))
    yield made
    made.close()


@pytest.mark.skipif(not HAS_BATCHES, reason="impossible here: kombu has no batches")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(args=st.lists(JSON, max_size=3), own=st.lists(JSON, max_size=2), options=SAME)
@example(args=[], own=[], options={"task_id": "id", "headers": {"__type__": "a", "__value__": 1}})
@example(args=[], own=[], options={"task_id": "id", "headers": {"a": {"__type__": "a", "__value__": 1}}})
def test_a_template_makes_the_text_that_kombu_makes(
    texts: Texts, args: list[Any], own: list[Any], options: dict[str, Any]
) -> None:
    task = texts.app.tasks["sample.fail"]
    for target in (task, task.signature(tuple(own))):
        short, long = texts.both(target, *args, **options)
        assert len(short) == 1
        assert short == long
    assert all(texts.publisher._templates.values()), "a message was built anew"


@pytest.mark.skipif(not HAS_BATCHES, reason="impossible here: kombu has no batches")
def test_what_is_made_from_a_template(server: Server, texts: Texts) -> None:
    fail = texts.app.tasks["sample.fail"]

    def templates(**options: Any) -> int:
        texts.publisher._templates.clear()
        short, long = texts.both(fail, 1, **options)
        assert len(short) == len(long) == 1
        return len(texts.publisher._templates)

    assert templates() == 1
    assert templates(queue="sample", priority=3, headers={"a": 1}) == 1
    assert templates(serializer="pickle", eta=ETA) == templates(compression="zlib") == 0
    with pytest.raises(EncodeError):
        texts.both(fail, object())
    for conf in ({"task_serializer": "pickle"}, {"task_compression": "zlib"}):
        other = Texts(server, **conf)
        for _ in range(2):
            other.both(fail, 1)
        assert [*other.publisher._templates.values()] == [None]
        other.close()


@pytest.mark.skipif(not HAS_BATCHES, reason="impossible here: kombu has no batches")
def test_a_template_has_no_trace_of_its_own_and_its_event_is_celerys(server: Server) -> None:
    other = Texts(server, task_send_sent_event=True)
    add, heard = other.app.tasks["sample.add"], list[dict[str, Any]]()

    span: contextvars.ContextVar[str] = contextvars.ContextVar("span")

    def mark(headers: dict[str, Any], **_: Any) -> None:
        if span.get(""):
            headers["mark"] = span.get()

    publish = EventDispatcher.publish
    follow_publishing()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tornado_celery_bridge.transports.publisher.mark_message", mark)
        patched.setattr(EventDispatcher, "publish", lambda *args, **_: heard.append(dict(args[2])))
        before_task_publish.connect(mark, weak=False)
        before_task_publish.disconnect(mark_message, dispatch_uid="tornado_celery_bridge.base.tracing")
        try:
            for number in range(4):
                span.set(f"s{number}")
                short, long = other.both(add, number, 2, task_id=str(number))
                assert short == long
                assert f'"mark": "s{number}"' in short[0][1]
        finally:
            before_task_publish.disconnect(mark)
            follow_publishing()
    assert publish is EventDispatcher.publish
    assert [*map(bool, other.publisher._templates.values())] == [True]
    assert heard[::2] == heard[1::2]
    assert [event["uuid"] for event in heard[::2]] == ["0", "1", "2", "3"]
    other.close()


def test_what_is_not_plain_takes_the_long_way(publisher: Recorder) -> None:
    add = publisher._app.tasks["sample.add"]

    def plan(target: Any, **options: Any) -> Any:
        message = Message(target, (), {}, {"task_id": "id", **options}, contextvars.copy_context())
        return publisher._plan(message)

    assert plan(add.s(1, 2)) is not None
    assert plan(add.s(1, 2), link=add.s(1)) is None
    assert plan(add.s(1, 2).set(link_error=add.s(1))) is None
    assert plan(add.s(1, 2), routing_key="elsewhere") is None
    assert plan(add.s(1, 2) | add.s(3)) is None
    assert plan("sample.add") is None

    follow_publishing()  # spans' own receiver wants no more than to put headers in
    assert mark_message in [receiver for _, receiver in before_task_publish.receivers]
    assert plan(add.s(1, 2)) is not None

    def receiver(**_: Any) -> None:
        pass

    before_task_publish.connect(receiver)
    try:
        assert plan(add.s(1, 2)) is None
    finally:
        before_task_publish.disconnect(receiver)


def test_routes_by_name_are_followed(server: Server) -> None:
    app: Celery = make_app(server.url, server.url, task_routes={"sample.add": {"queue": "routed", "priority": 7}})
    app.finalize()
    routed = Recorder(app)
    assert routed.ready()
    add = app.tasks["sample.add"]
    short, long = (routed.record(add, (1, 2), {}, {"task_id": "id"}, short=short) for short in (True, False))
    assert short == long
    assert (short["routing_key"], short["priority"]) == ("routed", 7)
    routed.close()

"""The short way and `apply_async` send the same message, field by field."""

import contextvars
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.signals import before_task_publish
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bridge.recorder import Recorder
from tests.sample import make_app
from tests.servers import Server
from tornado_celery_bridge.base.tracing import follow_publishing, mark_message
from tornado_celery_bridge.transports.publisher import Message

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

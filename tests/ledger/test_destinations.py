"""Where a message goes is what Celery makes of it: each case is published, and looked for in the broker."""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import QueueNotFound
from kombu import Exchange, Queue

from tests.servers import Database
from tornado_celery_bridge.ledger import new_job
from tornado_celery_bridge.ledger.destinations import destination, destination_of

TOPIC, OWN, ALL = Exchange("topic", type="topic"), Exchange("own", type="direct"), Exchange("all", type="fanout")
QUEUES = (
    Queue("sample", Exchange("sample"), routing_key="sample"),
    Queue("slow", Exchange("slow"), routing_key="slow"),
    Queue("one", OWN, routing_key="first"),
    Queue("two", OWN, routing_key="second"),
    Queue("letters", TOPIC, routing_key="a.#"),
    Queue("digits", TOPIC, routing_key="*.1"),
    Queue("everybody", ALL),
)

#: What a task says of itself.
TASKS: tuple[dict[str, Any], ...] = (
    {},
    {"queue": "slow"},
    {"priority": 3},
    {"queue": "slow", "priority": 3},
    {"exchange": "own", "routing_key": "second"},
    {"routing_key": "second"},
    {"queue": "letters", "routing_key": "a.b"},
)
#: What a route says.
ROUTES: tuple[Any, ...] = (
    None,
    {"t": "slow"},
    {"t": {"queue": "one", "priority": 2}},
    {"t": {"exchange": "topic", "exchange_type": "topic", "routing_key": "a.b.c"}},
    {"t": {"queue": "everybody"}},
    lambda name, args, kwargs, options, task=None, **_: {"queue": args[0]} if args else None,
    lambda name, args, kwargs, options, task=None, **_: {"queue": "slow"} if options.get("headers") else None,
)
#: What a caller says.
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"queue": "two"},
    {"queue": None},
    {"exchange": "topic", "routing_key": "x.1"},
    {"exchange": "own", "routing_key": "first", "priority": 9},
    {"headers": {"a": "b"}},
)
ARGS: tuple[tuple[Any, ...], ...] = ((), ("slow",))


def nothing(*args: Any) -> None: ...


@pytest.fixture
def app(database: Database) -> Iterator[Celery]:
    made = Celery("destinations", broker=database.url, backend=database.url, set_as_current=False)
    made.conf.update(task_queues=QUEUES, task_default_queue="sample", task_create_missing_queues=False)
    yield made
    made.close()


@pytest.fixture
def message(app: Celery) -> Iterator[Callable[..., Any]]:
    """Publish a task; return the one queue that gets it, and the message's priority as the broker has it."""
    with app.connection_for_write() as connection:
        channel: Any = connection.channel()
        for queue in QUEUES:
            queue(channel).declare()

        def published(task: Any, args: Any, **options: Any) -> tuple[str, int]:
            with app.amqp.Producer(connection, auto_declare=False) as producer:
                task.apply_async(args, producer=producer, **options)
            found = [(queue.name, got) for queue in QUEUES if (got := channel.basic_get(queue.name, no_ack=True))]
            ((name, got),) = found
            return name, got.properties.get("priority")

        yield published


@pytest.mark.parametrize("said", TASKS, ids=str)
@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
def test_as_celery_decides(app: Celery, message: Callable[..., Any], said: dict[str, Any]) -> None:
    """The queue is noted that gets the message; and the options that are published with it bring it there, too."""
    task: Any = app.task(name="t", shared=False, **said)(nothing)  # type: ignore[no-untyped-call]
    app.finalize()
    for routes, options, args in itertools.product(ROUTES, OPTIONS, ARGS):
        app.conf.task_routes = routes
        app.amqp.flush_routes()
        queue, pinned, priority = destination(app, "t", args, {}, options)
        case = (said, routes, options, args)
        got, its_priority = message(task, args, **options)
        if got == "letters" and queue != got:  # both of a topic's get it
            assert queue == "digits", case
        else:
            assert queue == got, case
        assert priority in (None, 9 - its_priority), case  # with Redis, kombu's most urgent is 0
        assert (priority is None) == (its_priority == 0), case
        app.conf.task_routes = {"t": {"queue": "sample"}}  # a deployment later
        app.amqp.flush_routes()
        assert message(task, args, **{**options, **pinned})[0] == got, case


def test_a_task_that_the_app_does_not_know(app: Celery) -> None:
    assert destination(app, "elsewhere", (), {}, {}).queue == "sample"
    assert destination(app, "elsewhere", (), {}, {"queue": "slow"}).queue == "slow"
    with pytest.raises(QueueNotFound):
        destination(app, "elsewhere", (), {}, {"queue": "nowhere"})


def test_an_exchange_that_leads_to_no_queue(app: Celery) -> None:
    """No name of a queue is made up that might be one."""
    found = destination(app, "t", (), {}, {"exchange": "of others", "routing_key": "x"})
    assert found == ("of others/x", {"exchange": "of others", "routing_key": "x", "priority": 9}, None)


def test_without_a_priority_it_comes_last(app: Celery) -> None:
    """As on other brokers: with Redis, Celery's own default is the most urgent."""
    assert destination(app, "t", (), {}, {"queue": "one"}) == ("one", {"queue": "one", "priority": 9}, None)
    assert destination(app, "t", (), {}, {"queue": "one", "priority": 2}) == ("one", {"queue": "one"}, 7)


def test_what_rabbitmq_holds_back(app: Celery) -> None:
    """Celery publishes it to an exchange of delays, with the delay in front of the queue's routing key."""
    assert destination_of(app, Exchange("celery_delayed_27"), "0.1." * 14 + "first").queue == "one"


def test_a_job_is_published_where_its_record_says(app: Celery) -> None:
    """What is noted does not depend on who publishes the message, nor when."""
    app.conf.task_routes = lambda name, args, kwargs, options, task=None, **_: {"queue": args[0], "priority": 4}
    record, message = new_job(app, "t", ["two"], {}, {"task_id": "a"}, now=0, owner="")
    assert (record.queue, record.priority, record.options) == ("two", 5, {})
    assert message["options"]["queue"] == "two"


@pytest.mark.parametrize("name", ["eta", "expires"])
@pytest.mark.parametrize("written", [lambda time: time, datetime.isoformat])
def test_a_time_without_a_zone_is_of_the_apps(app: Celery, name: str, written: Callable[[datetime], Any]) -> None:
    app.conf.update(timezone="America/New_York")
    _, message = new_job(app, "t", [], {}, {"task_id": "a", name: written(datetime(2026, 7, 1, 12))}, now=0, owner="")
    assert message["options"][name] == datetime(2026, 7, 1, 16, tzinfo=UTC)

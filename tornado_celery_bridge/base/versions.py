"""
What differs between the supported versions of Celery, kombu and redis-py. No other module knows of a version.

A newer version's word is used where there is one; where there is none, the module says what stands for it. What a user
loses by an older version is in :func:`lacking`, which ``tcb check`` tells.
"""

import contextlib
import importlib.util
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import celery
import celery.result
import redis
from celery import Celery, states
from celery.exceptions import Reject
from kombu import Producer
from kombu.asynchronous import Hub

if TYPE_CHECKING:
    #: Celery's class, which only Celery 5.7 allows to be written with a type in brackets.
    CelerysResult = celery.result.AsyncResult[Any]
else:
    CelerysResult = celery.result.AsyncResult

try:  # Celery 5.5 and kombu 5.5
    from celery.utils.quorum_queues import detect_quorum_queues
    from kombu.transport import native_delayed_delivery as native_delayed_delivery
except ImportError:
    native_delayed_delivery = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

#: Celery's version, as (5, 7).
CELERY = (celery.VERSION.major, celery.VERSION.minor)

#: Whether a worker goes by a message's ``ignore_result``, and hands it on as it tries again: Celery from 5.7 on. 5.6
#: goes by the task's as it tries again, 5.5 always.
MESSAGE_SAYS_IGNORE = CELERY >= (5, 7)

#: What a worker's consumer calls to end its tasks, at a cold shutdown. (Before 5.5 the pool alone ends them.)
CANCEL_REQUESTS = "cancel_active_requests" if CELERY >= (5, 6) else "cancel_all_unacked_requests"

#: Whether a worker knows that it is to end at once before it stops its pool, as from 5.6 on.
SAYS_COLD_SHUTDOWN = CELERY >= (5, 6)

#: Whether kombu can publish many messages for one answer of the broker: ``Producer.batch()``, of kombu 5.7.
HAS_BATCHES = hasattr(Producer, "batch")

#: Whether kombu restores over Redis as often as ``unacked_restore_interval`` and ``unacked_restore_throttle`` say,
#: as it does from 5.7 on. Before, it restores every 100 s.
RESTORES_AS_TOLD = HAS_BATCHES


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with, as (5, 7) of ``5.7rc1``; empty if it begins with none."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


#: redis-py's major version.
_REDIS = numbers(version("redis"))[0]


def _resp3() -> dict[str, Any]:
    if _REDIS >= 8:
        return {}
    if importlib.util.find_spec("redis.maint_notifications") is None:
        return {"protocol": 3}
    module: Any = importlib.import_module("redis.maint_notifications")
    return {"protocol": 3, "maint_notifications_config": module.MaintNotificationsConfig(enabled=False)}


#: What has a connection of redis-py speak RESP3, as it does by itself from 8 on. redis-py 7 would then ask the server
#: for maintenance notifications, too, which raises over a Unix socket.
RESP3 = _resp3()

#: What a connection of redis-py says that it is, from 7 on. To find it out reads a file, which must not be on the loop.
#: Celery tells it from 5.7 on.
DRIVER: dict[str, Any] = {"driver_info": vars(redis)["DriverInfo"]()} if "DriverInfo" in vars(redis) else {}


class Lack(NamedTuple):
    """Something that older versions can't do."""

    #: The package, and the first version that can.
    package: str
    since: str
    #: What is different without it, for people.
    what: str
    #: The schemes of the brokers that it is about; empty for any.
    schemes: tuple[str, ...] = ()


#: Each has a row in docs/versions.md.
LACKS = (
    Lack(
        "kombu",
        "5.7",
        "each message waits for its own answer of the broker, so one process sends fewer in a second",
    ),
    Lack(
        "kombu",
        "5.7",
        "credentials that a provider of redis-py renews are not renewed on connections that are open",
        ("redis", "sentinel"),
    ),
    Lack(
        "kombu",
        "5.7",
        "with `--pool threads` a stock worker, without `install`, may hear up to 10 s late that a task has ended",
    ),
    Lack(
        "celery",
        "5.5",
        "RabbitMQ does not hold tasks with an ETA: workers do, which quorum queues do not allow. Use classic queues",
        ("amqp", "pyamqp"),
    ),
    Lack("celery", "5.5", "a worker has no soft shutdown"),
    Lack("celery", "5.5", "`pydantic=True` of a task has no effect: it is given dictionaries"),
    Lack(
        "celery",
        "5.7",
        "a worker goes by the task's `ignore_result` and not by the message's (5.6: as it tries again); of a job the "
        "result is kept all the same",
    ),
    Lack("celery", "5.7", "what a task with pydantic models returns has the names of the fields, not their aliases"),
    Lack(
        "celery",
        "5.7",
        "`self.retry(exc=...)` with something that is no `Exception`, as `SystemExit`, ends the task as a FAILURE "
        "(`EncodeError`)",
    ),
    Lack("celery", "5.7", "a `ResultSet` that was empty waits for ever for results that are added to it"),
    Lack(
        "celery",
        "5.7",
        "with `--pool threads`, some events of tasks are lost, so Flower may show as running what has ended",
    ),
    Lack(
        "celery",
        "5.7",
        "over Kafka and ActiveMQ a stock worker, without `install`, takes no more than its prefetch in 2 s",
        ("kafka", "activemq"),
    ),
    Lack(
        "celery",
        "5.7",
        "a stock worker, without `install`, ends if its broker and its results are in one Redis that dies while a task "
        "runs",
    ),
    Lack(
        "celery",
        "5.7",
        "a stock worker, without `install`, may end as its broker comes back, if two processes of its pool have ended "
        "at once",
    ),
)


def lacking(broker: str) -> Iterator[tuple[Lack, str]]:
    """Yield what the installed versions can't do, for an app with this broker, and the version; *broker* is its URL."""
    for lack in LACKS:
        installed = version(lack.package)
        if numbers(installed) < numbers(lack.since) and (not lack.schemes or broker.startswith(lack.schemes)):
            yield lack, installed


def publish_batch(producer: Any, max_size: int) -> AbstractContextManager[Any]:
    """Return a block whose messages the broker confirms together, at its end; or, by an older kombu, each by itself."""
    return producer.batch(max_size=max_size) if HAS_BATCHES else contextlib.nullcontext()


def is_batched(producer: Any) -> bool:
    """Return whether *producer*'s messages in a :func:`publish_batch` are not confirmed before the block ends."""
    channel = producer.channel
    return (
        HAS_BATCHES
        and hasattr(channel, "create_publish_batch")
        and bool(getattr(channel, "supports_batch_publish", True))
    )


def push(producer: Any, key: str, text: str) -> None:
    """Add a message, as its text, to the batch of a `publish_batch` under way of *producer*; see :func:`is_batched`."""
    batch = producer._batch_local.current._get_session(producer.channel)
    batch._check_usable()
    batch.pipeline.lpush(key, text)
    batch._buffered += 1


def delays_by_server(app: Celery, driver: str) -> bool:
    """Return whether Celery has the broker hold *app*'s tasks with an ETA: RabbitMQ with quorum queues, from 5.5 on."""
    return native_delayed_delivery is not None and detect_quorum_queues(app, driver)[0]


def repr_maxlevels(app: Celery) -> int:
    """Return how deep Celery shows arguments in a message's headers: a setting from Celery 5.7 on."""
    return int(app.conf.get("task_repr_maxlevels", 3))


def dump_arguments(task: Any) -> Any:
    """Return what makes a pydantic task's arguments plain as they are sent, from Celery 5.7 on; else None."""
    return getattr(task, "_dump_pydantic_arguments", None)


def seconds_kept(backend: Any, state: str) -> int:
    """Return for how long a result backend keeps a state; 0 for ever. Failures have a time of theirs from 5.7 on."""
    seconds = getattr(backend, "failure_expires", None) if state == states.FAILURE else None
    return int((backend.expires if seconds is None else seconds) or 0)


def flush_reauth(channel: Any) -> None:
    """Have a connection of kombu's Redis channel log in anew, if its credentials have changed: from kombu 5.7 on."""
    if flush := getattr(channel, "_flush_brpop_reauth", None):
        flush()


def logging_in_first(cls: Any) -> Any:
    """
    Return a class of redis-py's connections that log in before they look whether the server lives.

    redis-py does so by itself from 6 on. Before, with RESP3, a password and health checks, none could connect.
    """
    if _REDIS >= 6:
        return cls

    class LogsInFirst(cls):  # type: ignore[misc]
        def on_connect(self) -> None:
            self.next_health_check = float("inf")  # until the first answer
            super().on_connect()

    return LogsInFirst


def know_errors(**classes: type[Exception]) -> None:
    """Have redis-py raise these classes for the errors with these codes. It does so by itself from 6 on."""
    if _REDIS < 6:
        parser: Any = importlib.import_module("redis._parsers.base").BaseParser
        for code, cls in classes.items():
            parser.EXCEPTION_CLASSES.setdefault(code, cls)


def has_login(connection: Any) -> bool:
    """Return whether a connection of kombu has a password, or what provides one, as from kombu 5.6 on."""
    return bool(connection.password or getattr(connection, "credential_provider", None))


def hearing_the_dead(select: Callable[..., Any]) -> Callable[..., Any]:
    """
    Return the prefork pool's *select*, so that it sees what a process said before it died, as from Celery 5.5 on.

    Before, it sees nothing of a file that it is to watch for errors as well. So the pool does not know that the process
    had begun its task, and begins it again.
    """
    if CELERY >= (5, 5):
        return select

    def see(readers: Any = None, writers: Any = None, err: Any = None, timeout: float = 0) -> Any:
        watched = {*(readers or ()), *(writers or ())}  # for errors, too
        return select(readers, writers, {*(err or ())} - watched, timeout)

    return see


def wake_for_threads(hub: Any) -> None:
    """
    Have a worker's event loop do at once what another thread asks it to do, as kombu's does by itself from 5.7 on.

    Before, the loop does it when it next wakes, after up to 10 s. Celery acknowledges by it the message of a task that
    has run in a thread, and the worker takes no other while it has as many as its prefetch allows.

    Args:
        hub: The loop, in its own thread. It may be closed and used again, and this be called again.
    """
    if hasattr(Hub, "_create_waker"):
        return
    if "waker" not in vars(hub):
        hub.waker, hub.wakes = socket.socketpair()
        hub.waker.setblocking(False)
        hub.wakes.setblocking(False)
        call_soon, thread = hub.call_soon, threading.get_ident()

        def call_and_wake(*args: Any) -> Any:
            made = call_soon(*args)
            if threading.get_ident() != thread:
                with contextlib.suppress(BlockingIOError):  # it is full, so the loop is to wake anyway
                    hub.wakes.send(b"\0")
            return made

        hub.call_soon = call_and_wake

    def drain() -> None:
        with contextlib.suppress(BlockingIOError):
            hub.waker.recv(4096)

    hub.add_reader(hub.waker, drain)


def acknowledge_at_once(consumer: Any) -> None:
    """
    Have a worker without an event loop acknowledge a message as its task ends, as Celery does by itself from 5.7 on.

    Before, it acknowledges after its next look for messages, which takes up to 2 s, and takes no others while it has as
    many as its prefetch allows. Kafka, ActiveMQ and green threads have no event loop.

    Args:
        consumer: Celery's, before it has begun to consume.
    """
    if CELERY >= (5, 7):
        return
    create, call_soon = consumer.create_task_handler, consumer.call_soon

    def call_now(call: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        try:
            call(*args, **kwargs)
        except Exception:
            log.exception("a message could not be acknowledged")

    def create_task_handler(**options: Any) -> Callable[[Any], Any]:
        consumer.call_soon = call_now  # for acknowledgements alone: a command that changes the queues has to wait
        try:
            handler: Callable[[Any], Any] = create(**options)
        finally:
            consumer.call_soon = call_soon
        return handler

    consumer.create_task_handler = create_task_handler


def record_rejected(request: Any, exc: BaseException) -> None:
    """Record that a task has failed whose code rejects its message for good, as Celery itself does from 5.7 on."""
    if CELERY < (5, 7) and isinstance(exc, Reject) and not vars(exc)["requeue"]:
        request.task.backend.mark_as_failure(
            request.id, exc, request=request._context, store_result=request.store_errors
        )

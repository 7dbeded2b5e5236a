"""
What a test needs, found out from its code and its fixtures', so that no mark is written by hand and wrong.

A test is marked `server` if it, one of its fixtures or a function of the tests that they call starts a Redis; likewise
`worker`, `up` (the supervisor) and, by name, each other broker. A fixture that is only looked up by name while a test
runs (``getfixturevalue``) is not seen: such a test says what it needs itself. That a mark is missing is found by
:attr:`tests.servers.Server.is_allowed`.
"""

import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

#: What starts a process, by its full name, and what a test that uses it is marked with.
STARTERS = {
    "tests.servers.Server": {"server"},
    "tests.servers.worker": {"server", "worker"},
    "tests.faults.harness.System": {"server", "worker"},
    "tornado_celery_bridge.up.brokers.rabbitmq.RabbitMQ": {"server", "rabbitmq"},
    "tornado_celery_bridge.up.brokers.kafka.Kafka": {"server", "kafka"},
    "tornado_celery_bridge.up.brokers.tansu.Tansu": {"server", "kafka"},
    "tests.transports.test_kafka_channel.mock": {"server", "kafka"},
    "tornado_celery_bridge.up.brokers.activemq.ActiveMQ": {"server", "activemq"},
    "tornado_celery_bridge.up.brokers.artemis.Artemis": {"server", "activemq"},
}


def add_marks(item: pytest.Function) -> None:
    """Mark a test with what it needs."""
    fixtures = item._fixtureinfo.name2fixturedefs
    used = [item.function, *(definitions[-1].func for definitions in fixtures.values())]
    if kind := getattr(item.cls, "kind", None):  # of broker, in the contract
        used.append(kind.make)
    for mark in frozenset().union(*map(needs, used), {"up"} & fixtures.keys()):
        item.add_marker(mark)


@functools.cache
def needs(thing: Any) -> frozenset[str]:
    """Return the marks of what starts when a function runs, or a class's methods do."""
    found, seen, ahead = set[str](), set[int](), [thing]
    while ahead:
        one = inspect.unwrap(ahead.pop())
        if id(one) in seen:
            continue
        seen.add(id(one))
        for each in one.__mro__ if inspect.isclass(one) else [one]:
            found |= STARTERS.get(f"{each.__module__}.{each.__qualname__}", set())
        if inspect.isclass(one):
            ahead += [each for each in vars(one).values() if isinstance(each, FunctionType)]
        else:
            ahead += used_by(getattr(one, "__func__", one))
    return frozenset(found)


def used_by(function: FunctionType) -> Iterator[Any]:
    """Yield the functions and classes of the tests, and the starters, that a function names."""
    names = set(names_in(function.__code__))
    known = [function.__globals__[name] for name in names & function.__globals__.keys()]
    for module in [each for each in known if isinstance(each, ModuleType)]:
        known += [vars(module)[name] for name in names & vars(module).keys()]
    for each in known:
        if callable(each) and str(getattr(each, "__module__", "")).startswith(("tests.", "tornado_celery_bridge.up.")):
            yield each


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names that a function's code and that of the functions inside it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)

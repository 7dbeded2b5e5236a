"""
What each process does with Redis, and whether the user that it logs in as may: the rules of an ACL, and the trial.

The trial has no effect: after ``MULTI``, Redis says of each command whether the user may run it, with which keys and on
which channels, as it puts the command into the transaction; ``DISCARD`` then drops all of them. So it needs no
permission that a process does not need itself, as ``ACL DRYRUN`` would. Source: https://redis.io/docs/latest/operate/
oss_and_stack/management/security/acl/
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery
from redis.exceptions import NoPermissionError, ResponseError

from tornado_celery_bridge.ledger.connection import prefix_of

#: The processes that have a user.
PROCESSES = ("serve", "worker", "beat")

#: What our own scripts call, which the user who runs a script must be allowed as well.
_IN_SCRIPTS = frozenset(
    name.lower()
    for path in Path(__file__).parents[1].rglob("*.lua")
    for name in re.findall(r"redis\.p?call\('(\w+)'", path.read_text())
)
_SENDING = "discard eval evalsha exec llen lpush multi ping publish sadd script|exists script|load time"
_TAKING = (
    "client|tracking del exists get hdel hget hset psubscribe punsubscribe rpush set smembers srem subscribe"
    " unsubscribe unwatch watch zadd zrange zrem"
)
_RESULTS = "del expire get incr lrange mget publish rpush set setex subscribe unsubscribe zadd zcount zrange"
_LEDGER = "blpop getex hgetall hkeys hmget zcard zrangebylex zremrangebyscore"

#: The commands of each process. Who awaits results or controls workers consumes replies, as a worker does.
COMMANDS: Mapping[str, frozenset[str]] = {
    "serve": frozenset(f"{_SENDING} {_TAKING} {_RESULTS} {_LEDGER}".split()) | _IN_SCRIPTS,
    "worker": frozenset(f"{_SENDING} {_TAKING} {_RESULTS} {_LEDGER}".split()) | _IN_SCRIPTS,
    "beat": frozenset(f"{_SENDING} {_LEDGER}".split()) | _IN_SCRIPTS,
}

#: What a transaction is made of, in an order in which nothing is done; MULTI begins that of the trial.
_TRANSACTION = ("exec", "discard", "multi")

#: How many arguments a command is tried with; of the others, 1.
_ARGUMENTS = {
    **dict.fromkeys("cluster|slots exec discard multi ping time unwatch".split(), 0),
    **dict.fromkeys(
        "blpop expire hdel hexists hget hmget lindex lpush pexpire pexpireat publish rpush sadd sismember srem zrem"
        " zscan zscore evalsha eval script|load".split(),
        2,
    ),
    **dict.fromkeys(
        "getrange hincrby hset hsetnx lrange ltrim setex zadd zcount zrange zrangebylex zrangebyscore"
        " zremrangebyscore zrevrangebyscore xrevrange".split(),
        3,
    ),
    "set": 2,
    "xadd": 4,
}
#: Those whose arguments are no keys.
_WITHOUT_KEYS = frozenset(
    "client|tracking cluster|slots discard eval evalsha exec multi ping psubscribe publish punsubscribe script|exists"
    " script|load subscribe time unsubscribe unwatch".split()
)


@dataclass(frozen=True)
class Needs:
    """What a process needs of a server."""

    keys: Sequence[str]
    channels: Sequence[str]
    commands: Iterable[str]

    @property
    def rule(self) -> str:
        """As ``ACL SETUSER`` takes it."""
        return " ".join(
            [
                *(f"~{pattern}" for pattern in self.keys),
                *(f"&{pattern}" for pattern in self.channels),
                *(f"+{name}" for name in sorted(self.commands)),
            ]
        )


def needs_of(app: Celery, process: str, *, ledger: bool = True, broker: bool = True) -> Needs:
    """
    Return what a process needs of the server of *app*'s ledger and results, of its broker, or of one that is both.

    Args:
        app: The app, with its queues.
        process: One of `PROCESSES`.
        ledger: Whether the server has the ledger and the results.
        broker: Whether it is the broker.
    """
    keys: list[str] = []
    channels: list[str] = []
    if ledger:
        prefix = prefix_of(app)
        results = getattr(app.backend, "task_keyprefix", b"celery-task-meta-")
        results = results.decode() if isinstance(results, bytes) else results
        keys += [f"{prefix}*", f"{results.removesuffix('-meta-')}*"]
        channels += [f"{prefix}events:*", f"{results}*"]
    if broker:
        options: Mapping[str, Any] = app.conf.broker_transport_options or {}
        prefix, fanout = options.get("global_keyprefix", ""), options.get("fanout_prefix", True)
        with app.connection_for_write() as connection:
            database = str(connection.virtual_host or "0").strip("/") or "0"
        said = f"/{database}." if fanout is True else str(fanout or "")
        said = prefix + said.format(db=database)
        names = ("_kombu.binding*", "unacked*", "*.celery.pidbox*", "celeryev.*", *(f"{q}*" for q in app.amqp.queues))
        keys += [prefix + name for name in names]
        channels += [f"{said}celery.pidbox", f"{said}celeryev/*", f"{said}celeryev/worker.*"]
    options = app.conf.result_backend_transport_options if ledger else app.conf.broker_transport_options
    commands = COMMANDS[process] | ({"cluster|slots"} if (options or {}).get("cluster") else set())
    return Needs(tuple(dict.fromkeys(keys)), tuple(dict.fromkeys(channels)), commands)


def missing_of(client: Any, needs: Needs) -> str:
    """
    Return the part of a rule that the user of *client* lacks; empty if it lacks nothing. Two round trips.

    Raises:
        RedisError: The server is away.
    """
    trials = [*_trials(needs)]
    with client.client() as one:  # of one connection: an answer is not awaited before the next question
        connection = one.connection
        first = _answers(connection, [(name,) for name in _TRANSACTION])
        lacks = [f"+{name}" for name, answer in zip(_TRANSACTION, first, strict=True) if _refused(answer)]
        if lacks:
            return " ".join(lacks)  # what was sent now would be done
        answers = _answers(connection, [*(command for _, _, command in trials), ("DISCARD",)])
    for (part, about, _), answer in zip(trials, answers, strict=False):
        if about in _refused(answer):
            lacks.append(part)
    return " ".join(dict.fromkeys(lacks))


def _trials(needs: Needs) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield what is tried: the part of a rule, the word by which its lack is told, and the command."""
    key = needs.keys[0].replace("*", "x")
    for name in sorted({*needs.commands} - {*_TRANSACTION}):
        words = name.upper().split("|")
        if name in ("publish", "subscribe", "psubscribe"):
            arguments = [needs.channels[0].replace("*", "x")]
        elif name in _WITHOUT_KEYS:
            arguments = []
        else:
            arguments = [key]
        arguments += ["0"] * (_ARGUMENTS.get(name, 1) - len(arguments))
        yield f"+{name}", "command", (*words, *arguments)
    asks = "EXISTS" if "exists" in needs.commands else "GET"
    for pattern in needs.keys:
        yield f"~{pattern}", "key", (asks, pattern.replace("*", "x"))
    for pattern in needs.channels:
        is_pattern = pattern.endswith("celeryev/worker.*") or pattern.endswith("celery.pidbox")
        if is_pattern and "psubscribe" in needs.commands:
            yield f"&{pattern}", "channel", ("PSUBSCRIBE", pattern)
        else:
            yield f"&{pattern}", "channel", ("PUBLISH", pattern.replace("*", "x"), "0")


def _answers(connection: Any, commands: Sequence[tuple[str, ...]]) -> list[Any]:
    connection.send_packed_command(connection.pack_commands(commands))
    return [_answer(connection) for _ in commands]


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as exc:
        return exc


def _refused(answer: Any) -> str:
    """Return which of the words "command", "key" and "channel" an answer refuses."""
    if not isinstance(answer, NoPermissionError):
        return ""
    return next((word for word in ("command", "channel", "key") if word in str(answer)), "command")

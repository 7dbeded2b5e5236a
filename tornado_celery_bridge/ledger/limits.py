"""
Limits at run time: how many jobs of a task, or of several tasks together, run at once, and how many begin in a time.

What is set here comes before what a task's code has, holds in all processes at once, and stays until it is taken back.
A task can be switched off here, too.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from celery.utils.time import rate

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.exceptions import TaskSwitchedOff
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.connection import Subject, ms
from tornado_celery_bridge.ledger.records import Acceptance

#: Values of a task's ``limit_by`` that are listed.
MOST_KEYS = 100


class Use(NamedTuple):
    """
    How a limit is used now.

    .. versionadded:: 0.1.0
    """

    #: The value of ``limit_by`` as JSON, or its hash if it is long; None for jobs that are counted all together.
    key: str | None
    #: How many jobs hold a slot of it: they run, or are about to.
    running: int
    #: How many jobs wait for it.
    waiting: int


class Off(NamedTuple):
    """
    Why a task takes no new jobs.

    .. versionadded:: 0.1.0
    """

    reason: str
    #: Milliseconds since 1970.
    at: int
    #: Who has switched it off; empty if nobody knows.
    by: str


class Declared(NamedTuple):
    """
    What a task's code says of its own limit.

    .. versionadded:: 0.1.0
    """

    max_concurrency: int | None = None
    #: Seconds between two beginnings.
    interval: float | None = None


class TaskLimit(NamedTuple):
    """
    What holds for the jobs of one task.

    .. versionadded:: 0.1.0
    """

    task: str
    #: What is set at run time; None leaves it to the code.
    max_concurrency: int | None = None
    max_rate: str | None = None
    #: The named limit that holds as well.
    limit: str | None = None
    #: Why it is switched off; None if it is not.
    off: Off | None = None
    #: What its code says, as the last worker that began a job has told.
    code: Declared = Declared()
    #: One for each value of ``limit_by``, or one for all: at most ``MOST_KEYS``. Empty if nothing runs or waits.
    uses: Sequence[Use] = ()


class NamedLimit(NamedTuple):
    """
    A limit over several tasks together.

    .. versionadded:: 0.1.0
    """

    name: str
    tasks: Sequence[str]
    max_concurrency: int | None
    max_rate: str | None
    use: Use


class AllLimits(NamedTuple):
    """
    All limits that are set or were declared by workers.

    .. versionadded:: 0.1.0
    """

    tasks: Mapping[str, TaskLimit]
    named: Sequence[NamedLimit]


class LimitTaken(Exception):
    """
    A task is under another named limit: take it out there first.

    .. versionadded:: 0.1.0
    """

    def __init__(self, task: str, limit: str) -> None:
        super().__init__(f"{task} is under the limit {limit}, and a task can be under one named limit only")
        self.task = task
        self.limit = limit


def interval_of(max_rate: str | None) -> float | None:
    """
    Return the milliseconds between the beginnings of two jobs, for a rate as Celery spells it (``10/s``, ``5/m``).

    Raises:
        ValueError: It is none, or it is 0.
    """
    if max_rate is None:
        return None
    try:
        per_second = rate(max_rate)
    except (ValueError, KeyError, ZeroDivisionError):
        per_second = 0.0
    if not (math.isfinite(per_second) and per_second > 0):
        raise ValueError("a rate is a number, and /s, /m or /h: 10/s, 30/m")
    return ms(1 / per_second)


class Limits(Subject):
    """
    The limits of tasks, as they are set at run time.

    .. versionadded:: 0.1.0
    """

    async def set_task(self, task: str, *, by: str = "", **changes: Any) -> None:
        """
        Change what is set of a task. What is not given stays as it is.

        A task that is switched off takes no new jobs: :exc:`.TaskSwitchedOff` says the reason. Schedules leave its runs
        out. Jobs that were accepted before run, and are retried; steps of workflows are such jobs. To hold them, set
        ``max_concurrency`` to 0, or pause the queue.

        Args:
            task: The task's name.
            by: Who wants it.
            changes:
                ``max_concurrency``: how many of its jobs may run at once, over all workers; 0 lets none begin. Jobs
                that run already count, and go on if they are too many.
                ``max_rate``: how many may begin in a time, as Celery spells it: ``10/s``.
                Each is None to go back to what the task's code says. A task with ``limit_by`` counts by its values, as
                before.
                ``enabled``: False switches the task off, and ``reason`` is told to whoever submits.

        Raises:
            ValueError: The rate makes no sense.
            LedgerUnavailable: It may be set all the same.
        """
        patch: dict[str, Any] = {name: changes[name] for name in ("max_concurrency", "max_rate") if name in changes}
        if "max_rate" in patch:
            patch["interval"] = interval_of(patch["max_rate"])
        enabled = changes.get("enabled", "")
        switch = "" if enabled == "" else "off" if enabled is False else "on"
        call = calls.set_task(task=task, patch=dumps(patch), switch=switch, reason=changes.get("reason") or "", by=by)
        await self._redis.run(call)

    async def of_tasks(self, tasks: Sequence[str]) -> dict[str, TaskLimit]:
        """
        Return what is set of these tasks, without how it is used.

        Raises:
            LedgerUnavailable: There was no answer.
        """
        if not tasks:
            return {}
        fields = [f"{kind}\n{task}" for task in tasks for kind in ("task", "of", "off")]
        found = await self._redis.call("HMGET", f"{self._redis.prefix}limits", *fields)
        return {task: _limit_of(task, *found[3 * place : 3 * place + 3]) for place, task in enumerate(tasks)}

    async def set_named(
        self, name: str, tasks: Sequence[str], *, max_concurrency: int | None = None, max_rate: str | None = None
    ) -> None:
        """
        Make or replace a limit over several tasks together. It holds beside each task's own.

        Args:
            name: Its name, without line ends.
            tasks: Names of tasks.
            max_concurrency: How many of their jobs may run at once; None for any number.
            max_rate: How many may begin in a time; None for any number.

        Raises:
            ValueError: The rate makes no sense.
            LimitTaken: One of the tasks is under another named limit.
            LedgerUnavailable: It may be set all the same.
        """
        given = {"max_concurrency": max_concurrency, "max_rate": max_rate, "interval": interval_of(max_rate)}
        settings = {name: value for name, value in given.items() if value is not None} | {"tasks": list(tasks)}
        said, *more = await self._redis.run(calls.set_limit(name=name, settings=dumps(settings), rows=list(tasks)))
        if said == "taken":
            raise LimitTaken(*more)

    async def remove_named(self, name: str) -> bool:
        """Remove a named limit; return whether there was one. Whatever waits for it goes on."""
        (said,) = await self._redis.run(calls.set_limit(name=name, settings="", rows=[]))
        return said == "removed"

    async def all(self) -> AllLimits:
        """
        Return all limits that are set, or that a task's code has of which a worker has begun a job.

        Raises:
            LedgerUnavailable: There was no answer.
        """
        stored, counted = await self._redis.run(calls.read_limits(most=MOST_KEYS))
        return _all(stored, counted)


def _all(stored: Sequence[bytes], counted: Sequence[Any]) -> AllLimits:
    texts = [each.decode() for each in stored]
    found: dict[str, dict[str, str]] = {"task": {}, "off": {}, "of": {}, "named": {}, "code": {}}
    for field, value in zip(texts[::2], texts[1::2], strict=True):
        kind, _, name = field.partition("\n")
        found[kind][name] = value
    uses: dict[str, list[Use]] = {}
    for limit, running, waiting in zip(counted[::3], counted[1::3], counted[2::3], strict=True):
        task, _, key = limit.decode().partition("\n")
        # Of a named limit the task is empty, and the key is the name.
        uses.setdefault(task or f"\n{key}", []).append(Use((key or None) if task else None, running, waiting))
    tasks = {}
    for name in sorted({*found["task"], *found["off"], *found["of"], *found["code"]}):
        limit = _limit_of(name, *(found[kind].get(name) for kind in ("task", "of", "off")))
        most, _, interval = found["code"].get(name, " ").partition(" ")
        declared = (int(most) if most else None, int(interval) / 1000 if interval else None)
        tasks[name] = limit._replace(code=Declared(*declared), uses=uses.get(name, ()))
    named = []
    for name, text in sorted(found["named"].items()):
        settings = json.loads(text)
        (use,) = uses[f"\n{name}"]
        named.append(
            NamedLimit(name, settings["tasks"], settings.get("max_concurrency"), settings.get("max_rate"), use)
        )
    return AllLimits(tasks, named)


def _limit_of(task: str, stored: str | bytes | None, limit: str | bytes | None, off: str | bytes | None) -> TaskLimit:
    settings = json.loads(stored or "{}")
    return TaskLimit(
        task,
        settings.get("max_concurrency"),
        settings.get("max_rate"),
        limit.decode() if isinstance(limit, bytes) else limit,
        None if off is None else Off(**json.loads(off)),
    )


def taken(accepted: Acceptance) -> Acceptance:
    """
    Return how a job or a workflow was accepted.

    Raises:
        TaskSwitchedOff: It was not, as its task is switched off.
    """
    if accepted.kind == "off" and accepted.response is not None:
        off = json.loads(accepted.response)
        raise TaskSwitchedOff(off["reason"] or "its task is switched off")
    return accepted

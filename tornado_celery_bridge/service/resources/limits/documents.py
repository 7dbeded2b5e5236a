"""What is read and shown of limits."""

from typing import Annotated

from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from tornado_celery_bridge.ledger import limits as ledger
from tornado_celery_bridge.service.http.body import Body
from tornado_celery_bridge.service.http.documents import Moment, rfc3339
from tornado_celery_bridge.service.resources.catalogue import Catalogue
from tornado_celery_bridge.service.resources.tasks.documents import Rate


class LimitChange(Body):
    """A limit over several tasks together."""

    tasks: Annotated[
        list[Annotated[str, StringConstraints(pattern=r"^[^\n]{1,500}$")]],
        Field(min_length=1, max_length=100, description="The tasks that share it, those too that are not exposed."),
    ]
    max_concurrency: Annotated[
        int | None, Field(ge=0, le=1_000_000, description="How many of their jobs may run at once; with 0 none begins.")
    ] = None
    max_rate: Annotated[Rate | None, Field(description="How many may begin in a time: `10/s`, `30/m`, `100/h`.")] = None


class LimitUse(TypedDict):
    """How a limit is used now."""

    key: Annotated[
        str | None,
        Field(description="The value of `limit_by`, as JSON, or its hash; null: all jobs are counted together."),
    ]
    running: Annotated[int, Field(description="Jobs that hold a slot: they run, or are about to.")]
    waiting: Annotated[int, Field(description="Jobs that wait for it.")]


class SwitchedOff(TypedDict):
    """Why a task takes no new jobs."""

    reason: str
    at: Moment
    by: Annotated[str | None, Field(description="Whose key did it.")]


class Bounds(TypedDict):
    """How many at once, and how many in a time."""

    max_concurrency: int | None
    max_rate: str | None


class TaskLimit(TypedDict):
    """What holds for one task."""

    task: str
    max_concurrency: Annotated[int | None, Field(description="What holds now.")]
    max_rate: Annotated[str | None, Field(description="What holds now.")]
    set: Annotated[Bounds, Field(description="What of it is set at run time; null: it is what the code says.")]
    limit_by: Annotated[str | None, Field(description="The parameter by whose value both are counted.")]
    limit: Annotated[str | None, Field(description="The named limit that holds as well.")]
    switched_off: SwitchedOff | None
    uses: Annotated[list[LimitUse], Field(description="One for each value of `limit_by`, 100 at most; else one.")]


class Limit(TypedDict):
    """A limit over several tasks together."""

    name: str
    tasks: list[str]
    max_concurrency: int | None
    max_rate: str | None
    running: int
    waiting: int


class Limits(TypedDict):
    """All limits."""

    limits: Annotated[list[Limit], Field(description="Those over several tasks.")]
    tasks: Annotated[list[TaskLimit], Field(description="Tasks with a limit, and those that are switched off.")]
    next_cursor: None


def limits(found: ledger.AllLimits, catalogue: Catalogue) -> Limits:
    """Return all limits: those that are set, and those of the tasks' code."""
    exposed = {each.name: each.task for each in catalogue}
    tasks = []
    for name in sorted({*found.tasks, *exposed}):
        its = found.tasks.get(name, ledger.TaskLimit(name))
        most, rate = its.code.max_concurrency, its.code.interval and f"{1 / its.code.interval:g}/s"
        if name in exposed:
            most, rate = (getattr(exposed[name], option, None) for option in ("max_concurrency", "max_rate"))
        shown: TaskLimit = {
            "task": name,
            "max_concurrency": most if its.max_concurrency is None else its.max_concurrency,
            "max_rate": (None if rate is None else str(rate)) if its.max_rate is None else its.max_rate,
            "set": {"max_concurrency": its.max_concurrency, "max_rate": its.max_rate},
            "limit_by": getattr(exposed.get(name), "limit_by", None),
            "limit": its.limit,
            "switched_off": None
            if its.off is None
            else {"reason": its.off.reason, "at": rfc3339(its.off.at), "by": its.off.by or None},
            "uses": [{"key": use.key, "running": use.running, "waiting": use.waiting} for use in its.uses],
        }
        if any(shown[member] is not None for member in ("max_concurrency", "max_rate", "limit", "switched_off")):
            tasks.append(shown)
    return {"limits": [limit(each) for each in found.named], "tasks": tasks, "next_cursor": None}


def limit(found: ledger.NamedLimit) -> Limit:
    """Return a limit over several tasks."""
    return {
        "name": found.name,
        "tasks": list(found.tasks),
        "max_concurrency": found.max_concurrency,
        "max_rate": found.max_rate,
        "running": found.use.running,
        "waiting": found.use.waiting,
    }

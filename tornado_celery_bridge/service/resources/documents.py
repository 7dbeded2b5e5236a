"""
What the service writes and reads besides a task's own input and result.

mypy holds the code to these types and pydantic makes the OpenAPI document's schemas of them, so the two agree.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict
from typing_extensions import TypedDict  # before Python 3.12, pydantic cannot read typing's

__all__ = (
    "Attempt",
    "AuditEntries",
    "AuditEntry",
    "Backfill",
    "BatchAnswer",
    "BatchAnswers",
    "Broker",
    "Cancellation",
    "Counted",
    "Deliveries",
    "Delivery",
    "Event",
    "FailureGroup",
    "Failures",
    "Fault",
    "Finding",
    "Health",
    "Job",
    "JobError",
    "JobLinks",
    "JobReference",
    "Jobs",
    "Login",
    "Me",
    "Now",
    "Problem",
    "Progress",
    "Purged",
    "Quantiles",
    "QuarantinedSchedule",
    "Queue",
    "Queues",
    "Readiness",
    "RefusedRetry",
    "Retried",
    "Schedule",
    "ScheduleLinks",
    "ScheduleRun",
    "ScheduleRuns",
    "Schedules",
    "Slot",
    "Slots",
    "Statistics",
    "Step",
    "Task",
    "TaskDefaults",
    "TaskLinks",
    "TaskSummary",
    "Tasks",
    "Worker",
    "WorkerAnswer",
    "Workers",
    "Workflow",
    "WorkflowCancellation",
    "WorkflowLinks",
)

_MOMENT: JsonDict = {"format": "date-time"}
Moment = Annotated[str, Field(json_schema_extra=_MOMENT, description="RFC 3339, UTC.")]
Path = Annotated[str, Field(json_schema_extra={"format": "uri-reference"})]


class Progress(TypedDict):
    """How far a job has come, in units of its own."""

    current: float
    total: float | None
    message: str | None


class JobError(TypedDict):
    """Why a job failed, was cancelled, or is tried again."""

    type: str
    title: str
    detail: Annotated[str, Field(description="Text as the worker wrote it.")]
    exception: Annotated[str, Field(description="The exception's class.")]
    retryable: Annotated[bool, Field(description="The worker failed, or ran out of time, and not the task's own code.")]
    traceback: NotRequired[
        Annotated[
            str, Field(description="In FAILURE, where a job is read alone, for operators and admins: the last 16 KiB.")
        ]
    ]


class JobLinks(TypedDict):
    """Where else there is something about a job."""

    self: Path
    events: Path
    result: NotRequired[Annotated[Path, Field(description="Where a large result is.")]]
    retry_of: NotRequired[Annotated[Path, Field(description="The job of which this one is another try.")]]
    deliveries: NotRequired[Annotated[Path, Field(description="With a callback_url: what became of calling it.")]]
    workflow: NotRequired[Annotated[Path, Field(description="The workflow that it is a job of.")]]
    schedule: NotRequired[Annotated[Path, Field(description="The schedule that it is a run of.")]]


class _Job(TypedDict):
    id: str
    task: str
    state: Annotated[str, Field(description="Celery's, or the task's own.", examples=["PENDING", "SUCCESS", "FAILURE"])]
    done: bool
    progress: Annotated[Any, Field(description="In state PROGRESS: what the task told, as a rule a Progress.")]
    queue: str
    priority: Annotated[int | None, Field(description="0 to 9, 9 the most urgent.")]
    attempt: Annotated[int, Field(description="How often a worker has begun it.")]
    tags: list[str]
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    eta: Moment | None
    links: JobLinks


class Job(_Job, total=False):
    """One run of a task."""

    result: Annotated[Any, Field(description="In state SUCCESS only: what the task returned, unless that is large.")]
    result_size: Annotated[int, Field(description="In the place of a large result: its bytes, at links.result.")]
    error: Annotated[JobError, Field(description="In states FAILURE, REVOKED and RETRY only.")]
    schedule: Annotated[str, Field(description="The name of the schedule that it is a run of.")]
    queue_depth: Annotated[
        int, Field(description="In state PENDING, of a job that is read alone: how many are in its queue.")
    ]


class Event(TypedDict):
    """One server-sent event."""

    event: Literal["state", "progress", "log", "end", "snapshot", "close"]
    data: Annotated[str, Field(json_schema_extra={"contentMediaType": "application/json"})]
    id: NotRequired[str]
    retry: NotRequired[Annotated[int, Field(description="Milliseconds.")]]


class Cancellation(TypedDict, total=False):
    """How a job is to be cancelled."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    terminate: Annotated[bool, Field(description="End the process that runs it, too.", default=False)]


class Attempt(TypedDict):
    """A request to a callback_url: how it was answered, or why it was not."""

    at: Moment
    seconds: Annotated[float, Field(description="That it took.")]
    status: NotRequired[int]
    error: NotRequired[str]


class Delivery(TypedDict):
    """How it stands with calling a callback_url."""

    id: Annotated[str, Field(description="The event's id, and the webhook-id: the same at every attempt.")]
    url: Annotated[str, Field(json_schema_extra={"format": "uri"})]
    state: Literal["waiting", "delivered", "failed"]
    attempts: Annotated[list[Attempt], Field(description="The last 20, the oldest first.")]
    next_attempt_at: Annotated[Moment | None, Field(description="While it waits.")]


class Deliveries(TypedDict):
    """The deliveries of a job: one, once it has ended and has a callback_url."""

    deliveries: list[Delivery]


class Jobs(TypedDict):
    """A page of jobs, newest first."""

    jobs: list[Job]
    next_cursor: Annotated[str | None, Field(description="Where the next page begins.")]


class BatchAnswer(TypedDict):
    """What a job of a batch would have been answered alone."""

    status: int
    job: NotRequired[Job]
    problem: NotRequired["Problem"]


class BatchAnswers(TypedDict):
    """The answers, in the order of the jobs."""

    jobs: list[BatchAnswer]


class WorkflowLinks(TypedDict):
    """Where else there is something about a workflow."""

    self: Path
    cancel: Path


class Workflow(TypedDict):
    """Jobs that come after one another and beside one another."""

    id: str
    state: Annotated[str, Field(description="PENDING, STARTED, SUCCESS, FAILURE or REVOKED.")]
    done: Annotated[int, Field(description="Jobs that have ended.")]
    total: int
    finished: bool
    tags: list[str]
    created_at: Moment
    tree: Annotated[dict[str, Any], Field(description="As it was sent, with a Job in the place of each step.")]
    on_error: NotRequired[Annotated[Job, Field(description="What runs when a step does not succeed.")]]
    links: WorkflowLinks


class WorkflowCancellation(TypedDict, total=False):
    """What of a workflow is to be cancelled, and how."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    terminate: Annotated[bool, Field(description="End the processes that run its jobs, too.", default=False)]
    branch: Annotated[str, Field(description="JSON Pointer into the tree; the whole without one.", default="")]


class ScheduleLinks(TypedDict):
    """Where else there is something about a schedule."""

    self: Path
    next: Path
    runs: Path
    task: Path
    last_job: NotRequired[Annotated[Path, Field(description="The last run.")]]


class _Schedule(TypedDict):
    name: str
    task: str
    input: Annotated[Any, Field(description="Named arguments, or a list of positional ones.")]
    options: Annotated[dict[str, Any], Field(description="RunOptions, and what else Celery was told by others.")]
    timezone: Annotated[str, Field(description="IANA name of the zone that a crontab is in.")]
    enabled: bool
    paused_until: Annotated[Moment | None, Field(description="Not due before.")]
    overlap: Literal["allow", "skip", "queue", "cancel"]
    misfire: Literal["skip", "once", "all"]
    misfire_cap: int
    grace: Annotated[float, Field(description="Seconds after which a run has been missed, with misfire skip.")]
    pause_after: Annotated[int | None, Field(description="Failures in a row after which it is halted.")]
    start: Annotated[Moment | None, Field(description="Not due before.")]
    end: Annotated[Moment | None, Field(description="Not due after.")]
    jitter: Annotated[float, Field(description="Seconds by up to which each run is put off.")]
    max_runs: int | None
    note: str
    tags: Annotated[list[str], Field(description="Its jobs', too.")]
    owner: Annotated[str, Field(description="Empty where there are no keys.")]
    version: Annotated[int, Field(description="The ETag has it.")]
    static: Annotated[bool, Field(description="The configuration has it: it can be paused, and not changed here.")]
    halted: Annotated[str | None, Field(description="Why it is due no more, until it is resumed or replaced.")]
    failures: Annotated[int, Field(description="In a row, of late.")]
    runs: Annotated[int, Field(description="How many it has had, but for those on demand.")]
    last_run: Annotated[Moment | None, Field(description="When the last run began.")]
    next_run: Annotated[Moment | None, Field(description="But for jitter; null for never.")]
    links: ScheduleLinks


class Schedule(_Schedule, total=False):
    """What is run when: by one of crontab, interval, once and solar."""

    crontab: str
    interval: Annotated[float, Field(description="Seconds.")]
    anchor: Annotated[Moment, Field(description="From when an interval is counted.")]
    once: Moment
    solar: Annotated[dict[str, Any], Field(description="event, lat and lon.")]


class QuarantinedSchedule(TypedDict):
    """What is stored by this name, and nobody can use."""

    name: str
    detail: str


class Schedules(TypedDict):
    """A page of schedules, in the order of their names."""

    schedules: list[Schedule]
    quarantined: Annotated[list[QuarantinedSchedule], Field(description="On the first page, and to admins only.")]
    next_cursor: Annotated[str | None, Field(description="Where the next page begins.")]


class Slot(TypedDict):
    """A time at which a schedule is due, but for jitter."""

    utc: Moment
    local: Annotated[str, Field(description="The same in the schedule's time zone.", json_schema_extra=_MOMENT)]


class Slots(TypedDict):
    """When a schedule is due next."""

    description: Annotated[str, Field(description="The schedule in words.")]
    timezone: str
    next: list[Slot]


class ScheduleRun(TypedDict):
    """What became of a run that was due."""

    slot: Annotated[Moment | None, Field(description="When it was due, but for jitter; null for one on demand.")]
    at: Annotated[Moment, Field(description="When that was decided.")]
    delay: Annotated[float | None, Field(description="Seconds from the one to the other.")]
    job_id: str | None
    job: Annotated[Job | None, Field(description="While it is kept.")]
    reason: Annotated[str | None, Field(description="Why it did not begin: missed, skipped or paused.")]


class ScheduleRuns(TypedDict):
    """What became of a schedule's last runs, at most 100, the latest first."""

    runs: list[ScheduleRun]


class Backfill(TypedDict):
    """What a backfill begins, or would."""

    dry_run: bool
    slots: Annotated[list[Moment], Field(description="Those that had no job, oldest first.")]
    job_ids: Annotated[list[str], Field(description="Their jobs, in the same order; none on a dry run.")]


class FailureGroup(TypedDict):
    """Jobs of one owner that failed alike: the same task raised the same at the same place."""

    id: str
    owner: Annotated[str, Field(description="Whose jobs they are; empty where there are no keys.")]
    task: str
    exception: Annotated[str, Field(description="With its module.")]
    place: Annotated[str | None, Field(description="The file and the function in it, where that is known.")]
    detail: Annotated[str, Field(description="What the last one said, its first 300 characters.")]
    first_seen: Moment
    last_seen: Moment
    count: Annotated[int, Field(description="How often, since it was first seen or was last resolved.")]
    jobs: Annotated[int, Field(description="How many of these are kept still, and have not been tried again.")]
    links: dict[str, Path]


class Failures(TypedDict):
    """The groups of failures, at most 500, the one that failed last first."""

    failures: list[FailureGroup]
    next_cursor: str | None


class RefusedRetry(TypedDict):
    """A job that was not tried again."""

    job_id: str
    problem: "Problem"


class Retried(TypedDict):
    """What became of trying a group's jobs again, or would."""

    dry_run: bool
    jobs: Annotated[int, Field(description="How many this is about: the newest 1,000 at most.")]
    job_ids: Annotated[list[str], Field(description="The new jobs; none on a dry run.")]
    refused: list[RefusedRetry]


class TaskLinks(TypedDict):
    """Where a task is described, and where its jobs are submitted."""

    self: Path
    jobs: Path


class TaskSummary(TypedDict):
    """A task in a list."""

    name: str
    summary: str
    queue: str
    links: TaskLinks


class TaskDefaults(TypedDict):
    """What applies when a job's options don't say otherwise; durations are seconds."""

    queue: str
    priority: int | None
    time_limit: float | None
    soft_time_limit: float | None
    rate_limit: Annotated[str | float | None, Field(description="As Celery spells it, per worker: 10/m.")]
    max_retries: int | None
    max_concurrency: Annotated[int | None, Field(description="How many jobs may run at once, over all workers.")]
    max_rate: Annotated[str | float | None, Field(description="How many may begin in a time, over all workers: 10/s.")]
    limit_by: Annotated[str | None, Field(description="The parameter by whose value both are counted.")]
    unique: Annotated[bool, Field(description="A job with the same input as an unfinished one is that one.")]


class Task(TaskSummary):
    """A task with its schemas."""

    description: Annotated[str, Field(description="Its docstring.")]
    defaults: TaskDefaults
    input: Annotated[dict[str, Any], Field(description="JSON Schema 2020-12.")]
    result: Annotated[dict[str, Any], Field(description="JSON Schema 2020-12.")]


class Tasks(TypedDict):
    """The tasks that may be run."""

    tasks: list[TaskSummary]
    next_cursor: str | None


Login = Literal["key", "session", "none"]


class Me(TypedDict):
    """Who asks, and what they may do."""

    login: Annotated[Login, Field(description="By a key, by a session of the login page, or none is needed.")]
    key: Annotated[str | None, Field(description="The key's id; None where there are no keys.")]
    owner: Annotated[str, Field(description="Whose the jobs are that they submit.")]
    role: Annotated[str | None, Field(description="The most that they are of viewer, operator and admin.")]
    scopes: Annotated[list[str], Field(description="All that they have, those by admin too.")]
    tasks: Annotated[list[str], Field(description="Names that they may run; `*` ends one that stands for more.")]


class Quantiles(TypedDict):
    """How long something took: in so many seconds half of it was done, and 95 of 100; null if there was nothing."""

    p50: float | None
    p95: float | None


class Counted(TypedDict):
    """What has happened in some time."""

    accepted: int
    withdrawn: Annotated[int, Field(description="Accepted, but not published after all: the answer was a 503.")]
    started: Annotated[int, Field(description="Attempts that began.")]
    retried: Annotated[int, Field(description="Attempts that asked for another.")]
    lost: Annotated[int, Field(description="Attempts whose worker was lost.")]
    succeeded: int
    failed: int
    revoked: Annotated[int, Field(description="Cancelled, or expired.")]
    wait: Annotated[Quantiles, Field(description="From when an attempt was due until it began.")]
    run: Annotated[Quantiles, Field(description="Of the last attempt of each job that ended.")]


class Step(Counted):
    """What has happened in a minute, an hour or a day."""

    at: Annotated[Moment, Field(description="When it begins.")]


class Now(TypedDict):
    """How many jobs there are; of ended ones those that are still kept."""

    waiting: Annotated[int, Field(description="In a queue, or held up by a limit or by other jobs of a workflow.")]
    scheduled: Annotated[int, Field(description="Not due yet.")]
    running: int
    done: Annotated[int, Field(description="Ended, one way or another.")]
    succeeded: int
    failed: int
    revoked: int
    dead: Annotated[int, Field(description="Of those that failed: given up, as worker after worker was lost.")]
    unpublished: Annotated[int, Field(description="Of those that wait: their broker was away.")]


class Statistics(TypedDict):
    """What has happened, and how it stands."""

    step: Literal["minute", "hour", "day"]
    series: Annotated[list[Step], Field(description="The oldest first, without gaps; the last one may be under way.")]
    summary: Annotated[Counted, Field(description="Of all of the series.")]
    now: Annotated[Now, Field(description="Of all tasks and queues, whatever was asked for.")]


class Queue(TypedDict):
    """The jobs of a queue that have not begun. Tasks that are no jobs are not among them."""

    name: str
    depth: Annotated[int, Field(description="That are due.")]
    scheduled: Annotated[int, Field(description="That are not due yet.")]
    oldest: Annotated[float, Field(description="Seconds for which the one that has waited for longest has.")]
    consumers: Annotated[int, Field(description="Living workers that take from it.")]
    is_stuck: Annotated[bool, Field(description="There are jobs, and nobody takes any, though it is not paused.")]
    paused_since: Moment | None


class Queues(TypedDict):
    """All queues that there are settings for, or jobs, or workers."""

    queues: list[Queue]
    next_cursor: str | None


class Worker(TypedDict):
    """A worker that keeps the ledger, as it last told of itself."""

    name: str
    alive: Annotated[bool, Field(description="It was heard of in the last 10 seconds. It tells every 2.")]
    last_seen: Moment
    slots: Annotated[int, Field(description="How many tasks it runs at once.")]
    queues: list[str]
    jobs: Annotated[list[str], Field(description="Ids of the jobs that it runs.")]
    memory: Annotated[
        int | None,
        Field(description="Bytes that its processes have, in each what they share; null where that is not known."),
    ]


class WorkerAnswer(TypedDict):
    """What became of telling a worker something."""

    name: str
    answer: Annotated[str, Field(description="What it said, for people; to a shutdown a worker says nothing.")]


class Purged(TypedDict):
    """What was in a queue that was purged."""

    name: str
    jobs: Annotated[int, Field(description="Jobs that have ended by it.")]
    messages: Annotated[int, Field(description="Messages that the broker had, as it counts them.")]


class Workers(TypedDict):
    """The workers that were heard of in the last hour, but for those that ended by themselves."""

    workers: list[Worker]
    next_cursor: str | None


class AuditEntry(TypedDict):
    """A request to change something."""

    at: Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="When it was answered.")]
    key: Annotated[str | None, Field(description="The key's id; None where there are no keys.")]
    owner: str
    login: Login
    ip: str | None
    method: str
    path: str
    target: Annotated[str, Field(description="What was made by it, as a path; else the path.")]
    status: int
    request_id: Annotated[str, Field(description="As in the access log, and in X-Request-Id.")]


class AuditEntries(TypedDict):
    """A page of the audit log, newest first."""

    entries: list[AuditEntry]
    next_cursor: Annotated[str | None, Field(description="Where the next page begins.")]


class Health(TypedDict):
    """The process is alive."""

    status: Literal["alive"]


class Broker(TypedDict):
    """What task messages go through, as it is set up here: with `verbose`, for admins."""

    url: Annotated[str, Field(description="Where it is, without passwords.")]
    server: Annotated[str, Field(description="Its name and version, as far as it says them; or why it did not.")]
    capabilities: Annotated[dict[str, str], Field(description="What it can do and what not, for people.")]


class Finding(TypedDict):
    """Something about the settings or servers that is not as it should be: with `verbose`, for admins."""

    name: str
    verdict: Annotated[
        Literal["unsafe", "allowed", "unwise"],
        Field(description="`unsafe` was found after the start: with it, nothing starts."),
    ]
    what: Annotated[str, Field(description="What is so, and what comes of it.")]
    remedy: str


class Readiness(TypedDict):
    """What the service stands on can be used."""

    status: Literal["ready"]
    checks: dict[str, str]
    broker: NotRequired[Broker]
    findings: NotRequired[list[Finding]]


class Fault(TypedDict):
    """One thing that is wrong with a body."""

    pointer: Annotated[str, Field(description="JSON Pointer (RFC 6901) into the body.")]
    detail: str


class _Problem(TypedDict):
    type: Annotated[str, Field(json_schema_extra={"format": "uri"})]
    title: str
    status: int
    detail: Annotated[str, Field(description="What happened this time, for people.")]
    instance: Annotated[str, Field(description="The request's path.")]
    code: Annotated[str, Field(description="For programs; a code does not change its meaning, but there may be more.")]
    request_id: str
    trace_id: str


class JobReference(TypedDict):
    """A job that may have been accepted."""

    id: str
    links: dict[str, str]


class Problem(_Problem, total=False):
    """An error: RFC 9457."""

    errors: Annotated[list[Fault], Field(description="What is wrong with the body.")]
    job: Annotated[JobReference, Field(description="With dispatch-uncertain: the job to ask about.")]
    checks: Annotated[dict[str, str], Field(description="With not-ready: what can be used, and what cannot.")]
    broker: Annotated[Broker, Field(description="With not-ready and `verbose`, for admins.")]
    findings: Annotated[list[Finding], Field(description="With not-ready and `verbose`, for admins.")]

"""What goes wrong with jobs."""

from tornado_celery_bridge.service.http.idempotency import (
    IDEMPOTENCY_KEY_IN_FLIGHT,
    IDEMPOTENCY_KEY_REUSED,
    INVALID_IDEMPOTENCY_KEY,
)
from tornado_celery_bridge.service.http.problems import (
    BROKER_UNAVAILABLE,
    DISPATCH_SATURATED,
    DISPATCH_UNCERTAIN,
    SHUTTING_DOWN,
    STORE_UNAVAILABLE,
    TASK_SWITCHED_OFF,
    Kind,
)
from tornado_celery_bridge.service.resources.catalogue import INVALID_INPUT, UNKNOWN_TASK

UNKNOWN_JOB = Kind("unknown-job", 404, "There is no job of this id, or it is somebody else's.")
EXPIRED_JOB = Kind("expired-job", 410, "There was a job of this id, and its time is over.")
JOB_UNFINISHED = Kind("job-unfinished", 409, "The job has not ended.")
JOB_NEEDED = Kind("job-needed", 409, "The job has ended, and its workflow or its callback needs it still.")
JOB_BEGUN = Kind("job-begun", 409, "The job has begun or ended, or is a step of a workflow: it can't be changed.")
JOB_CHANGING = Kind("job-changing", 409, "Others changed the job at the same time, and several tries failed.")
NO_RESULT = Kind("no-result", 409, "The job ended without a result: `error` in the job says why.")
NO_CHECKPOINT = Kind("no-checkpoint", 409, "The job's task has saved no checkpoint to go on from.")
INVALID_OPTIONS = Kind("invalid-options", 422, "The options do not fit.")
UNPUBLISHABLE = Kind("unpublishable", 422, "Celery itself refused it.")
TOO_MANY_UNFINISHED_JOBS = Kind(
    "too-many-unfinished-jobs", 429, "The key's owner has as many unfinished jobs as they may."
)

#: What is answered of one job, whatever is asked of it.
JOB = (UNKNOWN_JOB, EXPIRED_JOB)
#: What is answered instead of accepting a job.
SUBMISSION = (
    *(BROKER_UNAVAILABLE, DISPATCH_SATURATED, DISPATCH_UNCERTAIN, UNPUBLISHABLE, SHUTTING_DOWN),
    *(STORE_UNAVAILABLE, TASK_SWITCHED_OFF, TOO_MANY_UNFINISHED_JOBS),
    *(UNKNOWN_TASK, INVALID_INPUT, INVALID_OPTIONS),
    *(INVALID_IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_IN_FLIGHT, IDEMPOTENCY_KEY_REUSED),
)

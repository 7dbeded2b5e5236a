"""The states in which a task has ended, and one of ours."""

from celery import states

#: Celery's own state of a task whose code raised ``Ignore``. Celery stores it nowhere; a job's is stored.
IGNORED = states.IGNORED
#: The task's code, a generator, has yielded an item: the state of a running task, as PROGRESS is.
ITEM = "ITEM"
#: The task has ended, and nothing went wrong.
SUCCEEDED = frozenset({states.SUCCESS, IGNORED})
#: The task has ended, one way or another.
ENDED = states.READY_STATES | {IGNORED}

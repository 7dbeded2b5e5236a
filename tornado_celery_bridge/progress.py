"""
The worker's side: report how far a task has come.

Imports Celery only, so that a worker never loads what the event loop's side needs.
"""

from celery import current_task

__all__ = ("STATE", "progress")

#: The state under which progress is stored, as in Celery's own documentation of ``update_state``.
STATE = "PROGRESS"


def progress(current: float, total: float | None = None, message: str | None = None) -> None:
    """
    Tell whoever follows the running task how far it has come.

    Plain ``update_state`` underneath: one write to the result backend per call, so call it per chunk of work, not per
    row. Outside of a worker (a unit test that calls the task as a function) it does nothing.

    Args:
        current: Work done so far, in any unit.
        total: All work there is, in the same unit; ``None`` if that is not known.
        message: What is being done, for a person to read.

    See https://docs.celeryq.dev/en/stable/userguide/tasks.html#custom-states

    .. versionadded:: 0.1.0
    """
    if not current_task or current_task.request.id is None or current_task.request.called_directly:
        return
    current_task.update_state(state=STATE, meta={"current": current, "total": total, "message": message})

"""
Lets a task report its progress.

This module imports only Celery, so a worker never loads what the event loop's side needs.
"""

from celery import current_task

__all__ = ("STATE", "progress")

#: The state under which progress is stored, as in Celery's own documentation of ``update_state``.
STATE = "PROGRESS"


def progress(current: float, total: float | None = None, message: str | None = None) -> None:
    """
    Report the progress of the running task to everybody who follows it.

    This calls Celery's ``update_state``. Each call is a write to the result backend, so call it per chunk of work, not
    per row. Outside of a worker (in a unit test that calls the task as a function) it does nothing.

    Args:
        current: The work done so far, in any unit.
        total: All the work, in the same unit; ``None`` if it is not known.
        message: What the task is doing, for people to read.

    See https://docs.celeryq.dev/en/stable/userguide/tasks.html#custom-states

    .. versionadded:: 0.1.0
    """
    if not current_task or current_task.request.id is None or current_task.request.called_directly:
        return
    current_task.update_state(state=STATE, meta={"current": current, "total": total, "message": message})

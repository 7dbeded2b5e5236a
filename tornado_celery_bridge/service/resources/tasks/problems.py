"""What goes wrong with a task's name and input."""

from tornado_celery_bridge.service.http.problems import Kind, Problem

UNKNOWN_TASK = Kind("unknown-task", 404, "There is no task of this name.")
INVALID_INPUT = Kind("invalid-input", 422, "The input does not fit the task.")


def unknown_task() -> Problem:
    """Return the one answer for every task that cannot be run, whatever the reason."""
    return UNKNOWN_TASK("There is no task of this name.")

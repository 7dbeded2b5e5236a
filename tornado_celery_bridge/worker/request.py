"""A task in a worker's hands, as Celery's own; only workers load this."""

from typing import Any

from celery.worker.request import Request

__all__ = ("JobRequest",)


class JobRequest(Request):
    """One that has not ended when the worker gives it up, as it does when it loses the broker."""

    def cancel(self, *args: Any, **kwargs: Any) -> Any:
        # Celery notes that only once it has told the result backend, and raises if that is away with the broker. The
        # process that it has ended by then would be taken for a revoked task's, and the job, which nobody cancelled,
        # would have ended as REVOKED.
        self._already_cancelled = True
        return super().cancel(*args, **kwargs)

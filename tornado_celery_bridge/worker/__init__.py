"""What a worker runs: ``install(app)``, one line beside the Celery app, and what that brings."""

from tornado_celery_bridge.worker.setup import JobCancelled, install

__all__ = ("JobCancelled", "install")

"""Worker side: the Celery app (:mod:`tasks.celery`) and one module per subject of tasks."""

from tasks.celery import app

__all__ = ("app",)

"""The worker's side: the Celery app (:mod:`tasks.celery`), and one module for each subject of tasks."""

from tasks.celery import app

__all__ = ("app",)

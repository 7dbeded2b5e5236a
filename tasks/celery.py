"""The Celery app: ``celery -A tasks``. Configured by ``celeryconfig.py`` and nothing else."""

from celery import Celery

app = Celery("tasks")
app.config_from_object("celeryconfig")

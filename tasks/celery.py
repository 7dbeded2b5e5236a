"""The Celery app: ``celery -A tasks``. Configured by ``celeryconfig.py`` and nothing else."""

from celery import Celery

from tornado_celery_bridge.ledger.worker import install

app = Celery("tasks")
app.config_from_object("celeryconfig")
install(app)  # its workers say what becomes of jobs

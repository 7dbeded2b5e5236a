"""The Celery app: ``celery -A tasks``. Only ``celeryconfig.py`` configures it."""

from celery import Celery

from tornado_celery_bridge.transports import register
from tornado_celery_bridge.worker import install

app = Celery("tasks")
app.config_from_object("celeryconfig")
if not app.conf.stock_transport:
    register(app.conf.broker_url)  # a worker that is killed loses no message
install(app)  # its workers keep the ledger: the records of all jobs

"""Everything HTTP: jobs over Celery for whoever can speak JSON."""

from tornado_celery_bridge.service.process.application import make_app, make_server
from tornado_celery_bridge.service.resources.jobs.service import Jobs
from tornado_celery_bridge.service.resources.tasks.catalogue import Catalogue

__all__ = ("Catalogue", "Jobs", "make_app", "make_server")

"""Everything HTTP: jobs over Celery for whoever can speak JSON."""

from web.application import make_app, make_server
from web.jobs import Jobs

__all__ = ("Jobs", "make_app", "make_server")

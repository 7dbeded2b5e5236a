"""Everything HTTP: jobs over Celery for whoever can speak JSON."""

from web.application import make_app, make_server
from web.catalogue import Catalogue
from web.jobs import Jobs

__all__ = ("Catalogue", "Jobs", "make_app", "make_server")

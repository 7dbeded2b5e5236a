"""
The Celery app that ``tcb flower`` runs: the deployment's, in a Flower that asks for its password everywhere.

Flower itself answers ``/metrics``, which has the names of tasks and workers, and ``/healthcheck`` without one.
"""

from flower.views.monitor import Healthcheck, Metrics
from tornado.web import authenticated

from tornado_celery_bridge.cli.deployment import app

__all__ = ("app",)

for handler in (Healthcheck, Metrics):
    handler.get = authenticated(handler.get)

"""
The service: jobs over HTTP, for whoever can speak JSON.

``Service(bridge).routes(prefix="/jobs")`` mounts it in a Tornado application, which :class:`Server` serves with limits;
``tcb serve`` serves it alone. What comes in is a request, what goes out is its answer. The rooms within, each of which
knows only those after it: ``process``, ``resources`` and ``pages``, ``access``, ``http``. Only ``tcb`` and applications
may import this room.
"""

from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.service.http.server import Server
from tornado_celery_bridge.service.process.application import Service
from tornado_celery_bridge.service.process.logs import set_up_logs

__all__ = ("Server", "Service", "Settings", "SettingsError", "set_up_logs")

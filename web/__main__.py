"""Serves the sample application: ``python -m web``."""

import asyncio
import logging
import os
import signal
import sys

from celery import Celery
from celery.app.utils import find_app
from celery.exceptions import ImproperlyConfigured
from tornado.web import Application

from tornado_celery_bridge import Bridge, BridgeConfig
from tornado_celery_bridge.handlers import drain
from tornado_celery_bridge.service import Server, Service, Settings, SettingsError, set_up_logs
from web.handlers import ROUTES

#: The names by which a browser here reaches this process; a stranger's page that knows its address has another.
THIS_MACHINE = r"(localhost|127\.0\.0\.1|\[::1\])"

#: Seconds for the requests under way when the process ends.
GRACE = 10.0


async def serve(app: Celery, settings: Settings) -> None:
    """Serve until INT or TERM, then let the requests under way end."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Bridge(app, BridgeConfig(job_ttl=settings.job_ttl)) as bridge, Service(bridge, settings) as service:
        application = Application(service.routes(), bridge=bridge, cross_origin_protection=True)
        if settings.api_keys_file is None:  # our own handlers ask for no key, so they are for this machine alone
            application.add_handlers(THIS_MACHINE, ROUTES)
        server = Server(application, behind_proxy=settings.behind_proxy)  # with limits, as strangers can reach it
        server.listen(settings.port, settings.bind)
        url = f"http://{settings.bind}:{settings.port}"
        logging.info("serving %s; handlers of its own: %s/sample", url, url)
        await stop.wait()
        await drain(server, GRACE)


def main() -> int:
    """Return the exit status; 78 (EX_CONFIG) tells ``tcb up`` that starting again would not help."""
    try:
        settings = Settings.from_environment()
        set_up_logs(settings.log_format)
        asyncio.run(serve(find_app(settings.celery_app), settings))  # `tasks`, unless CELERY_APP is set
    except (SettingsError, ImproperlyConfigured, ImportError, OSError) as exc:
        print(f"web: {exc}", file=sys.stderr)
        return os.EX_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())

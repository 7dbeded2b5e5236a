"""The Tornado application."""

import logging
import secrets
from typing import Any

import tornado.web
from tornado.httpserver import HTTPServer

from tornado_celery_bridge import Bridge
from tornado_celery_bridge.service.access import login
from tornado_celery_bridge.service.access.keys import Keyring
from tornado_celery_bridge.service.http.handler import MAX_BODY
from tornado_celery_bridge.service.http.openapi import make_document
from tornado_celery_bridge.service.pages import flower as flower_
from tornado_celery_bridge.service.pages.files import make_file
from tornado_celery_bridge.service.pages.flower import Flower
from tornado_celery_bridge.service.process.lifecycle import Lifecycle
from tornado_celery_bridge.service.process.logs import log_request
from tornado_celery_bridge.service.resources.handlers import ROUTES, NotFoundHandler
from tornado_celery_bridge.service.resources.jobs.service import Jobs
from tornado_celery_bridge.service.resources.representation import encode

__all__ = ("make_app", "make_server")


def make_app(
    bridge: Bridge,
    jobs: Jobs,
    *,
    keys: Keyring | None = None,
    lifecycle: Lifecycle | None = None,
    max_body: int = MAX_BODY,
    cookie_secret: str | None = None,
    flower: Flower | None = None,
    **settings: Any,
) -> tornado.web.Application:
    """
    Return the service's application.

    Args:
        bridge: An open bridge.
        jobs: What the handlers ask; of the same bridge.
        keys: Who may do what; None lets everybody do everything.
        lifecycle: Tells the handlers when the process is about to end.
        max_body: Bytes that a request's body may have.
        cookie_secret: Signs sessions' cookies; None makes one, with which the process's sessions end.
        flower: What is under ``/flower/``; None is that nothing is.
        settings: More of Tornado's settings.
    """
    routes = [*ROUTES, *login.ROUTES, *flower_.ROUTES]
    return tornado.web.Application(
        routes,
        default_handler_class=NotFoundHandler,
        bridge=bridge,
        jobs=jobs,
        keys=keys,
        lifecycle=lifecycle or Lifecycle(),
        max_body=max_body,
        cookie_secret=cookie_secret or secrets.token_hex(32),
        flower=flower,
        routes={handler: pattern.replace("([^/]+)", "*").replace("\\", "") for pattern, handler in routes},
        openapi=make_file(encode(make_document(jobs.catalogue)), "application/json"),
        logger=logging.getLogger("web"),
        log_function=log_request,
        cross_origin_protection=True,
        websocket_ping_interval=15.0,
        websocket_ping_timeout=10.0,
        websocket_max_message_size=64 * 1024,
        **settings,
    )


def make_server(application: tornado.web.Application, *, behind_proxy: bool = False) -> HTTPServer:
    """
    Return a server for *application*, with Tornado's limits set for a service that strangers can reach.

    Args:
        application: What answers.
        behind_proxy: Whether to take the client's address and scheme from ``X-Real-IP`` and ``X-Forwarded-Proto``.
    """
    return HTTPServer(
        application,
        xheaders=behind_proxy,
        decompress_request=False,
        max_header_size=16 * 1024,
        idle_connection_timeout=75.0,
        body_timeout=30.0,
    )

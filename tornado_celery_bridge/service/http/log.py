"""The access log: one line for each request that was answered."""

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tornado_celery_bridge.service.http.handler import Handler

__all__ = ("log_request",)

_access = logging.getLogger("tornado_celery_bridge.access")


def log_request(handler: "Handler") -> None:
    """Log an answered request. Neither the query nor the body is logged: they may hold anything."""
    status = handler.get_status()
    request = handler.request
    fields = {
        "method": request.method,
        "path": request.path,
        "status": status,
        "ms": round(1000 * request.request_time(), 1),
        "ip": request.remote_ip,
        "key": handler.key_id or "-",
    }
    _access.log(
        logging.INFO if status < 500 else logging.WARNING,
        " ".join(f"{name}=%s" for name in fields),
        *fields.values(),
        extra={"trace": handler.trace, "fields": fields},
    )

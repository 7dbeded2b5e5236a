"""A mixin for Tornado handlers. This is the only module of the library that knows HTTP."""

from types import TracebackType
from typing import Any

from tornado.log import app_log
from tornado.web import RequestHandler

from tornado_celery_bridge.bridge.bridge import Bridge
from tornado_celery_bridge.exceptions import BridgeError

__all__ = ("TaskHandlerMixin",)


class TaskHandlerMixin(RequestHandler):
    """
    Gives a handler the application's bridge, and answers errors of the bridge with their ``http_status_hint``.

    Put the bridge into the application's settings: ``Application(handlers, bridge=bridge)``.

    .. versionadded:: 0.1.0
    """

    @property
    def bridge(self) -> Bridge:
        """The application's bridge."""
        bridge: Bridge = self.settings["bridge"]
        return bridge

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer with an error. A :class:`BridgeError` has its own status and ``Retry-After``."""
        error = _bridge_error(kwargs.get("exc_info"))
        super().send_error(status_code if error is None else error.http_status_hint, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write the body of the error; see :meth:`tornado.web.RequestHandler.write_error`."""
        error = _bridge_error(kwargs.get("exc_info"))
        if error is not None and error.retry_after is not None:
            self.set_header("Retry-After", str(max(1, round(error.retry_after))))
        super().write_error(status_code, **kwargs)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log a :class:`BridgeError` in one line, and any other exception as Tornado does."""
        if isinstance(value, BridgeError):
            app_log.warning("%s %s: %s", self.request.method, self.request.path, value)
        else:
            super().log_exception(typ, value, tb)


def _bridge_error(exc_info: Any) -> BridgeError | None:
    error = exc_info[1] if exc_info else None
    return error if isinstance(error, BridgeError) else None

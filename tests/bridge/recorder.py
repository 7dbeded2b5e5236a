"""A publisher that records what it would send."""

import contextvars
from typing import Any

from kombu import Producer

from tornado_celery_bridge.transports.publisher import Message, Publisher


class Recorder(Publisher):
    """A publisher that keeps what it hands to kombu's producer."""

    def record(self, target: Any, args: Any, kwargs: Any, options: dict[str, Any], *, short: bool) -> dict[str, Any]:
        recorded: list[dict[str, Any]] = []
        publish = Producer.publish

        def keep(producer: Producer, body: Any, **properties: Any) -> None:
            recorded.append({"body": body, **properties})

        Producer.publish = keep  # type: ignore[assignment,method-assign]
        try:
            message = Message(target, args, kwargs, dict(options), contextvars.copy_context())
            plan = self._plan(message)
            assert plan is not None
            self._has_templates = False  # what they make, no producer sees
            if short:
                self._send_plain(message, plan)
            else:
                self._apply_async(message)
        finally:
            Producer.publish = publish  # type: ignore[method-assign]
        [sent] = recorded
        # What was declared once on a connection is not declared again; a retry is nobody's business here.
        for name in ("declare", "retry_policy"):
            sent.pop(name, None)
        return sent

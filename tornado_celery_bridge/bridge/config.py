"""The settings of a bridge."""

from dataclasses import dataclass, fields

from tornado_celery_bridge.bridge.arguments import check_seconds

#: Seconds after which a caller may try again, if the broker or the backend did not answer in time.
RETRY_AFTER = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeConfig:
    """
    A bridge's own settings. If Celery has a setting for something, the app's is used.

    All durations are seconds from now.

    .. versionadded:: 0.1.0
    """

    #: How long a dispatch may take before it fails.
    dispatch_timeout: float = 2.0
    #: The most dispatches under way at once. One more is refused with ``DispatchSaturated``.
    max_pending_dispatches: int = 10_000
    #: After a failure of the broker, the time between two attempts to reconnect; dispatches are refused meanwhile.
    breaker_reset: float = 0.5
    #: A publisher thread that waits for the broker for longer than this is abandoned, and another one is started.
    stuck_after: float = 5.0
    #: How long `await result` and `get` wait, unless told otherwise; ``None`` waits for ever.
    result_timeout: float | None = 86_400.0
    #: The most waits under way at once. One more is refused with ``WaitersSaturated``.
    max_waiters: int = 100_000
    #: How often each awaited result is read again, in case a notification was lost.
    sweep_interval: float = 15.0
    #: How often a result backend that can't notify (a database, say) is asked, once for all waiters.
    poll_interval: float = 0.25
    #: How long `close` waits for dispatches under way.
    close_timeout: float = 5.0
    #: Whether Celery's own blocking calls (``delay``, ``result.get()``, ``app.control``) raise ``WouldBlock`` where an
    #: event loop runs, while a bridge of the app is open; ``None``: as the loop is in asyncio's debug mode.
    refuse_blocking_calls: bool | None = None
    #: How long a job stays in the ledger after its end.
    job_ttl: float = 86_400.0

    def __post_init__(self) -> None:
        """
        Check what was given.

        Raises:
            TypeError: A duration is no number.
        """
        durations = (field.name for field in fields(self) if field.name not in _NO_DURATIONS)
        check_seconds(**{name: getattr(self, name) for name in durations})


_NO_DURATIONS = ("max_pending_dispatches", "max_waiters", "refuse_blocking_calls")

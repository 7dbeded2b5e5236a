"""The lanes of a bridge: threads that make blocking calls for its event loop."""

from collections.abc import Callable, Sequence
from typing import Any

from tornado_celery_bridge.base.lane import Call, Lane, Runner
from tornado_celery_bridge.bridge.config import BridgeConfig

#: The most calls of Celery's remote control under way at once. Each may take its whole timeout.
MAX_CALLS = 1_000


def make_lane(name: str, make_runner: Callable[[], Runner], max_pending: int, config: BridgeConfig) -> Lane:
    """Return a lane with the timeouts of a bridge; it is not started."""
    return Lane(
        f"tornado_celery_bridge {name}",
        make_runner,
        max_pending=max_pending,
        stuck_after=config.stuck_after,
        reset=config.breaker_reset,
    )


def make_calling_lane(name: str, config: BridgeConfig) -> Lane:
    """Return a lane for Celery's own blocking calls. The work of each call is a callable without arguments."""
    return make_lane(name, _Caller, MAX_CALLS, config)


class _Caller:
    def ready(self) -> bool:
        return True

    def run(self, calls: Sequence[Call]) -> None:
        for call in calls:
            if call.begin():
                try:
                    call.value = call.work()
                except Exception as exc:
                    call.error = exc

    def close(self) -> Any:
        """Do nothing: the connections belong to the app, and Celery pools them."""

"""
Dispatch Celery tasks from Tornado handlers and await their results, without ever blocking the IOLoop.

The names are imported when they are first asked for: the command ``tcb`` and its supervisor are in this package, too,
and need neither Celery nor Redis.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tornado_celery_bridge._version import __version__

if TYPE_CHECKING:
    from tornado_celery_bridge.base.store import Stored
    from tornado_celery_bridge.bridge.bridge import Bridge
    from tornado_celery_bridge.bridge.config import BridgeConfig
    from tornado_celery_bridge.bridge.results import AsyncResult, GroupResult
    from tornado_celery_bridge.bridge.states import Item, Progress, TaskError, TaskState
    from tornado_celery_bridge.exceptions import (
        BlobLost,
        BridgeClosed,
        BridgeError,
        BrokerUnavailable,
        DispatchError,
        DispatchSaturated,
        DispatchUncertain,
        ResultBackendUnavailable,
        ResultError,
        ResultTimeout,
        StoreUnavailable,
        TaskFailed,
        TaskRevoked,
        TaskSwitchedOff,
        WaitersSaturated,
        WouldBlock,
    )

__all__ = (
    "AsyncResult",
    "BlobLost",
    "Bridge",
    "BridgeClosed",
    "BridgeConfig",
    "BridgeError",
    "BrokerUnavailable",
    "DispatchError",
    "DispatchSaturated",
    "DispatchUncertain",
    "GroupResult",
    "Item",
    "Progress",
    "ResultBackendUnavailable",
    "ResultError",
    "ResultTimeout",
    "StoreUnavailable",
    "Stored",
    "TaskError",
    "TaskFailed",
    "TaskRevoked",
    "TaskState",
    "TaskSwitchedOff",
    "WaitersSaturated",
    "WouldBlock",
    "__version__",
)

#: Where the names are that are not in ``exceptions``.
_MODULES = {
    "AsyncResult": "bridge.results",
    "Bridge": "bridge.bridge",
    "BridgeConfig": "bridge.config",
    "GroupResult": "bridge.results",
    "Item": "bridge.states",
    "Progress": "bridge.states",
    "Stored": "base.store",
    "TaskError": "bridge.states",
    "TaskState": "bridge.states",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'exceptions')}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

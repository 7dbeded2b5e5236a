"""Dispatch Celery tasks from Tornado handlers and await their results, without ever blocking the IOLoop."""

from tornado_celery_bridge._version import __version__
from tornado_celery_bridge.base.store import Stored
from tornado_celery_bridge.bridge.bridge import Bridge
from tornado_celery_bridge.bridge.config import BridgeConfig
from tornado_celery_bridge.bridge.results import AsyncResult, GroupResult
from tornado_celery_bridge.bridge.states import Progress, TaskError, TaskState
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
    "WaitersSaturated",
    "WouldBlock",
    "__version__",
)

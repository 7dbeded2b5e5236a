"""
The errors of the bridge: one class for each thing that a caller would do differently.

::

    BridgeError
    ├─ DispatchError               the broker did not confirm the message
    │  ├─ BrokerUnavailable        503  not sent: try again later
    │  ├─ DispatchSaturated        503  not sent: our own bound on pending dispatches
    │  └─ DispatchUncertain        503  perhaps sent: ask about ``task_id`` before trying again
    ├─ TaskSwitchedOff             503  an operator has switched the task off: the message says why
    ├─ ResultError
    │  ├─ ResultTimeout            504  also a TimeoutError; the task goes on
    │  ├─ ResultBackendUnavailable 503
    │  ├─ WaitersSaturated         503  our own bound on waiters
    │  ├─ StoreUnavailable         503  where large inputs and results are kept
    │  ├─ BlobLost                 410  a large input or result is no longer there
    │  ├─ TaskFailed               500  the task's own exception is ``__cause__``
    │  └─ TaskRevoked              410
    BridgeClosed(RuntimeError)     misuse: the bridge is not open
    WouldBlock(RuntimeError)       misuse: a blocking Celery call on the event loop

A :class:`BridgeError` has the ``task_id`` that it is about, if there is one, and an ``http_status_hint``. So a handler
can answer without a table of its own, and the bridge does not need to know HTTP.
"""

from typing import ClassVar

__all__ = (
    "BlobLost",
    "BridgeClosed",
    "BridgeError",
    "BrokerUnavailable",
    "DispatchError",
    "DispatchSaturated",
    "DispatchUncertain",
    "ResultBackendUnavailable",
    "ResultError",
    "ResultTimeout",
    "StoreUnavailable",
    "TaskFailed",
    "TaskRevoked",
    "TaskSwitchedOff",
    "WaitersSaturated",
    "WouldBlock",
)


def message_of(exc: BaseException) -> str:
    """Return an exception's message. An exception that came from elsewhere may be unable to tell its own."""
    for tell in (str, lambda exc: ", ".join(map(str, exc.args))):
        try:
            return tell(exc)
        except Exception:
            continue
    return "(its message can't be shown)"


class BridgeError(Exception):
    """
    The base class of all errors that the bridge raises when it is used correctly.

    .. versionadded:: 0.1.0
    """

    #: The HTTP status that tells a client the same.
    http_status_hint: ClassVar[int] = 500

    def __init__(self, message: str, *, task_id: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        #: The id of the task that the error is about.
        self.task_id = task_id
        #: Seconds after which another try may succeed.
        self.retry_after = retry_after


class DispatchError(BridgeError):
    """
    The broker did not confirm the message. Catch this class to treat all its subclasses alike.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 503


class BrokerUnavailable(DispatchError):
    """
    The message was not sent and never will be: dispatch again after ``retry_after`` seconds.

    .. versionadded:: 0.1.0
    """


class DispatchSaturated(DispatchError):
    """
    The message was not sent, because ``BridgeConfig.max_pending_dispatches`` dispatches are under way.

    Send less, or dispatch again a little later.

    .. versionadded:: 0.1.0
    """


class DispatchUncertain(DispatchError):
    """
    The connection broke, or the deadline passed, while the message was on its way.

    The task may run. Look for ``task_id`` (or make the task idempotent) before you dispatch again.

    .. versionadded:: 0.1.0
    """


class TaskSwitchedOff(BridgeError):
    """
    The job was not accepted, because an operator has switched its task off: the message says why. Try again once the
    task is switched on, which nobody can say when.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 503


class ResultError(BridgeError):
    """
    The task's value could not be had. Catch this class to treat all its subclasses alike.

    .. versionadded:: 0.1.0
    """


class ResultTimeout(ResultError, TimeoutError):
    """
    The result was not ready in time. The task goes on: get the same result again to wait longer.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 504


class ResultBackendUnavailable(ResultError):
    """
    The result backend could not be read. The task may have ended: get the result again later.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 503


class WaitersSaturated(ResultError):
    """
    ``BridgeConfig.max_waiters`` waits are under way. The task goes on: get its result a little later.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 503


class StoreUnavailable(ResultError):
    """
    The store of large inputs and results does not work now. Try again later.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 503


class BlobLost(ResultError):
    """
    A large input or result is no longer in the store: its job has expired, or somebody removed it.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 410


class TaskFailed(ResultError):
    """
    The task, or one that it waited for, raised an exception, which is ``__cause__``.

    The exception is wrapped, so that ``except ValueError`` in a handler never catches a ``ValueError`` of a task.

    .. versionadded:: 0.1.0
    """

    def __init__(self, message: str, *, task_id: str, traceback: str | None = None) -> None:
        super().__init__(message, task_id=task_id)
        #: The worker's traceback as text, if the backend has it.
        self.traceback = traceback


class TaskRevoked(ResultError):
    """
    The task was revoked, or expired, before it ended. There will be no value.

    .. versionadded:: 0.1.0
    """

    http_status_hint = 410


class BridgeClosed(RuntimeError):
    """
    The bridge is not open: start it, or stop using it after ``close``.

    .. versionadded:: 0.1.0
    """


class WouldBlock(RuntimeError):
    """
    One of Celery's own calls that wait for the network was made on the event loop.

    The message names the bridge's method that does the same without blocking.

    .. versionadded:: 0.1.0
    """

"""
Refuses Celery's own blocking calls where an event loop runs: a forgotten ``add.delay().get()`` in a handler.

Such a call holds up all requests, for a moment while all is well and for seconds when it is not, and says nothing. The
guard is put on the app's own object, and on the backends that the app makes, while a bridge is open; in threads without
a running loop they do as before. What Celery documents for callers is guarded: publishing, results, remote control.
"""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from celery import Celery

from tornado_celery_bridge.exceptions import WouldBlock

#: Methods of a result backend that wait for the network, and what to write in place of the call that came to it.
RESULTS = {
    "wait_for_pending": ("result.get()", "await bridge.get(result)"),
    "iter_native": ("GroupResult.get()", "await bridge.get(result)"),
    "get_task_meta": ("result.state, ready() or result.result", "await bridge.state(result)"),
    "forget": ("result.forget()", "await bridge.forget(result)"),
    "apply_chord": ("chord(…)()", "await bridge.dispatch(chord(…))"),
    "restore_group": ("GroupResult.restore()", "await asyncio.to_thread(GroupResult.restore, …)"),
    "save_group": ("GroupResult.save()", "await asyncio.to_thread(result.save)"),
    "delete_group": ("GroupResult.delete()", "await asyncio.to_thread(result.delete)"),
    "store_result": ("backend.store_result()", "await asyncio.to_thread(…)"),
}
#: The same for remote control.
CONTROL = {
    "broadcast": ("app.control", "await bridge.revoke(result), or await asyncio.to_thread(app.control.…)"),
    "purge": ("app.control.purge()", "await bridge.purge(queue)"),
}

_ATTRIBUTE = "_tornado_celery_bridge_guard"


class Guard:
    """
    Guards one app, for as many bridges as ask for it.

    Use :meth:`of` outside of the loop: it reads the app's settings.
    """

    def __init__(self, app: Celery) -> None:
        self._app: Any = app
        self._bridges = 0
        self._guarded: list[tuple[Any, str]] = []

    @classmethod
    def of(cls, app: Any) -> "Guard":
        """Return *app*'s guard."""
        guard: Guard = app.__dict__.setdefault(_ATTRIBUTE, cls(app))
        return guard

    def begin(self) -> None:
        """Guard the app for one more bridge, in the bridge's loop."""
        self._bridges += 1
        if self._bridges > 1:
            return
        app = self._app
        self._put(app, "send_task", self._publishing(app.send_task))
        self._put(app, "_get_backend", self._making(app._get_backend))
        if app._backend is not None:  # of this thread, made before
            self._guard_backend(app._backend)
        for name, said in CONTROL.items():
            self._put(app.control, name, _refusing(getattr(app.control, name), *said))

    def end(self) -> None:
        """Guard it for one less."""
        self._bridges -= 1
        while not self._bridges and self._guarded:
            owner, name = self._guarded.pop()
            owner.__dict__.pop(name, None)

    def _put(self, owner: Any, name: str, call: Callable[..., Any]) -> None:
        owner.__dict__[name] = call
        self._guarded.append((owner, name))

    def _guard_backend(self, backend: Any) -> None:
        for name, said in RESULTS.items():
            if hasattr(backend, name):
                self._put(backend, name, _refusing(getattr(backend, name), *said))

    def _making(self, make: Callable[[], Any]) -> Callable[[], Any]:
        def make_guarded() -> Any:
            made = make()
            if _is_on_loop():  # every thread has its own, and only a loop's has to be guarded
                self._guard_backend(made)
            return made

        return make_guarded

    def _publishing(self, send: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(send)
        def send_guarded(name: str, *args: Any, **kwargs: Any) -> Any:
            if _is_on_loop():
                short = str(name).rpartition(".")[2]
                raise WouldBlock(
                    f"publishing {name} would block the event loop: write `await bridge.dispatch({short}.s(…))`"
                )
            return send(name, *args, **kwargs)

        return send_guarded


def _refusing(call: Callable[..., Any], what: str, instead: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def refuse(*args: Any, **kwargs: Any) -> Any:
        if _is_on_loop():
            raise WouldBlock(f"{what} would block the event loop: write `{instead}`")
        return call(*args, **kwargs)

    return refuse


def _is_on_loop() -> bool:
    return asyncio._get_running_loop() is not None

"""
Learns of results: the part that is the same for all result backends.

A listener knows which tasks somebody waits for, and calls the watchers of a task with each of its states. It lives on
the event loop, and no watcher costs it a thread or a connection.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

from tornado_celery_bridge.bridge.states import News
from tornado_celery_bridge.exceptions import ResultError, message_of

log = logging.getLogger(__name__)

#: Called with each state of a task, and with an error where there is one.
Watcher = Callable[[str, News], None]


class Listener(ABC):
    """Tells watchers of states. A watcher may hear of a state twice, and may miss one that another soon replaced."""

    def __init__(self) -> None:
        self._watchers: dict[str, list[Watcher]] = {}

    @property
    @abstractmethod
    def connected(self) -> bool:
        """Whether the backend answered when it was last asked."""

    @abstractmethod
    def start(self) -> None:
        """Begin to listen. It connects, and connects again, by itself."""

    @abstractmethod
    async def close(self) -> None:
        """End, and close every connection."""

    @abstractmethod
    async def read(self, task_ids: Sequence[str]) -> Mapping[str, News]:
        """
        Return what the backend has of *task_ids* now, without unknown ids; an error where it can't be read.

        Raises:
            ResultBackendUnavailable: The backend did not answer.
        """

    @abstractmethod
    def _watched(self, task_id: str) -> None:
        """Learn of *task_id* from now on, and of what the backend already has."""

    def _unwatched(self, task_id: str) -> None:
        """Learn of *task_id* no more: nobody watches it."""

    def watch(self, task_ids: Iterable[str], watcher: Watcher) -> None:
        """Tell *watcher* of what the backend has of *task_ids*, and of what comes."""
        for task_id in task_ids:
            self._watchers.setdefault(task_id, []).append(watcher)
            self._watched(task_id)

    def unwatch(self, task_ids: Iterable[str], watcher: Watcher) -> None:
        """Stop reporting to *watcher*."""
        for task_id in task_ids:
            watchers = self._watchers[task_id]
            watchers.remove(watcher)
            if not watchers:
                del self._watchers[task_id]
                self._unwatched(task_id)

    @property
    def watched(self) -> Sequence[str]:
        """The ids of the tasks that are watched."""
        return tuple(self._watchers)

    def tell(self, task_id: str, news: News) -> None:
        """Call the watchers of a task."""
        for watcher in tuple(self._watchers.get(task_id, ())):
            try:
                watcher(task_id, news)
            except Exception as exc:  # of values that somebody else's code has stored: it concerns who waits for them
                self._tell_error(watcher, task_id, exc)

    def _tell_error(self, watcher: Watcher, task_id: str, exc: Exception) -> None:
        try:
            watcher(task_id, ResultError(f"what is stored of task {task_id} can't be read: {message_of(exc)}"))
        except Exception:
            log.exception("nobody can be told of task %s", task_id)

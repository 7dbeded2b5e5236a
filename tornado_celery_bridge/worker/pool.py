"""
The pools, with what Celery's lack: what a task raises ends its attempt alone; a process that is to end does end.

In each pool, what Celery lets out of a task's code and its hooks fails the attempt. Celery's pools without processes
tell nobody of it: in ``threads`` the request would stay active for ever, in ``solo`` the worker would end.

Theory of operation of the prefork pool. A process of it runs one task at a time. It is *told to end* by TERM, which
raises ``SystemExit`` in the task's code, so that the code can clean up. Code that goes on is *killed* after
``PATIENCE`` seconds. Celery sends TERM alone, and says at once that the task has ended. Here:

- the processes that a task has started end with its process;
- a process that was told to end takes no other task, whatever its code makes of that. Celery's goes on, half ended: the
  next exception in it counts as a lost worker;
- a hard time limit is told when the process has ended, and holds if there is a soft one that comes later;
- a worker that stops waits for what its processes were given, also if they have not said yet that they have it.
  Celery's forgets that: the process then waits 30 s for somebody to hear of its result, and the task runs again.

Brokers without an event loop (Kafka, ActiveMQ) have billiard's own pool. Its processes share one pipe for tasks and one
for results, each with a lock. A process that is killed with a lock in its hands would keep it for ever; so the locks
are such as the kernel releases.
"""

import abc
import contextlib
import fcntl
import inspect
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from typing import Any

import billiard.pool
from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]
from billiard.einfo import ExceptionInfo
from celery.concurrency import asynpool, prefork
from celery.concurrency.base import BasePool
from celery.worker import state as worker_state
from kombu.asynchronous import get_event_loop

from tornado_celery_bridge.base.versions import hearing_the_dead, wake_for_threads
from tornado_celery_bridge.worker.attempt import TellingOfEscapes
from tornado_celery_bridge.worker.processes import descendants, kill

_billiard: Any = billiard.pool  # its types have next to nothing of it
_asynpool: Any = asynpool
_asynpool._select = hearing_the_dead(_asynpool._select)

#: Seconds that a task's code has from TERM to KILL.
PATIENCE = 5.0
#: Seconds that it has for that at its hard time limit; billiard's.
PATIENCE_AT_LIMIT = 0.1
#: Seconds at most from a process's last word to its end.
MOMENT = 1.0


class EndsTasks(abc.ABC):
    """Mixed into a pool that can end a task from outside, and tells of it once the task has ended."""

    @staticmethod
    def can_end(task: Any) -> bool:
        """Return whether a task can be ended."""
        return True

    def tell_cancelled(self, pid: int) -> None:
        """Tell the code of a task, once, that its job was cancelled. Any thread may call this."""

    def look_after(self) -> bool:
        """See that limits hold, while the worker's event loop stands still; return whether a task runs."""
        return bool(worker_state.active_requests)

    @abc.abstractmethod
    def end(self, pid: int, signum: int, goes_on: Callable[[], bool]) -> Mapping[int, str]:
        """
        Tell a task to end, and kill it if it goes on for ``PATIENCE`` seconds. Any thread may call this.

        Args:
            pid: The process that runs it, or what the pool has in the place of one.
            signum: The signal that tells it.
            goes_on: Whether the task still runs; asked in another thread.

        Returns:
            The processes that it had started, as :func:`descendants` has them.
        """


def can_end_tasks(pool: type[BasePool], task: Any = None) -> bool:
    """Return whether a class of pools can end *task*, or tasks: at a time limit, or as its job is cancelled."""
    if issubclass(pool, EndsTasks):
        return task is None or pool.can_end(task)
    return issubclass(pool, prefork.TaskPool) or pool.terminate_job is not BasePool.terminate_job


def _run(target: Callable[..., Any], *args: Any) -> Any:
    """Run one message's task, where the pool runs it."""
    with TellingOfEscapes():
        return target(*args)


class _Here:
    """Mixed into a pool that runs tasks in the worker's own process: what is raised is told, as prefork tells it."""

    def apply_async(self, target: Any, args: Any = (), *, callback: Any, error_callback: Any, **options: Any) -> Any:
        """Have a task run."""

        def run(*args: Any) -> Any:
            try:
                return _run(target, *args)
            except Exception:
                return ExceptionInfo()

        def tell(outcome: Any) -> None:
            (error_callback if isinstance(outcome, ExceptionInfo) else callback)(outcome)

        return super().apply_async(run, args, callback=tell, **options)  # type: ignore[misc]

    def register_with_event_loop(self, hub: Any) -> None:
        """Have the worker's event loop hear at once of a task that has ended in a thread."""
        super().register_with_event_loop(hub)  # type: ignore[misc]
        wake_for_threads(hub)

    def on_stop(self) -> None:
        """End; at once if the worker is to, whatever runs in threads."""
        if worker_state.should_terminate and (executor := getattr(self, "executor", None)) is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        else:
            super().on_stop()  # type: ignore[misc]


def telling(pool: type[BasePool]) -> type[BasePool]:
    """Return a class of pools for Celery's *pool*, whose tasks' exceptions are told."""
    if pool is prefork.TaskPool:
        return TaskPool
    if issubclass(pool, (prefork.TaskPool, EndsTasks, _Here)):
        return pool
    return type(pool.__name__, (_Here, pool), {"__module__": pool.__module__})


class TaskPool(EndsTasks, prefork.TaskPool):
    """Celery's prefork pool, with the pools of processes below."""

    _pool: Any

    def apply_async(self, target: Any, args: Any = (), kwargs: Any = None, **options: Any) -> Any:
        """Have a task run."""
        return super().apply_async(_run, (target, *args), kwargs, **options)

    def end(self, pid: int, signum: int, goes_on: Callable[[], bool]) -> Mapping[int, str]:
        """Tell a process to end, and kill it if it goes on."""
        pool, started = self._pool, descendants(pid)
        pool.terminate_job(pid, signum)
        _later(lambda: pool.kill(pid) if goes_on() else None)
        return started

    def look_after(self) -> bool:
        """Return whether a task runs, and see that limits hold."""
        pool = self._pool
        return pool.look_after() if isinstance(pool, Processes) else super().look_after()

    def on_terminate(self) -> None:
        """End all processes, and kill those that go on."""
        pool = self._pool
        if pool is not None:
            pids = [process.pid for process in pool._pool]
            started = [descendants(pid) for pid in pids]
            timer = _later(lambda: [pool.kill(pid) for pid in pids])
            super().on_terminate()
            timer.cancel()
            for each in started:
                kill(each)


def _later(call: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(PATIENCE, call)
    timer.daemon = True
    timer.start()
    return timer


# In the main process.


class _Limits(_billiard.TimeoutHandler):  # type: ignore[misc]
    """What ends processes at hard time limits: a limit is told once the process has ended."""

    pool: "_Pool"

    def on_hard_timeout(self, job: Any) -> None:
        process, _ = self._process_by_pid(job._worker_pid)
        if process is not None and not job.ready():
            self._trywaitkill(process)
        super().on_hard_timeout(job)

    def _trywaitkill(self, process: Any) -> None:
        if process._popen.poll() is None:
            started = descendants(process.pid)
            with contextlib.suppress(OSError):
                process.terminate()
            process._popen.wait(timeout=PATIENCE_AT_LIMIT)
            self.pool.kill(process.pid)
            kill(started)


class _Pool(_billiard.Pool):  # type: ignore[misc]
    """What both pools of processes have."""

    TimeoutHandler = _Limits

    def _start_timeout_handler(self) -> None:
        self._timeout_handler.pool = self
        super()._start_timeout_handler()

    def kill(self, pid: int) -> None:
        """Kill a process, with what its task has started, unless it has ended."""
        process, _ = self._process_by_pid(pid)
        if process is not None and process._popen.poll() is None:
            process._controlled_termination = True
            started = descendants(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            kill(started)


class _Words(asynpool.ResultHandler):
    """
    What reads the processes' words, also while the pool ends.

    There Celery waits for the rest of a message, and a process that was killed as it wrote never sends it: the worker
    would not end.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: By descriptor, what reads a message that has not come as a whole.
        self._halves: dict[int, Any] = {}

    _recv_message: Any

    def _flush_outqueue(self, fd: int, remove: Any, process_index: Any, on_state_change: Any) -> Any:
        if fd not in process_index:
            return remove(fd)
        hub: Any = get_event_loop()
        begun, _ = hub.readers.get(fd, (None, ()))
        half = self._halves.pop(fd, begun if inspect.isgenerator(begun) else None)
        half = half or self._recv_message(lambda *_: None, fd, on_state_change)
        try:
            next(half)
        except StopIteration:
            return None
        except (OSError, EOFError):
            return remove(fd)
        self._halves[fd] = half
        with contextlib.suppress(OSError):  # closed: the process has ended
            process_index[fd].outq._reader.poll(0.1)
        return None


class Processes(_Pool, asynpool.AsynPool):  # type: ignore[misc]
    """For a worker with an event loop."""

    ResultHandler = _Words
    on_timeout_set: Any

    def _event_process_exit(self, hub: Any, process: Any) -> None:
        # If two processes end at once, the first event starts others in the place of both. The second event is then
        # taken for one of a new process whose descriptor has the same number. It lives, and stays watched; below
        # Celery 5.7, a pool that watches it no more would end its worker when the broker is lost.
        if not wait([process._sentinel_poll], 0):
            return
        # What tells of it is that the process has closed its files, a moment before it has ended. Looked for too early,
        # its end would be seen by the next look, up to 5 s later.
        end = time.monotonic() + MOMENT
        while process._popen.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        super()._event_process_exit(hub, process)

    def _create_timelimit_handlers(self, hub: Any) -> None:
        super()._create_timelimit_handlers(hub)
        set_both = self.on_timeout_set

        def set_limits(result: Any, soft: float | None, hard: float | None) -> None:
            # Celery sets the hard one once the soft one is reached.
            soft = None if soft and hard and soft >= hard else soft
            set_both(result, soft, hard)
            begun = time.monotonic()
            result.ends = [begun + limit if limit else math.inf for limit in (soft, hard)]

        self.on_timeout_set = set_limits

    def look_after(self) -> bool:
        """Return whether a task runs, or may; and end those whose limits are over, in place of the event loop."""
        given = [job for job in list(self._cache.values()) if job._write_to is not None and not job.ready()]
        running = [job for job in given if not self._has_ended(job)]
        for job in running:
            soft, hard = getattr(job, "ends", (math.inf, math.inf))
            if time.monotonic() >= hard:
                self._on_hard_timeout(job._job)
            elif time.monotonic() >= soft:
                job.ends[0] = math.inf
                self.on_soft_timeout(job)
        return bool(running)

    def _has_ended(self, job: Any) -> bool:
        """Return whether what runs a job has ended it, or itself: its next word, which nobody has read, says that."""
        if not job._accepted:
            return False
        process, _ = self._process_by_pid(job._worker_pid)
        try:
            return process is None or process._popen.poll() is not None or bool(process.outq._reader.poll(0))
        except OSError:  # closed
            return True

    def on_job_process_down(self, job: Any, pid_gone: Any) -> None:
        """Take a job back from a process that has ended; another one gets it, unless it is known to have begun."""
        # A process that the pool has not cleared away yet died while it cleared another one away; its turn is next.
        # Its words are not read, so it may have begun the job. Celery's pool begins the job again, and tells nobody.
        if (job._write_to or job._scheduled_for) not in self._pool:
            super().on_job_process_down(job, pid_gone)

    def flush(self) -> None:
        """Forget what no process was given."""
        given = [job for job in self._cache.values() if job._write_to is not None and not job._accepted]
        super().flush()
        # Celery's forgets these, too; but they run, and who runs them waits for their result to be read.
        self._cache.update({job._job: job for job in given if job._write_to._is_alive()})


class SharedPipes(_Pool):
    """For a worker without an event loop."""

    def _setup_queues(self) -> None:
        super()._setup_queues()
        self._inqueue._rlock, self._outqueue._wlock = _Lock(), _Lock()

    def on_job_process_lost(self, job: Any, pid: int, exitcode: int) -> None:
        # What it has said may be in the pipe still. Celery waits for 10 s.
        job._lost_worker_timeout = min(job._lost_worker_timeout, MOMENT)
        super().on_job_process_lost(job, pid, exitcode)

    def kill(self, pid: int) -> None:
        """Kill a process; not while it writes, of which half would be left in the pipe."""
        lock = self._outqueue._wlock
        is_mine = lock.acquire(timeout=1.0)  # a process that is stopped keeps it
        try:
            super().kill(pid)
        finally:
            if is_mine:
                lock.release()


class _Lock:
    """A lock between processes that the kernel releases when its holder dies, by POSIX (fcntl)."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the lock is there

    def acquire(self, timeout: float | None = None) -> bool:
        """Take it; return whether that was possible within *timeout* seconds (None: wait for ever)."""
        if timeout is None:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            return True
        end = time.monotonic() + timeout
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    return False
                time.sleep(0.01)
            else:
                return True

    def release(self) -> None:
        """Let go of it."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *args: object) -> None:
        self.release()


# In a process of the pool.


class _EndsIfTold:
    """Mixed into what a process of the pool runs: after TERM it takes no other task."""

    wait_for_job: Any

    def _make_child_methods(self, *args: Any, **kwargs: Any) -> None:
        super()._make_child_methods(*args, **kwargs)  # type: ignore[misc]
        wait_for_job = self.wait_for_job

        def wait_unless_told() -> Any:
            if terminate_handler_fired():
                raise SystemExit(_billiard.EX_RECYCLE)
            return wait_for_job()

        self.wait_for_job = wait_unless_told


class _AsyncWorker(_EndsIfTold, asynpool.Worker):
    pass


class _Worker(_EndsIfTold, _billiard.Worker):  # type: ignore[misc]
    pass


Processes.Worker, SharedPipes.Worker = _AsyncWorker, _Worker
TaskPool.Pool, TaskPool.BlockingPool = Processes, SharedPipes

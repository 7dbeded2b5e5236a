"""An app whose tasks end in every way that a task can; for ``celery -A`` with ``SAMPLE_URL`` set."""

import asyncio
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from billiard.process import current_process
from celery import Celery, Task, chain, chord
from celery.exceptions import Ignore, Reject, Retry, WorkerShutdown
from celery.utils.log import get_task_logger
from pydantic import BaseModel, Field

from tests.worker.async_tasks import add_async_tasks
from tests.worker.generator_tasks import add_generators
from tests.worker.marks import mark
from tests.worker.raising import FORMS
from tornado_celery_bridge.checkpoints import checkpoint, resumable
from tornado_celery_bridge.worker import attempt, install, liveness, pool


class Unusual(BaseException):
    """What no library raises."""


class Inner(BaseModel):
    number: int = Field(alias="theNumber")


class Outer(BaseModel):
    inner: Inner = Field(alias="theInner")
    inners: list[Inner] = Field(alias="theInners")


class Silent:
    def __str__(self) -> NoReturn:
        raise RuntimeError("no")

    __repr__ = __str__


class Early(Task):  # type: ignore[type-arg]  # which Celery 5.7 alone can be told at run time
    def before_start(self, task_id: str, args: Any, kwargs: Any) -> NoReturn:
        mark(args[0])
        raise Ignore


class Lingering(Task):  # type: ignore[type-arg]
    """Asks for what takes its place, and ends once that has begun."""

    def on_replace(self, sig: Any) -> Any:
        args: Any = self.request.args
        path = Path(args[0])
        begun = path.stat().st_size
        try:
            return super().on_replace(sig)
        except Ignore:
            while path.stat().st_size == begun:
                time.sleep(0.01)
            raise


class Escaping(Task):  # type: ignore[type-arg]
    """Raises, in its code or in a hook, what its second and third arguments say."""

    max_retries = 1

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        mark(args[0])
        raise_there("before_start", *args)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        raise_there("on_success", *args)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        raise_there("on_failure", *args)

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        raise_there("on_retry", *args)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        raise_there("after_return", *args)


#: What a task may raise that would end its process.
ESCAPES: dict[str, Callable[[], BaseException]] = {
    "MemoryError": lambda: MemoryError("mine"),
    "SystemExit": lambda: SystemExit("mine"),
    "KeyboardInterrupt": lambda: KeyboardInterrupt("mine"),
    "WorkerShutdown": lambda: WorkerShutdown("mine"),
    "Unusual": lambda: Unusual("mine"),
}


def raise_there(here: str, path: str, where: str, what: str) -> None:
    if here == where:
        raise ESCAPES[what]()


def persists(seconds: float, tell: Callable[[], object] = lambda: None) -> None:
    """Go on for some seconds, whatever is raised here."""
    end = time.time() + seconds
    while time.time() < end:
        try:
            tell()
            time.sleep(0.02)
        except BaseException:
            pass


def returns_once_ended() -> str:
    try:
        time.sleep(30)
    except BaseException:
        return "swallowed"
    return "done"


def say_late(path: Path) -> None:
    """Have the pool's processes say only a second after they have a task that they do; they note it in a file."""
    mixin: Any = pool._EndsIfTold
    make = mixin._make_child_methods

    def make_late(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        wait_for_job = self.wait_for_job

        def wait() -> Any:
            if found := wait_for_job():
                path.touch()
                time.sleep(1)
            return found

        self.wait_for_job = wait

    mixin._make_child_methods = make_late


def make_app(url: str, *, serializer: str = "json") -> Celery:
    broker, backend = (os.environ.get(name, url) for name in ("SAMPLE_BROKER", "SAMPLE_BACKEND"))
    app = Celery("ends", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(
        job_ledger_url=url,
        task_default_queue="ends" if serializer == "json" else f"ends-{serializer}",
        task_serializer=serializer,
        result_serializer=serializer,
        accept_content=["json", serializer],
        task_track_started=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        result_extended=True,
        task_soft_time_limit=570,
        worker_soft_shutdown_timeout=float(os.environ.get("SAMPLE_SOFT_SHUTDOWN", "0")),
    )
    install(app)
    pool.PATIENCE, liveness.PATIENCE, attempt.MOST_BEGUN = 1.0, 2.0, 3  # tests are not to wait for longer

    @app.task(shared=False, bind=True, name="e.returns")
    def returns(self: Any, path: str) -> str:
        mark(path)
        return "done"

    @app.task(shared=False, bind=True, name="e.returns_silently", ignore_result=True)
    def returns_silently(self: Any, path: str) -> str:
        mark(path)
        return "done"

    @app.task(shared=False, bind=True, name="e.raises")
    def raises(self: Any, path: str) -> NoReturn:
        mark(path)
        raise ValueError("mine")

    @app.task(shared=False, bind=True, name="e.raises_form", max_retries=1)
    def raises_form(self: Any, form: str, retries: bool) -> NoReturn:
        try:
            FORMS[form]()
        except Exception as exc:
            if retries:
                raise self.retry(exc=exc, countdown=60) from exc
            raise
        raise AssertionError

    @app.task(shared=False, bind=True, name="e.stores")
    def stores(self: Any, meta: Any) -> NoReturn:
        self.update_state(state="FAILURE", meta=meta)
        raise Ignore

    @app.task(shared=False, bind=True, name="e.logs")
    def logs(self: Any) -> str:
        logger = get_task_logger("e")
        logger.warning("%d", "x")
        logger.warning("%s %s", Silent(), 1)
        logger.warning(Silent())
        logger.warning("fine: %d", 1)
        return "done"

    @app.task(shared=False, bind=True, name="e.downloads")
    def downloads(self: Any, path: str) -> str:
        self.update_state(state="DOWNLOADING", meta={"pct": 10})
        while not Path(path).exists():
            time.sleep(0.02)
        return "done"

    @app.task(shared=False, name="e.gives_model", pydantic=True)
    def gives_model(number: int) -> Outer:
        return Outer(theInner=Inner(theNumber=number), theInners=[Inner(theNumber=number + 1)])

    @app.task(shared=False, name="e.takes_model", pydantic=True)
    def takes_model(model: Outer, add: int = 0) -> Outer:
        return Outer(theInner=Inner(theNumber=model.inner.number + add), theInners=model.inners)

    @app.task(shared=False, name="e.gives_odd_values")
    def gives_odd_values() -> Any:
        return {(1, "a"): {2, 1}, "itself": Path("x")}

    @app.task(shared=False, bind=True, name="e.ignores")
    def ignores(self: Any, path: str) -> NoReturn:
        mark(path)
        raise Ignore

    @app.task(shared=False, bind=True, name="e.ignores_early", base=Early)
    def ignores_early(self: Any, path: str) -> None:
        """Never begins: its ``before_start`` raises."""

    @app.task(shared=False, bind=True, name="e.stores_failure")
    def stores_failure(self: Any, path: str) -> NoReturn:
        mark(path)
        meta = {"exc_type": "ValueError", "exc_message": ["mine"], "exc_module": "builtins"}
        self.update_state(state="FAILURE", meta=meta)
        raise Ignore

    @app.task(shared=False, bind=True, name="e.stores_retry")
    def stores_retry(self: Any, path: str) -> NoReturn:
        mark(path)
        self.update_state(state="RETRY", meta={"a": 1})
        raise Ignore

    @app.task(shared=False, bind=True, name="e.rejects")
    def rejects(self: Any, path: str) -> NoReturn:
        mark(path)
        raise Reject("mine", requeue=False)

    @app.task(shared=False, bind=True, name="e.requeues")
    def requeues(self: Any, path: str) -> str:
        if mark(path) < 5:
            raise Reject("not yet", requeue=True)
        return "done"

    @app.task(shared=False, bind=True, name="e.retries", max_retries=None)
    def retries(self: Any, path: str) -> str:
        if mark(path) < 5:
            raise self.retry(countdown=0, exc=ValueError("not yet"))
        return "done"

    @app.task(shared=False, bind=True, name="e.moves")
    def moves(self: Any, queue: str, options: dict[str, Any]) -> NoReturn:
        raise self.retry(countdown=60, queue=queue, **options)

    @app.task(shared=False, bind=True, name="e.tells_request")
    def tells_request(self: Any, how: str) -> Any:
        """Return the id of the HTTP request, once something else has taken the task's place."""
        if how == "replace":
            return self.replace(tells_request.s("tell"))
        if how == "replace by a chain":
            return self.replace(chain(naps.si(0, 1), tells_request.si("tell")))
        if how == "replace by a chord":
            return self.replace(chord([naps.si(0, 1)], tells_request.si("tell")))
        if how == "retry" and not self.request.retries:
            raise self.retry(countdown=0, headers={"x": "y"})
        return self.request.headers["request_id"]

    @app.task(shared=False, bind=True, name="e.raises_retry")
    def raises_retry(self: Any, path: str) -> str:
        if mark(path) < 5:
            raise Retry("not yet")
        return "done"

    @app.task(shared=False, bind=True, name="e.replaces")
    def replaces(self: Any, path: str) -> Any:
        mark(path)
        return self.replace(total.s([1, 2]))

    @app.task(shared=False, bind=True, name="e.replaces_often", base=Lingering)
    def replaces_often(self: Any, path: str, times: int) -> Any:
        mark(path)
        return self.replace(replaces_often.s(path, times - 1)) if times else "done"

    @app.task(shared=False, bind=True, name="e.replaces_by_chord")
    def replaces_by_chord(self: Any, path: str, seconds: float = 0.0) -> Any:
        mark(path)
        return self.replace(chord([naps.s(seconds, 1), naps.s(seconds, 2)], total.s()))

    @app.task(shared=False, bind=True, name="e.naps")
    def naps(self: Any, seconds: float, value: int) -> int:
        time.sleep(seconds)
        return value

    @app.task(shared=False, bind=True, name="e.total")
    def total(self: Any, numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(shared=False, bind=True, name="e.exits")
    def exits(self: Any, path: str) -> NoReturn:
        mark(path)
        sys.exit(3)

    @app.task(shared=False, bind=True, name="e.interrupts")
    def interrupts(self: Any, path: str) -> NoReturn:
        mark(path)
        raise KeyboardInterrupt

    @app.task(shared=False, bind=True, name="e.shuts_down")
    def shuts_down(self: Any, path: str) -> NoReturn:
        mark(path)
        raise WorkerShutdown(0)

    @app.task(shared=False, bind=True, name="e.cancels")
    def cancels(self: Any, path: str) -> NoReturn:
        mark(path)
        raise asyncio.CancelledError

    @app.task(shared=False, bind=True, name="e.raises_unusual")
    def raises_unusual(self: Any, path: str) -> NoReturn:
        mark(path)
        raise Unusual("mine")

    @app.task(shared=False, bind=True, name="e.runs_out_of_memory")
    def runs_out_of_memory(self: Any, path: str) -> NoReturn:
        mark(path)
        raise MemoryError("mine")

    def escapes(self: Any, path: str, where: str, what: str) -> str:
        raise_there("code", path, where, what)
        if where == "on_failure":
            raise ValueError("mine")
        if where == "on_retry" and not self.request.retries:
            raise self.retry(countdown=0)
        if where == "retry":
            raise self.retry(exc=ESCAPES[what](), countdown=0)
        return "done"

    app.task(shared=False, bind=True, name="e.escapes", base=Escaping)(escapes)
    app.task(shared=False, bind=True, name="e.escapes_silently", base=Escaping, ignore_result=True)(escapes)

    @app.task(shared=False, bind=True, name="e.gathers")
    def gathers(self: Any, values: list[str]) -> list[str]:
        return values

    @app.task(shared=False, bind=True, name="e.exceeds_soft_limit", soft_time_limit=1)
    def exceeds_soft_limit(self: Any, path: str) -> None:
        mark(path)
        time.sleep(30)

    @app.task(shared=False, bind=True, name="e.exceeds_limit", time_limit=1)
    def exceeds_limit(self: Any, path: str) -> None:
        mark(path)
        time.sleep(30)

    @app.task(shared=False, bind=True, name="e.exceeds_limit_and_returns", time_limit=1)
    def exceeds_limit_and_returns(self: Any, path: str) -> str:
        mark(path)
        return returns_once_ended()

    @app.task(shared=False, bind=True, name="e.terminated")
    def terminated(self: Any, path: str) -> None:
        mark(path)
        time.sleep(30)

    @app.task(shared=False, bind=True, name="e.terminated_and_returns")
    def terminated_and_returns(self: Any, path: str) -> str:
        mark(path)
        Path(f"{path}.pid").write_text(str(os.getpid()))
        return returns_once_ended()

    @app.task(shared=False, bind=True, name="e.terminated_and_raises")
    def terminated_and_raises(self: Any, path: str) -> None:
        mark(path)
        try:
            time.sleep(30)
        finally:
            raise ValueError("mine")

    @app.task(shared=False, bind=True, name="e.terminated_and_goes_on")
    def terminated_and_goes_on(self: Any, path: str) -> None:
        mark(path)
        persists(30)

    @app.task(shared=False, bind=True, name="e.alone", max_concurrency=1)
    def alone(self: Any, path: str, seconds: float) -> None:
        """Note all the time that it runs."""
        with Path(path).open("a", buffering=1) as file:  # a line at a time: it may be killed as it writes
            persists(seconds, lambda: file.write(f"{time.time()}\n"))

    @app.task(shared=False, bind=True, name="e.has_children")
    def has_children(self: Any, path: str) -> None:
        child = subprocess.Popen(["sleep", "600"])
        Path(path).write_text(f"{child.pid} {os.getpid()}\n")
        time.sleep(60)

    @app.task(shared=False, bind=True, name="e.process", time_limit=60)
    def process(self: Any) -> int:
        return os.getpid()

    @app.task(shared=False, bind=True, name="e.dies")
    def dies(self: Any, path: str) -> None:
        mark(path)
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(shared=False, bind=True, name="e.dies_as_it_speaks")
    def dies_as_it_speaks(self: Any, path: str) -> None:
        """Once told to end, its process says half of a word to the worker's main process."""
        mark(path)
        try:
            time.sleep(60)
        finally:
            worker: Any = current_process()
            os.write(worker._target.outq._writer.fileno(), struct.pack("!i", 1_000) + b"half")

    @app.task(shared=False, bind=True, name="e.requeues_often")
    def requeues_often(self: Any, path: str) -> str:
        if mark(path) < 8:
            raise Reject("not yet", requeue=True)
        return "done"

    @app.task(shared=False, bind=True, name="e.dies_once")
    def dies_once(self: Any, path: str) -> str:
        if mark(path) == 1:
            os._exit(3)
        return "done"

    @app.task(shared=False, bind=True, name="e.waits")
    def waits(self: Any, path: str, seconds: float) -> str:
        """Wait until so long after the first beginning."""
        first = mark(path) == 1
        end = Path(f"{path}.end")
        if first:
            end.write_text(str(time.time() + seconds))
        while time.time() < float(end.read_text()):
            time.sleep(0.05)
        return "done"

    @app.task(shared=False, bind=True, name="e.stays")
    def stays(self: Any, path: str) -> str:
        """Wait until there is a file that says that it may end."""
        mark(path)
        while not Path(f"{path}.end").exists():
            time.sleep(0.05)
        return "done"

    @app.task(shared=False, bind=True, name="e.goes_on", max_retries=None)
    def goes_on(self: Any, path: str, how: str) -> list[Any]:
        """Note each item as it is begun, and stop at item 5 the first time."""
        before = checkpoint("sum").value
        first = not Path(path).exists()
        for number in resumable(range(8)):
            with Path(path).open("a") as file:
                file.write(f"{number}\n")
            checkpoint("sum").save((checkpoint("sum").value or 0) + number)
            if number == 5 and first:
                stop(self, how)
        return [before, checkpoint("sum").value]

    @app.task(shared=False, name="e.works")
    def works(steps: int, seconds: float) -> str:
        """Do so many steps, and count those of all jobs."""
        backend: Any = app.backend
        for _ in resumable(range(steps)):
            backend.client.incr("q:steps")
            time.sleep(seconds)
        return "done"

    @app.task(shared=False, bind=True, name="e.saves_and_replaces")
    def saves_and_replaces(self: Any, path: str) -> Any:
        checkpoint().save("of the first")
        raise self.replace(reads_checkpoint.s())

    @app.task(shared=False, bind=True, name="e.reads_checkpoint")
    def reads_checkpoint(self: Any) -> Any:
        return checkpoint().value

    @app.task(shared=False, name="e.saves_until_cancelled")
    def saves_until_cancelled() -> None:
        for number in range(10_000):
            checkpoint().save(number)
            time.sleep(0.05)

    add_async_tasks(app)
    add_generators(app)
    return app


def stop(task: Any, how: str) -> None:
    """End an attempt before its time."""
    match how:
        case "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "is terminated":
            os.kill(os.getpid(), signal.SIGTERM)
        case "asks for a retry":
            raise task.retry(countdown=0)
        case "raises Retry":
            raise Retry("again")
        case "goes back into its queue":
            raise Reject("again", requeue=True)
        case "fails":
            raise ValueError("mine")


def __getattr__(name: str) -> Celery:
    if name in ("app", "celery"):
        if "SAMPLE_SAYS_LATE" in os.environ:
            say_late(Path(os.environ["SAMPLE_SAYS_LATE"]))
        globals()["app"] = made = make_app(
            os.environ["SAMPLE_URL"], serializer=os.environ.get("SAMPLE_SERIALIZER", "json")
        )
        return made
    raise AttributeError(name)

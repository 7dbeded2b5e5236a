"""The Celery app of the HTTP tests: ``celery -A tests.service.sample`` with ``SAMPLE_URL`` set."""

import os
import signal
import time
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Annotated, Any

from celery import Celery, Task
from celery.utils.log import get_task_logger
from pydantic import BaseModel, Field

from tornado_celery_bridge.checkpoints import checkpoint, resumable
from tornado_celery_bridge.progress import progress
from tornado_celery_bridge.worker import install


class Point(BaseModel):
    x: int
    y: int = 0


def make_app(url: str) -> Celery:
    app = Celery("websample", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        task_default_queue="websample",
        task_queues={"websample": {}, "quiet": {}},
        task_create_missing_queues=False,
        task_track_started=True,
        result_extended=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_connection_retry_on_startup=True,
        job_ledger_url=os.environ.get("SAMPLE_LEDGER"),
        job_store_url=os.environ.get("SAMPLE_STORE"),
    )
    install(app)

    @app.task(name="s.add", shared=False, exposed=True)
    def add(x: int, y: int = 1) -> int:
        """
        Add two numbers.

        More about it.
        """
        return x + y

    @app.task(name="s.nap", shared=False, exposed=True, time_limit=60)
    def nap(seconds: float, mark: str = "") -> float:
        """Sleep, then write a mark."""
        time.sleep(seconds)
        if mark:
            with open(mark, "w") as file:
                file.write("ran")
        return seconds

    @app.task(name="s.fail", shared=False, exposed=True)
    def fail(message: str = "as asked") -> None:
        raise ValueError(message)

    @app.task(name="s.goes_on", shared=False, exposed=True)
    def goes_on(count: int = 6, pause: Annotated[float, Field(ge=0, le=1)] = 0) -> list[int]:
        """Fail half way, unless this goes on from there; return the items that were left."""
        is_first, mine = checkpoint("items").value is None, []
        for number in resumable(range(count)):
            mine.append(number)
            time.sleep(pause)
            if is_first and number == count // 2:
                raise ValueError("half way")
        return mine

    @app.task(name="s.steps", shared=False, exposed=True, bind=True)
    def steps(self: "Task[..., Any]", count: Annotated[int, Field(ge=1, le=100)] = 3) -> int:
        for number in range(1, count + 1):
            progress(number, count, f"step {number}")
            time.sleep(0.05)
        return count

    @app.task(name="s.yields", shared=False, exposed=True)
    def yields(count: Annotated[int, Field(ge=0, le=100)] = 3) -> Generator[Point, None, str]:
        """Yield some points."""
        for number in range(count):
            yield {"x": number, "y": 0}  # type: ignore[misc]
        return "done"

    @app.task(name="s.ticks", shared=False, exposed=True)
    def ticks(
        count: Annotated[int, Field(ge=1, le=1_000)] = 3, seconds: Annotated[float, Field(ge=0, le=5)] = 0
    ) -> None:
        """Tell of so many steps, evenly, in so many seconds."""
        begun = time.monotonic()
        for number in range(1, count + 1):
            progress(number, count)
            time.sleep(max(0.0, begun + seconds * number / count - time.monotonic()))

    @app.task(name="s.nests", shared=False, exposed=True, bind=True)
    def nests(self: "Task[..., Any]", depth: int) -> Any:
        """Tell, and return, lists in each other."""
        made: list[Any] = []
        for _ in range(depth - 1):
            made = [made]
        self.update_state(state="BAKING", meta={"made": made})
        progress(1, 1)
        return made

    @app.task(name="s.tells", shared=False, exposed=True, bind=True)
    def tells(self: "Task[..., Any]", size: int) -> None:
        """Tell of progress, and of a state of its own, by so many bytes."""
        progress(1, 3, "x" * size)
        self.update_state(state="PROGRESS", meta={"current": 2, "total": 3, "message": None, "rows": ["x"] * size})
        self.update_state(state="BAKING", meta={"heat": "x" * size})

    @app.task(name="s.echo", shared=False, exposed=True)
    def echo(value: Any = None) -> Any:
        return value

    @app.task(name="s.total", shared=False, exposed=True)
    def total(numbers: list[Any], plus: int = 0, note: str = "") -> int:
        return sum(numbers) + plus  # type: ignore[no-any-return]

    @app.task(name="s.nan", shared=False, exposed=True)
    def nan() -> dict[str, Any]:
        return {"nan": float("nan"), "half": "\ud800", "fine": [1.5]}

    @app.task(name="s.forgetful", shared=False, exposed=True, ignore_result=True)
    def forgetful() -> int:
        return 1

    @app.task(name="s.log", shared=False, exposed=True)
    def say(lines: int = 1) -> None:
        for number in range(lines):
            get_task_logger("sample").warning("line %d", number)

    @app.task(name="s.flaky", shared=False, exposed=True, autoretry_for=(OSError,), default_retry_delay=0)
    def flaky(path: str) -> int:
        with open(path, "a+") as file:
            file.write("x")
            file.seek(0)
            if (tries := len(file.read())) < 3:
                raise OSError("not yet")
        return tries

    @app.task(name="s.pid", shared=False, exposed=True)
    def pid(path: str) -> int:
        """Say which process runs it; the first time, wait there for its end."""
        first = not os.path.exists(path)
        with open(path, "w") as file:
            file.write(f"{os.getpid()}\n")
        if first:
            time.sleep(60)
        return os.getpid()

    @app.task(name="s.mark", shared=False, exposed=True)
    def mark(path: str) -> None:
        with open(path, "a") as file:
            file.write("ran\n")

    @app.task(name="s.letters", shared=False, exposed=True)
    def letters(count: int) -> str:
        """Return a text of so many bytes."""
        return "x" * count

    @app.task(name="s.size", shared=False, exposed=True)
    def size(value: Any, more: Any = None) -> list[int]:
        """Say of what lengths the values are, lists' one by one."""
        values = [*(value if isinstance(value, list) else [value]), more]
        return [len(each) for each in values if each is not None]

    @app.task(name="s.flat", shared=False, exposed=True)
    def flat(values: list[Any]) -> list[Any]:
        """Return the lengths of texts; a list among them by calling itself."""
        return [flat(value) if isinstance(value, list) else len(value) for value in values]

    @app.task(name="s.moments", shared=False, exposed=True)
    def moments(count: int) -> list[Any]:
        return [datetime(2026, 1, 1, tzinfo=UTC)] * count

    @app.task(name="s.kinds", shared=False, exposed=True)
    def kinds(values: list[Any]) -> list[str]:
        return sorted({type(value).__name__ for value in values})

    @app.task(name="s.again", shared=False, exposed=True, bind=True, default_retry_delay=0)
    def again(self: "Task[..., Any]", text: str, note: str = "") -> list[Any]:
        """Ask for two retries: with the arguments of before, then with another note."""
        if self.request.retries < 2:
            changed = {**self.request.kwargs, "note": "changed"} if self.request.retries else None  # type: ignore[dict-item]
            raise self.retry(kwargs=changed, countdown=0)
        return [len(text), note, self.request.retries]

    @app.task(name="s.stay", shared=False, exposed=True, max_concurrency=2, limit_by="user")
    def stay(user: str, seconds: Annotated[float, Field(ge=0, le=1)] = 0) -> list[float]:
        """Return when it began and ended, by the machine's clock."""
        begun = time.monotonic()
        time.sleep(seconds)
        return [begun, time.monotonic()]

    @app.task(name="s.paced", shared=False, exposed=True, max_rate="10/s", bind=True)
    def paced(self: "Task[..., Any]") -> Any:
        return self.request.headers

    @app.task(name="s.headers", shared=False, exposed=True, bind=True, default_retry_delay=0)
    def headers(self: "Task[..., Any]", before: Any = None) -> Any:
        """Return what came with its message, the second time."""
        if not self.request.retries:
            raise self.retry(countdown=0)
        return self.request.headers

    @app.task(name="s.once", shared=False, exposed=True, unique=True)
    def once(value: int, note: str = "") -> int:
        return value

    @app.task(name="s.poison", shared=False, exposed=True)
    def poison() -> None:
        """Take the worker's process along."""
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="s.hidden", shared=False)
    def hidden() -> None:
        raise AssertionError("nobody may run this over HTTP")

    return app


def __getattr__(name: str) -> Celery:
    if name in ("app", "celery"):
        globals()["app"] = made = make_app(os.environ["SAMPLE_URL"])
        return made
    raise AttributeError(name)

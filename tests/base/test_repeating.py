"""A thread that repeats a step: what an exception does, and what ends it."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from tests.servers import wait_for
from tests.threads import takes
from tornado_celery_bridge.base import repeating
from tornado_celery_bridge.base.repeating import Repeating

Start = Callable[..., Repeating]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a thread, which ends with the test."""
    started: list[Repeating] = []

    def begin(step: Callable[[], None], **options: object) -> Repeating:
        started.append(Repeating("sample", step, **options))  # type: ignore[arg-type]
        started[-1].start()
        return started[-1]

    yield begin
    for each in started:
        each.stop(5)
        assert not each.is_alive


def test_signals_are_for_the_main_thread(start: Start) -> None:
    """Else TERM ends a process of Celery's pool while it holds a lock of the whole pool, and blocks TERM for that."""
    thread = start(lambda: None, pause=0.01)
    [started] = [each for each in threading.enumerate() if each.name == thread.name]
    assert not takes(started, signal.SIGTERM)
    assert takes(started, signal.SIGSEGV)  # which faulthandler tells of
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_step_is_repeated_until_the_thread_is_told_to_end(start: Start) -> None:
    steps: list[str] = []
    ended = threading.Event()
    thread = start(lambda: steps.append(threading.current_thread().name), pause=0.001, ended=ended.set)
    wait_for(lambda: len(steps) > 2)
    thread.stop(5)
    assert ended.is_set()
    assert not thread.is_alive
    assert {*steps} == {"sample"}


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_an_exception_is_logged_once_and_ends_nothing(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    monkeypatch.setattr(repeating, "FIRST_DELAY", 0.001)
    caplog.set_level(logging.INFO, repeating.__name__)
    failures: list[BaseException] = []
    went_well = threading.Event()

    def step() -> None:
        if len(failures) < 4:
            raise kind("no use")
        if len(failures) == 4:
            raise OSError("another reason")
        went_well.set()
        time.sleep(0.001)

    start(step, failed=failures.append)
    assert went_well.wait(5)
    wait_for(lambda: len(caplog.records) == 3)
    assert [type(each) for each in failures] == [kind] * 4 + [OSError]
    assert [record.message for record in caplog.records] == [
        f"sample: {kind.__name__}: no use; it tries again",
        "sample: OSError: another reason; it tries again",
        "sample: it works again",
    ]


def test_the_same_exception_after_a_success_is_logged_again(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeating, "FIRST_DELAY", 0.001)
    steps: list[int] = []

    def step() -> None:
        steps.append(len(steps))
        if len(steps) in (1, 3):
            raise ValueError
        time.sleep(0.001)

    start(step)
    wait_for(lambda: len(steps) > 3)
    assert len(caplog.records) == 2


def test_the_delay_grows_up_to_a_second(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []

    def rest(self: Repeating, seconds: float) -> bool:
        delays.append(round(seconds, 3))
        if len(delays) == 6:
            self.stop()
        return False

    monkeypatch.setattr(Repeating, "rest", rest)

    def step() -> None:
        raise ValueError

    thread = start(step)
    wait_for(lambda: not thread.is_alive)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_thread_may_stop_itself(start: Start) -> None:
    thread: Repeating

    def step() -> None:
        begun.wait(5)
        thread.stop(5)

    begun = threading.Event()
    thread = start(step)
    begun.set()
    wait_for(lambda: not thread.is_alive)


def test_a_forked_child_has_no_such_thread(start: Start) -> None:
    thread = start(lambda: time.sleep(0.001))
    assert thread.is_mine
    pid = os.fork()
    if pid == 0:
        thread.stop(5)  # waits for nothing
        os._exit(0 if not thread.is_mine else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert not thread.stopping


def test_at_the_end_of_the_interpreter_nothing_is_told(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Python 3.12 starts no thread then, so a step that needs one would warn in each program that ends."""

    def step() -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(repeating, "sys", SimpleNamespace(is_finalizing=lambda: True))
    thread = start(step)
    thread._thread.join(10)
    assert not thread.is_alive
    assert caplog.text == ""

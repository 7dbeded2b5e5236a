"""A child that is forked while another thread holds a lock."""

import subprocess
import sys

import pytest

#: Forks while a thread holds the lock; ends with 0 if the child does what needs it, and else by SIGALRM.
SCRIPT = """
import os, signal, sys, threading
from celery import Celery, signals
from kombu.utils.objects import cached_property
from tornado_celery_bridge.base.forks import mend_locks

app = Celery("forks", set_as_current=False)
mend_locks()
lock, use = {
    "property": (lambda: vars(Celery)["timezone"].lock, lambda: app.timezone),
    "signal": (lambda: signals.task_prerun.lock, lambda: signals.task_prerun.connect(lambda **_: None, weak=False)),
    "clock": (lambda: app.clock.mutex, lambda: app.clock.forward()),
    "app": (lambda: app._finalize_mutex, lambda: app.tasks),
}[sys.argv[1]]
held, over = threading.Event(), threading.Event()

def hold():
    with lock():
        held.set()
        over.wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
if (child := os.fork()) == 0:
    signal.alarm(2)
    use()
    os._exit(0)
status = os.waitpid(child, 0)[1]
over.set()
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


@pytest.mark.parametrize("lock", ["property", "signal", "clock", "app"])
def test_a_lock_that_another_thread_holds_is_not_held_in_the_child(lock: str) -> None:
    assert subprocess.run([sys.executable, "-c", SCRIPT, lock], timeout=120).returncode == 0

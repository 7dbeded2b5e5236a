"""Beats: a process of Celery's, and one in the test that does what it is told."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers import Server
from tornado_celery_bridge.schedules import Scheduler, calls
from tornado_celery_bridge.schedules.scheduler import Lease

ROOT = Path(__file__).parent.parent.parent


Do = Callable[[Any], Any]


class BeatProcess:
    """A stock ``celery beat``."""

    def __init__(self, server: Server, log: Path) -> None:
        self.log = log
        environment = {"SAMPLE_BROKER": server.url, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "celery", "-A", "tests.schedules.sample", "beat", "--pidfile=", "-l", "INFO"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=out)

    @property
    def leads(self) -> bool:
        """Whether it was the last thing that it said."""
        said = [line for line in self.log.read_text().splitlines() if "leads" in line]
        return bool(said) and "this beat leads" in said[-1]


class Beat(Scheduler):
    """A beat that ticks, and asks for the lead, when it is told to."""

    lease: Lease

    def setup_schedule(self) -> None:
        start, Lease.start = Lease.start, lambda self: None  # type: ignore[method-assign]
        try:
            super().setup_schedule()
        finally:
            Lease.start = start  # type: ignore[method-assign]
        assert self._lease is not None
        self.lease = self._lease

    def ask(self) -> int:
        """Ask once for the lead."""
        fence = self._redis.run(calls.lead(me=self.lease._me, lease=5000, fence=self.lease._fence))
        if fence:
            self.lease._fence = fence
            self.lease._leads.set()
        return fence

    def look(self) -> None:
        """Do what is due."""
        if not self._is_loaded:
            self._load()
        self._redis.client.lpush(f"{self._redis.prefix}schedules:wake", 1)
        self._run_due(self.lease)

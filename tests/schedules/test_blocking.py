"""The schedules for blocking code do what those of an event loop do."""

import asyncio
from datetime import UTC, datetime

import pytest
from celery import Celery

from tests.servers import Database
from tornado_celery_bridge.schedules import BlockingSchedules, Entry, ScheduleEntryNotFound, Schedules
from tornado_celery_bridge.worker import install


def test_a_life(database: Database) -> None:
    app = Celery("blocking", broker=database.url, backend=database.url, set_as_current=False)
    install(app)

    @app.task(name="t.report", shared=False)
    def report(day: str = "") -> None:
        pass

    with BlockingSchedules(app) as schedules:
        made = schedules.create(Entry(name="report", task="t.report", crontab="0 6 * * *"))
        assert schedules.get("report") == made
        assert [each.entry.name for each in schedules.find(limit=5).schedules] == ["report"]
        assert schedules.pause("report").next_run is None
        assert schedules.resume("report").next_run == made.next_run
        assert len(schedules.next_runs("report", 3)) == 3
        job_id = schedules.run("report")
        assert [run.job_id for run in schedules.runs("report")] == [job_id]
        since, until = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
        assert len(schedules.backfill("report", since, until, dry_run=True).slots) == 2
        assert schedules.statistics().entries == schedules.count() == 1
        schedules.delete("report")
        with pytest.raises(ScheduleEntryNotFound):
            schedules.get("report")
    app.close()


def test_each_method_of_the_one_is_one_of_the_other() -> None:
    names = {name for name in vars(Schedules) if not name.startswith("_")}
    assert names - {"tell_owners", "leader"} == {
        name for name in vars(BlockingSchedules) if not name.startswith("_") and name != "close"
    }


def test_not_on_an_event_loop(database: Database) -> None:
    app = Celery("blocking", broker=database.url, backend=database.url, set_as_current=False)
    with BlockingSchedules(app) as schedules:

        async def main() -> None:
            with pytest.raises(RuntimeError, match="event loop"):
                schedules.count()

        asyncio.run(main())
    app.close()

"""An app whose beat has another scheduler: the list says so, and shows what the app's settings have."""

import json
from typing import Any

import pytest
from celery.schedules import crontab

from tests.servers import Database
from tests.service.sample import make_app
from tests.service.site import running
from tornado_celery_bridge.schedules import Schedules

DJANGOS = "django_celery_beat.schedulers:DatabaseScheduler"
ENTRIES: dict[str, Any] = {
    "nightly": {"task": "s.add", "schedule": crontab(minute="30", hour="2"), "kwargs": {"x": 1}},
    "often": {"task": "s.nap", "schedule": 90.0, "args": (0.1,), "options": {"queue": "quiet"}},
    "odd": {"task": "s.add", "schedule": "now and then"},
}


async def listed(database: Database, scheduler: str | None) -> dict[str, Any]:
    app = make_app(database.url)
    app.conf.update(beat_schedule=ENTRIES, beat_scheduler=scheduler)
    async with running(app) as service:
        return dict(json.loads((await service.fetch("/v1/schedules")).body))


@pytest.mark.parametrize("scheduler", [None, DJANGOS])
async def test_another_scheduler_is_said_and_its_entries_are_shown(database: Database, scheduler: str | None) -> None:
    found = await listed(database, scheduler)
    assert found["schedules"] == []
    named = scheduler or "celery.beat:PersistentScheduler"
    hint = found["beat"].pop("hint")
    assert found["beat"] == {"scheduler": named, "runs_these": False, "leader": None}
    assert hint.startswith(f"The app's beat has the scheduler {named}, which does not run these schedules.")
    nightly, often, odd = found["beat_schedule"]
    assert nightly == {
        **{"name": "nightly", "task": "s.add", "input": {"x": 1}, "crontab": "30 2 * * *"},
    } | ({"timezone": nightly["timezone"]} if "timezone" in nightly else {})
    assert often == {
        **{"name": "often", "task": "s.nap", "input": [0.1], "options": {"queue": "quiet"}, "interval": 90.0},
    }
    assert odd["name"] == "odd"
    assert "now and then" in odd["detail"]


async def test_with_ours_it_is_said_that_no_beat_leads(database: Database) -> None:
    found = await listed(database, "tornado_celery_bridge.schedules:Scheduler")
    assert found["beat"] == {
        "scheduler": "tornado_celery_bridge.schedules:Scheduler",
        "runs_these": False,
        "leader": None,
        "hint": "No beat leads: nothing is run. To start one: tcb beat",
    }
    assert found["beat_schedule"] == []


async def test_the_class_itself_is_ours(database: Database) -> None:
    from tornado_celery_bridge.schedules import Scheduler

    app = make_app(database.url)
    app.conf.beat_scheduler = Scheduler
    async with running(app) as service:
        beat = await Schedules(service.jobs.ledger, app).beat()
    assert beat.is_ours
    app.close()

"""
Schedules that change while beat runs: :class:`Scheduler` is beat's side, :class:`Schedules` the loop's.

How they are kept: ``calls`` and ``lua/README.md``; what an entry says: :class:`Entry`.
"""

from tornado_celery_bridge.schedules.blocking import BlockingSchedules
from tornado_celery_bridge.schedules.entry import Entry, InvalidEntry
from tornado_celery_bridge.schedules.scheduler import Scheduler
from tornado_celery_bridge.schedules.schedules import (
    Backfill,
    BackfillTooLarge,
    Beat,
    Run,
    RunRefused,
    ScheduleConflict,
    Scheduled,
    ScheduleEntryNotFound,
    SchedulePage,
    Schedules,
    Statistics,
    TooManySchedules,
)

__all__ = (
    "Backfill",
    "BackfillTooLarge",
    "Beat",
    "BlockingSchedules",
    "Entry",
    "InvalidEntry",
    "Run",
    "RunRefused",
    "ScheduleConflict",
    "ScheduleEntryNotFound",
    "SchedulePage",
    "Scheduled",
    "Scheduler",
    "Schedules",
    "Statistics",
    "TooManySchedules",
)

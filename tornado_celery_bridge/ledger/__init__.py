"""
The ledger of jobs, which the web processes, the workers and the beats share.

In come jobs, and what happens to them; out go what is known of them, their events, and messages to publish. An event
loop uses the ledger by :class:`Ledger`, a worker by ``WorkerLedger``. Both send the commands of
``calls``, which are written in Lua (``lua/``, with the table of keys): each changes a job in one step, so a process
may die at any moment. The rooms above may use this one; it knows none of them.
"""

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.base.store import MAX_INLINE, Store
from tornado_celery_bridge.ledger.connection import ledger_backend
from tornado_celery_bridge.ledger.filters import Filter
from tornado_celery_bridge.ledger.ledger import Ledger
from tornado_celery_bridge.ledger.monitor import (
    BOUNDS,
    PERIODS,
    Counts,
    Histogram,
    Monitor,
    Period,
    QueueState,
    Totals,
    WorkerState,
)
from tornado_celery_bridge.ledger.operations import Operation, Operations, Waits
from tornado_celery_bridge.ledger.records import (
    Acceptance,
    Claim,
    Delivery,
    Event,
    FailureGroup,
    Gone,
    Job,
    JobItem,
    JobRecord,
    LedgerUnavailable,
    Page,
    Purged,
    Reservation,
    Step,
    Workflow,
    WorkflowRecord,
    error_mark,
)
from tornado_celery_bridge.ledger.submission import new_job

__all__ = (
    "BOUNDS",
    "MAX_INLINE",
    "PERIODS",
    "Acceptance",
    "Claim",
    "Counts",
    "Delivery",
    "Event",
    "FailureGroup",
    "Filter",
    "Gone",
    "Histogram",
    "Job",
    "JobItem",
    "JobRecord",
    "Ledger",
    "LedgerUnavailable",
    "Monitor",
    "Operation",
    "Operations",
    "Page",
    "Period",
    "Purged",
    "QueueState",
    "Reservation",
    "Step",
    "Store",
    "Totals",
    "Waits",
    "WorkerState",
    "Workflow",
    "WorkflowRecord",
    "dumps",
    "error_mark",
    "ledger_backend",
    "new_job",
)

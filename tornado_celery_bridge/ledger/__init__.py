"""The ledger of jobs, which the web process and the workers share: see :mod:`._ledger`, and :mod:`.worker`."""

from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.base.store import MAX_INLINE, Store
from tornado_celery_bridge.ledger.jobs import new_job
from tornado_celery_bridge.ledger.ledger import Ledger, ledger_backend
from tornado_celery_bridge.ledger.monitor import (
    BOUNDS,
    SPANS,
    Counts,
    Histogram,
    Monitor,
    QueueState,
    Span,
    Totals,
    WorkerState,
)
from tornado_celery_bridge.ledger.records import (
    Acceptance,
    Claim,
    Delivery,
    Event,
    FailureGroup,
    Gone,
    Job,
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

__all__ = (
    "BOUNDS",
    "MAX_INLINE",
    "SPANS",
    "Acceptance",
    "Claim",
    "Counts",
    "Delivery",
    "Event",
    "FailureGroup",
    "Gone",
    "Histogram",
    "Job",
    "JobRecord",
    "Ledger",
    "LedgerUnavailable",
    "Monitor",
    "Page",
    "Purged",
    "QueueState",
    "Reservation",
    "Span",
    "Step",
    "Store",
    "Totals",
    "WorkerState",
    "Workflow",
    "WorkflowRecord",
    "dumps",
    "error_mark",
    "ledger_backend",
    "new_job",
)

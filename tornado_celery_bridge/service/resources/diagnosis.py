"""What the broker is and can do here, and what is unsafe: for ``/readyz?verbose``."""

from collections.abc import Sequence
from typing import NamedTuple

from celery import Celery

from tornado_celery_bridge.ledger.checks import Finding, check
from tornado_celery_bridge.ledger.fleet import check_fleet
from tornado_celery_bridge.transports import Broker, describe


class Diagnosis(NamedTuple):
    """An app, and the servers behind it, as they are now."""

    findings: Sequence[Finding]
    broker: Broker


def diagnose(app: Celery) -> Diagnosis:
    """Look at *app* and ask its servers. Blocks, for some seconds if one is away."""
    return Diagnosis([*check(app), *check_fleet(app, ask=True)], describe(app))

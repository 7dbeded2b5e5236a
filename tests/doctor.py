"""What `tcb doctor` says of an app that a test has made."""

import contextlib
import io
from unittest.mock import patch

from celery import Celery

from tornado_celery_bridge.cli import doctor
from tornado_celery_bridge.ledger.permissions import PROCESSES


def said_of(app: Celery, *processes: str) -> tuple[int, str]:
    """Return the exit status and what was written, as one line. The app is closed."""
    written = io.StringIO()
    options = [word for process in processes or PROCESSES for word in ("--process", process)]
    with patch.object(doctor, "load", lambda: app), contextlib.redirect_stdout(written):
        status = doctor.doctor.main(options, standalone_mode=False)
    app.close()
    return status, " ".join(written.getvalue().split())

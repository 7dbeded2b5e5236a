"""What a job logs by ``get_task_logger`` becomes its events."""

import logging

from celery.exceptions import SoftTimeLimitExceeded
from kombu.utils.encoding import safe_repr

from tornado_celery_bridge.exceptions import message_of
from tornado_celery_bridge.worker.attempt import current_attempt


class LogLines(logging.Handler):
    """Makes the lines that a job logs its events; lines from elsewhere are left alone."""

    @classmethod
    def install(cls) -> None:
        """Follow Celery's logger of tasks, once in each process."""
        logger = logging.getLogger("celery.task")
        if not any(isinstance(handler, cls) for handler in logger.handlers):
            logger.addHandler(cls())

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Have no lock: a line is told in one call, and a thread whose call waits for Redis is to hold up no other."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Note one line; logging's own takes the lock, which from Python 3.13 on has to be one."""
        if is_wanted := bool(self.filter(record)):
            self.emit(record)
        return is_wanted

    def emit(self, record: logging.LogRecord) -> None:
        """Note one line."""
        if (attempt := current_attempt()) is not None:
            try:
                attempt.note(record.levelname, self._line(record))
            except SoftTimeLimitExceeded:
                raise
            except Exception:  # a line that can't be noted is no fault of the job
                self.handleError(record)

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except SoftTimeLimitExceeded:
            raise
        except Exception as exc:  # ``log.warning("%d", "x")``
            return f"{safe_repr(record.msg)} with {safe_repr(record.args)}: {message_of(exc)}"

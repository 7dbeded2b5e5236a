"""What a job logs by ``get_task_logger`` becomes its events."""

import logging

from tornado_celery_bridge.worker.attempt import current_attempt


class LogLines(logging.Handler):
    """Makes the lines that a job logs its events; lines from elsewhere are left alone."""

    @classmethod
    def install(cls) -> None:
        """Follow Celery's logger of tasks, once in each process."""
        logger = logging.getLogger("celery.task")
        if not any(isinstance(handler, cls) for handler in logger.handlers):
            logger.addHandler(cls())

    def emit(self, record: logging.LogRecord) -> None:
        """Note one line."""
        if (attempt := current_attempt()) is not None:
            attempt.note(record.levelname, self.format(record))

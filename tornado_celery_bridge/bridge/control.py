"""Makes Celery's blocking calls (control, forget, eager tasks) in a thread of their own."""

from collections.abc import Sequence

from tornado_celery_bridge.base.lane import Call

__all__ = ("Caller",)


class Caller:
    """A lane's worker whose calls' work is a callable without arguments."""

    def ready(self) -> bool:
        return True

    def run(self, calls: Sequence[Call]) -> None:
        for call in calls:
            if call.begin():
                try:
                    call.value = call.work()
                except Exception as exc:
                    call.error = exc

    def close(self) -> None:
        """Nothing is held: connections are the app's own, pooled by Celery."""

"""Where things are: the paths that the service writes, below the prefix that it is mounted at."""

from dataclasses import dataclass
from urllib.parse import quote


@dataclass
class Links:
    """The paths of one service. All who write some share one object, so that they agree on the prefix."""

    #: What all paths begin with; empty at the root. ``Service.routes`` sets it.
    prefix: str = ""

    @property
    def jobs(self) -> str:
        """The list of jobs."""
        return f"{self.prefix}/v1/jobs"

    def job(self, job_id: str) -> str:
        """Return where a job is."""
        return f"{self.prefix}/v1/jobs/{job_id}"

    def workflow(self, workflow_id: str) -> str:
        """Return where a workflow is."""
        return f"{self.prefix}/v1/workflows/{workflow_id}"

    def failure(self, group_id: str) -> str:
        """Return where a group of failures is."""
        return f"{self.prefix}/v1/failures/{group_id}"

    def operation(self, operation_id: str) -> str:
        """Return where an operation is."""
        return f"{self.prefix}/v1/operations/{operation_id}"

    def schedule(self, name: str) -> str:
        """Return where the schedule of this name is, whatever characters that has."""
        return f"{self.prefix}/v1/schedules/{quote(name, safe='')}"

    def task(self, name: str) -> str:
        """Return where the task of this name is."""
        return f"{self.prefix}/v1/tasks/{quote(name, safe='')}"

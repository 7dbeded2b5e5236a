"""Changing a job that waits: when, where and with what it runs; holding it back, and letting it go."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tornado_celery_bridge.base import encoding
from tornado_celery_bridge.base.json import dumps
from tornado_celery_bridge.ledger import calls
from tornado_celery_bridge.ledger.connection import Subject

#: The header by which a message says how often its job was changed before. One of another number begins nothing.
VERSION = "tcb_version"
#: Options of a message that say when it is due or where it goes.
_WHEN, _WHERE = ("eta", "countdown"), ("queue", "exchange", "routing_key", "priority")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job's message, as the ledger would publish it."""

    #: The signature of its task, as a mapping.
    message: dict[str, Any]
    #: What tells whether it is still the same.
    digest: str
    #: How often the job was changed.
    version: int


class Changes(Subject):
    """
    Changes of jobs that wait.

    .. versionadded:: 0.1.0
    """

    async def read(self, job_id: str) -> Waiting | None:
        """Return the message of a job that has one of its own; None for one that has not, or has ended."""
        prefix = self._redis.prefix
        text = await self._redis.call("GET", f"{prefix}message:{job_id}")
        version = await self._redis.call("HGET", f"{prefix}job:{job_id}", "version")
        if text is None:
            return None
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
        return Waiting(encoding.loads(text), digest, int(version or 0))

    async def amend(
        self,
        job_id: str,
        before: Waiting,
        *,
        message: Mapping[str, Any],
        queue: str,
        priority: int | None,
        options: Mapping[str, Any],
        told: Mapping[str, Any],
        where: Mapping[str, Any] | None = None,
        input: str = "",
        due: int | None = None,
        is_eta: bool = False,
        held: bool | None = None,
    ) -> str:
        """
        Change a job, if it waits and nobody else has changed it meanwhile. What was published before begins nothing.

        Args:
            job_id: The job's id.
            before: Its message, as it was read.
            message: Its message from now on. When it is published the ledger decides.
            queue: The name of the queue that it goes to.
            priority: From 0 to 9, where 9 is the most urgent; None for none.
            options: What a retry of the job is submitted with.
            told: What is changed, for its events.
            where: The options of ``apply_async`` that bring the message there; None as it was.
            input: Its input as it is stored; empty as it was.
            due: From when on it may begin, in ms since 1970; None as it was.
            is_eta: Whether somebody has asked for that time.
            held: Whether it is held back; None as it was.

        Returns:
            ``amended``, or why it is not: ``gone``, ``changed``, ``begun``, ``step`` (of a workflow), ``unique``, or
            the state in which it has ended.
        """
        version = before.version + 1
        kept = {name: value for name, value in message["options"].items() if name not in _WHEN}
        if where is not None:
            kept = {name: value for name, value in kept.items() if name not in _WHERE} | {**where}
        kept["headers"] = {**(kept.get("headers") or {}), VERSION: version}
        call = calls.amend(
            job_id=job_id,
            expected=before.digest,
            version=version,
            retries=kept.get("retries") or 0,
            message=encoding.dumps({**message, "options": kept}),
            queue=queue,
            priority=priority,
            options=dumps(options),
            input=input,
            due=due,
            is_eta=is_eta,
            held=None if held is None else int(held),
            told=dumps(told),
        )
        return await self._redis.run(call)

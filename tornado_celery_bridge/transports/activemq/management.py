"""
Artemis' management messages: the way to count a queue there.

A question goes to the address `ADDRESS`, and its answer to the address that it names. The user needs the permission
`manage`. Source: https://artemis.apache.org/components/artemis/documentation/latest/management.html
"""

import json
import uuid
from contextlib import suppress
from typing import Any

from tornado_celery_bridge.transports.activemq.link import Link
from tornado_celery_bridge.transports.core import AccessRefused, Refused

ADDRESS = "activemq.management"
MANAGE = f"give the user the permission `manage` (and `send`) on the address {ADDRESS}"


def count_messages(link: Link, destination: str) -> int:
    """
    Return how many messages a queue has, without those for later; 0 for a queue that does not exist.

    Raises:
        AccessRefused: The user may not ask.
        OSError: There was no answer.
    """
    answers_at = f"/queue/tcb.answers.{uuid.uuid4().hex}"
    headers = {"ack": "auto", **link.dialect.room(1_000)}
    try:
        with link.listening(answers_at, headers) as listening:
            # What a queue is called depends on the acceptor: with the prefix /queue/ in its name or without it.
            for name in (destination.removeprefix("/queue/"), destination):
                counts: list[int | None] = []
                for attribute in ("messageCount", "scheduledCount"):
                    question = {"_AMQ_ResourceName": f"queue.{name}", "_AMQ_Attribute": attribute}
                    link.request("SEND", {"destination": ADDRESS, "reply-to": answers_at, **question})
                    answer = listening.take(link.patience)
                    if answer is None:
                        raise TimeoutError(f"{ADDRESS} did not answer")
                    counts.append(_number(answer.body))
                waiting, later = counts
                if waiting is not None and later is not None:
                    return max(0, waiting - later)
    except Refused as exc:
        raise AccessRefused(f"the user may not count queues: {MANAGE}") from exc
    return 0


def _number(body: Any) -> int | None:
    """Return the number of an answer, which is a list with one; None for another answer: an error, as text."""
    with suppress(ValueError, TypeError):
        (number,) = json.loads(body)
        return number if isinstance(number, int) else None
    return None

"""
Callbacks: whoever asked for it is told of a job's end.

Theory of operation. The step of the ledger that ends a job puts its callback into a queue, so no crash comes between
the two. Each web process claims what is due for a few seconds at a time, calls, and settles the claim: delivered,
failed, or when to try again. If the process dies, the claim lapses and any process has the next. So a receiver may be
told twice, and knows it by the id, which stays the same.

The body is a CloudEvent 1.0 in JSON (structured mode), signed as Standard Webhooks have it.
"""

import asyncio
import logging
import random
import socket
import ssl
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders, HTTPInputError, parse_response_start_line
from tornado.simple_httpclient import HTTPTimeoutError, SimpleAsyncHTTPClient

from tornado_celery_bridge import __version__
from tornado_celery_bridge.base.tracing import Span
from tornado_celery_bridge.ledger import Claim, Job, Ledger, LedgerUnavailable
from tornado_celery_bridge.service.http.documents import milliseconds, rfc3339
from tornado_celery_bridge.service.http.json import encode
from tornado_celery_bridge.service.resources.callbacks.receivers import CheckedResolver, ForbiddenAddress, Receivers
from tornado_celery_bridge.service.resources.callbacks.signatures import Secrets, sign
from tornado_celery_bridge.service.resources.jobs import documents
from tornado_celery_bridge.service.resources.links import Links

__all__ = ("Deliverer", "event")

_log = logging.getLogger(__name__)

#: Seconds for one attempt, and for its claim: an attempt and two calls of the ledger fit in.
TIMEOUT = 5.0
LEASE = 15.0
#: Seconds from one attempt to the next, after the specification's example; all of them are 23.6 h, within the day for
#: which a job is kept. Up to a tenth is taken off, so that what failed together is not tried together again.
DELAYS = (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 25_200.0, 32_400.0)
JITTER = 0.1
#: Seconds for which a receiver may ask us to stay away.
LONGEST_RETRY_AFTER = 3_600.0
#: Attempts at once, of one process, and of these to one receiver: a slow one leaves room for the others.
MAX_ATTEMPTS = 64
MAX_SHARE = 8
#: Seconds between two looks into the queue.
POLL = 0.5
#: Bytes of an answer, of which nothing but its status is of interest.
MAX_ANSWER = 64 * 1024

PORTS = {"http": 80, "https": 443}

_TYPES = {"SUCCESS": "succeeded", "FAILURE": "failed", "REVOKED": "revoked"}


class _Answer(NamedTuple):
    """What came of an attempt: a status, or why there is none."""

    status: int | None = None
    error: str | None = None
    #: Seconds.
    retry_after: float = 0.0


class Deliverer:
    """
    Delivers callbacks; any number of processes may.

    Args:
        ledger: Where the jobs are.
        receivers: Who may be called.
        secrets: Sign what is sent.
        links: Where the jobs are, over HTTP.
    """

    def __init__(self, ledger: Ledger, receivers: Receivers, secrets: Secrets, links: Links | None = None) -> None:
        self._ledger = ledger
        self._secrets = secrets
        self._links = links or Links()
        self._resolver = CheckedResolver(receivers)
        # Not AsyncHTTPClient, which may be configured to be curl: that resolves by itself, and knows proxies.
        self._client = SimpleAsyncHTTPClient(
            force_instance=True,
            max_clients=MAX_ATTEMPTS,
            resolver=self._resolver,
            max_buffer_size=MAX_ANSWER,
            max_body_size=MAX_ANSWER,
        )
        self._under_way: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_room = asyncio.Event()

    async def run(self) -> None:
        """Deliver what is due, for as long as this is not cancelled."""
        while True:
            self._has_room.clear()
            await self._begin_some()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._has_room.wait()

    async def close(self) -> None:
        """Wait for the attempts under way, each of which has its timeout."""
        await asyncio.gather(*self._tasks)
        self._client.close()
        self._resolver.close()

    async def _begin_some(self) -> None:
        """Begin as many attempts as there is room for."""
        room = MAX_ATTEMPTS - len(self._tasks)
        if room == 0:
            return
        try:
            claims = await self._ledger.callbacks.claim(room, share=MAX_SHARE, lease=LEASE, under_way=self._under_way)
        except LedgerUnavailable as exc:
            _log.info("%s", exc)
            return
        for claim in claims:
            self._begin(claim)

    def _begin(self, claim: Claim) -> None:
        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._under_way -= Counter((claim.receiver,))  # drops those that come to nothing
            self._has_room.set()

        self._under_way[claim.receiver] += 1
        task = asyncio.ensure_future(self._deliver(claim))
        self._tasks.add(task)
        task.add_done_callback(end)

    async def _deliver(self, claim: Claim) -> None:
        """Make one attempt; if it comes to nothing, not even to a failure, the claim lapses and it is made again."""
        try:
            job = await self._ledger.jobs.get(claim.job_id)
            if isinstance(job, Job) and job.record.callback_url is not None:
                await self._attempt(claim, job, job.record.callback_url)
        except LedgerUnavailable as exc:
            _log.info("the callback of job %s is left for later: %s", claim.job_id, exc)
        except Exception:
            _log.exception("the callback of job %s is left for later", claim.job_id)

    async def _attempt(self, claim: Claim, job: Job, url: str) -> None:
        secret = await asyncio.to_thread(self._secrets.of, job.record.owner)
        body = encode(event(claim.id, job, self._links))
        at, begun = datetime.now(UTC), time.monotonic()
        with _span(claim, job, url) as span:
            answer = await self._post(url, sign(secret, claim.id, int(at.timestamp()), body) | span.headers(), body)
            _note(span, answer)
        attempt: dict[str, Any] = {
            "at": rfc3339(milliseconds(at)),
            "seconds": round(time.monotonic() - begun, 3),
        }
        attempt |= {"error": answer.error} if answer.status is None else {"status": answer.status}
        state, next_in = _verdict(answer, claim.tries)
        if state == "failed":
            _log.warning("the callback of job %s is given up: %s", job.record.id, answer.status or answer.error)
        await self._ledger.callbacks.record_attempt(claim, attempt, state, next_in)

    async def _post(self, url: str, signature: dict[str, str], body: bytes) -> _Answer:
        head = _Head()
        request = HTTPRequest(
            url,
            "POST",
            headers=HTTPHeaders(
                {
                    "Content-Type": "application/cloudevents+json; charset=utf-8",
                    "User-Agent": f"tornado-celery-bridge/{__version__}",
                    **signature,
                }
            ),
            body=body,
            connect_timeout=TIMEOUT,
            request_timeout=TIMEOUT,
            follow_redirects=False,
            decompress_response=False,
            header_callback=head.read,
        )
        try:
            await self._client.fetch(request, raise_error=False)
        except Exception as exc:
            if head.status is None:
                return _Answer(error=_reason(exc))
        return _Answer(head.status, retry_after=head.retry_after)


def _span(claim: Claim, job: Job, url: str) -> Span:
    """Return the span of an attempt. Of the URL it has the host alone: the rest may be what lets us in there."""
    parts = urlsplit(url)
    attributes: dict[str, Any] = {"http.request.method": "POST", "url.scheme": parts.scheme}
    attributes |= {"server.address": parts.hostname or "", "server.port": parts.port or PORTS.get(parts.scheme, 0)}
    if claim.tries:
        attributes["http.request.resend_count"] = claim.tries
    return Span("client", "POST", attributes, parent={"traceparent": job.record.traceparent})


def _note(span: Span, answer: _Answer) -> None:
    """Say in its span what came of an attempt."""
    if answer.status is None:
        span.note({}, error="_OTHER")  # the convention's word for what has none
    else:
        failed = answer.status >= 400
        span.note({"http.response.status_code": answer.status}, error=str(answer.status) if failed else None)


class _Head:
    """The beginning of an answer, which is all that counts: after the status nothing matters but Retry-After."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.retry_after = 0.0

    def read(self, line: str) -> None:
        if line.startswith("HTTP/"):
            with suppress(HTTPInputError):
                self.status = parse_response_start_line(line.rstrip()).code
        name, _, value = line.partition(":")
        if name.lower() == "retry-after" and value.strip().isdecimal():
            self.retry_after = min(LONGEST_RETRY_AFTER, float(value.strip()[:20]))


def _verdict(answer: _Answer, tries: int) -> tuple[str, float | None]:
    """Return the state of a delivery after an attempt, and in how many seconds there is another."""
    if answer.status is not None and 200 <= answer.status < 300:
        return "delivered", None
    if answer.status == 410 or tries >= len(DELAYS):
        return "failed", None
    return "waiting", max(DELAYS[tries] * random.uniform(1 - JITTER, 1), answer.retry_after)


def _reason(error: Exception) -> str:
    """Return what the job's owner is told: nothing that our network or a name's addresses could be known by."""
    match error:
        case ForbiddenAddress():
            return "This host may not be called."
        case socket.gaierror():
            return "The host was not found."
        case HTTPTimeoutError():
            return f"No answer within {TIMEOUT:.0f} s."
        case ssl.SSLError():
            return f"TLS failed: {getattr(error, 'verify_message', None) or error.reason or 'no reason given'}."
        case OSError():
            return "No connection."
    return "No HTTP answer."


def event(delivery_id: str, job: Job, links: Links) -> dict[str, Any]:
    """Return a job's end as a CloudEvent."""
    return {
        "specversion": "1.0",
        "id": delivery_id,
        "source": links.jobs,
        "type": f"tornado-celery-bridge.job.{_TYPES[job.state]}",
        "subject": job.record.id,
        "time": rfc3339(job.finished_at or 0),
        "datacontenttype": "application/json",
        "data": documents.job(job, links),
    }

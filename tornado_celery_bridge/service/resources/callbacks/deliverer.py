"""
Sends callbacks: requests that tell a receiver about the end of a job.

Theory of operation. The step of the ledger that ends a job also puts its callback into a queue, so no crash can come
between the two. Each web process claims due callbacks for a few seconds, calls, and reports the outcome: delivered,
failed, or when to try again. If the process dies, its claim lapses, and any process can claim the callback. So a
receiver may be called twice, and recognises that by the id, which stays the same.

The body is a CloudEvent 1.0 in JSON (structured mode). It is signed as Standard Webhooks say.
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
from tornado_celery_bridge.ledger import MAX_INLINE, Claim, Job, Ledger, LedgerUnavailable
from tornado_celery_bridge.service.access.receivers import CheckedResolver, ForbiddenAddress, Receivers
from tornado_celery_bridge.service.http.documents import milliseconds, rfc3339
from tornado_celery_bridge.service.http.json import encode
from tornado_celery_bridge.service.resources.callbacks.signatures import Secrets, sign
from tornado_celery_bridge.service.resources.jobs import documents
from tornado_celery_bridge.service.resources.links import Links

_log = logging.getLogger(__name__)

#: Seconds for one attempt, and for its claim, which is long enough for an attempt and two calls of the ledger.
TIMEOUT = 5.0
LEASE = 15.0
#: Seconds from one attempt to the next, after the specification's example. Together they are 23.6 h, less than the day
#: for which a job is kept. Up to a tenth is taken off, so that callbacks that failed together are tried apart.
DELAYS = (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 25_200.0, 32_400.0)
JITTER = 0.1
#: The most seconds for which a receiver may ask us to wait.
LONGEST_RETRY_AFTER = 3_600.0
#: The most attempts of one process at once; of these of one owner, and to one receiver of theirs. So slow receivers
#: leave room for others, and an owner with many of them leaves room for other owners.
MAX_ATTEMPTS = 128
MAX_OWNER_SHARE = 32
MAX_SHARE = 8
#: Seconds between two reads of the queue.
POLL = 0.5
#: The most bytes of an answer. Only its status matters.
MAX_ANSWER = 64 * 1024

PORTS = {"http": 80, "https": 443}

_TYPES = {"SUCCESS": "succeeded", "IGNORED": "succeeded", "FAILURE": "failed", "REVOKED": "revoked"}


class _Answer(NamedTuple):
    """The outcome of an attempt: a status, or the reason why there was no answer."""

    status: int | None = None
    error: str | None = None
    #: Seconds.
    retry_after: float = 0.0


class Deliverer:
    """Delivers callbacks. Any number of processes may do so."""

    def __init__(self, ledger: Ledger, receivers: Receivers, secrets: Secrets, links: Links | None = None) -> None:
        self._ledger = ledger
        self._secrets = secrets
        self._links = links or Links()
        self._resolver = CheckedResolver(receivers)
        # Not AsyncHTTPClient, because it may be configured to be curl, which resolves names itself and uses proxies.
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
        """Deliver what is due, until this is cancelled."""
        while True:
            self._has_room.clear()
            await self._begin_some()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._has_room.wait()

    async def close(self) -> None:
        """Wait for the attempts under way. Each of them has a timeout."""
        await asyncio.gather(*self._tasks)
        self._client.close()
        self._resolver.close()

    async def _begin_some(self) -> None:
        """Begin as many attempts as the bounds allow."""
        room = MAX_ATTEMPTS - len(self._tasks)
        if room == 0:
            return
        try:
            claims = await self._ledger.callbacks.claim(
                room, owner_share=MAX_OWNER_SHARE, share=MAX_SHARE, lease=LEASE, under_way=self._under_way
            )
        except LedgerUnavailable as exc:
            _log.info("%s", exc)
            return
        for claim in claims:
            self._begin(claim)

    def _begin(self, claim: Claim) -> None:
        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._under_way -= Counter((claim.receiver,))  # drops attempts without an outcome
            self._has_room.set()

        self._under_way[claim.receiver] += 1
        task = asyncio.ensure_future(self._deliver(claim))
        self._tasks.add(task)
        task.add_done_callback(end)

    async def _deliver(self, claim: Claim) -> None:
        """Make one attempt. If it has no outcome at all, the claim lapses, and the attempt is made again."""
        try:
            job = await self._ledger.jobs.get(claim.job_id, most_bytes=MAX_INLINE)
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
    """Return the span of an attempt. Of the URL it has only the host, because the rest may be a secret."""
    parts = urlsplit(url)
    attributes: dict[str, Any] = {"http.request.method": "POST", "url.scheme": parts.scheme}
    attributes |= {"server.address": parts.hostname or "", "server.port": parts.port or PORTS.get(parts.scheme, 0)}
    if claim.tries:
        attributes["http.request.resend_count"] = claim.tries
    return Span("client", "POST", attributes, parent={"traceparent": job.record.traceparent})


def _note(span: Span, answer: _Answer) -> None:
    """Put the outcome of an attempt into its span."""
    if answer.status is None:
        span.note({}, error="_OTHER")  # the convention's word for an error that has no class
    else:
        failed = answer.status >= 400
        span.note({"http.response.status_code": answer.status}, error=str(answer.status) if failed else None)


class _Head:
    """The head of an answer: the status and Retry-After. Nothing else matters."""

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
    """Return the state of a delivery after an attempt, and the seconds until the next attempt."""
    if answer.status is not None and 200 <= answer.status < 300:
        return "delivered", None
    if answer.status == 410 or tries >= len(DELAYS):
        return "failed", None
    return "waiting", max(DELAYS[tries] * random.uniform(1 - JITTER, 1), answer.retry_after)


def _reason(error: Exception) -> str:
    """Return the reason for the job's owner. It must tell nothing about our network or about a name's addresses."""
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
    """Return the end of a job as a CloudEvent."""
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

"""
How the commands for jobs reach them: over HTTP, or in the ledger of the Celery app. A job looks the same either way.

:class:`Http` needs only TCB_URL and, where there are API keys, TCB_KEY. :class:`InLedger` needs the app, and the
servers that it names.
"""

import asyncio
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from typing import Any, NamedTuple, Protocol

import click

from tornado_celery_bridge import Bridge, BridgeError
from tornado_celery_bridge.base.settings import Settings, SettingsError

#: Seconds for the service to answer, and between two tries. A service that is away is tried for half a minute.
TIMEOUT, PAUSE, TRIES = 10.0, 1.0, 30
#: Seconds in which a stream of events has at least a comment: the service sends one every 15 s.
SILENCE = 40.0
#: Jobs in one page of a list.
PAGE = 200
#: Seconds that a cancelled job has to end by itself, before its process is ended.
GRACE = 5.0

Job = dict[str, Any]


class Event(NamedTuple):
    """Something that happened to a job; see docs/http/events.md."""

    kind: str
    data: Any


class Wrong(click.ClickException):
    """
    What was given is wrong, and will be the next time.

    Args:
        message: Why.
        code: The problem's, if the service said it.
    """

    exit_code = 2

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class NotInTime(Exception):
    """The job had not ended by the deadline."""


class Client(Protocol):
    """What the commands ask for. All of it blocks, and raises click.ClickException with what went wrong."""

    def submit(self, task: str, given: Any, options: dict[str, Any]) -> Job: ...
    def get(self, job_id: str) -> Job: ...
    def large_result(self, job_id: str) -> Any: ...
    def find(self, limit: int, **narrowed: Any) -> Iterator[Job]: ...
    def cancel(self, job_id: str, *, terminate: bool) -> Job: ...
    def retry(self, job_id: str) -> Job: ...
    def change(self, job_id: str, asked: Mapping[str, Any]) -> Job: ...
    def delete(self, job_id: str) -> Job: ...
    def operate(self, action: str, narrowed: Mapping[str, Any], *, dry_run: bool, terminate: bool) -> Iterator[Job]: ...
    def follow(self, job_id: str, timeout: float | None) -> Iterator[Event]: ...
    def attempts(self, job_id: str) -> list[dict[str, Any]]: ...
    def tasks(self) -> list[str]: ...
    def close(self) -> None: ...


def connect() -> Client:
    """
    Return the client: of the service at TCB_URL, or else of the app's ledger.

    Raises:
        SettingsError: There is neither.
    """
    if url := os.environ.get("TCB_URL"):
        return Http(url, os.environ.get("TCB_KEY", ""))
    try:
        return InLedger()
    except SettingsError as exc:
        port = Settings.from_environment().port
        raise SettingsError(f"{exc}. Or set TCB_URL to the service's address, as in http://127.0.0.1:{port}") from exc


class Http:
    """
    The service's HTTP API.

    Args:
        url: Where the service is, with its prefix if it has one.
        key: An API key; empty for none.
    """

    def __init__(self, url: str, key: str = "") -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def close(self) -> None:
        """Do nothing: each request has a connection of its own."""

    def fetch(self, path: str, body: Any = None, **headers: str) -> Any:
        """
        Return an answer, which is a JSON object.

        Raises:
            click.ClickException: What the service says is wrong, or why it was not reached.
            SettingsError: What answers is not the service.
        """
        with self._open(path, body, headers) as answer:
            document = _json(answer)
            if not isinstance(document, dict):
                raise _no_service(answer, "no JSON object")
            return document

    def _open(
        self,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
        method: str | None = None,
    ) -> HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        sent = {**self._headers, **({"Content-Type": "application/json"} if data else {}), **(headers or {})}
        try:
            request = urllib.request.Request(f"{self._url}{path}", data, sent, method=method)
            opened: HTTPResponse = urllib.request.urlopen(request, timeout=timeout)
        except urllib.error.HTTPError as exc:
            raise _refused(exc) from exc
        except ValueError as exc:
            raise SettingsError(f"TCB_URL={self._url}: {exc}; as in http://127.0.0.1:8888") from exc
        except (OSError, HTTPException) as exc:
            raise click.ClickException(f"{self._url}: {getattr(exc, 'reason', exc)}") from exc
        return opened

    def submit(self, task: str, given: Any, options: dict[str, Any]) -> Job:
        """Submit a job; an answer that was lost is asked for again, and is no second job."""
        body, key = {"input": given, "options": options}, f'"{uuid.uuid4()}"'
        path = f"/v1/tasks/{urllib.parse.quote(task, safe='')}/jobs"
        headers = {"Idempotency-Key": key, "Prefer": "respond-async"}
        try:
            made: Job = self._again(path, body, headers)
        except Wrong as exc:
            if exc.code != "unknown-task":
                raise
            served = self.tasks()
            told = _some(served) if served else "none: exposed=True in a task's options serves it, or tcb up --expose"
            raise Wrong(f"{exc.message} The service has {told}") from exc
        return made

    def retry(self, job_id: str) -> Job:
        """Submit a job again, with the same input."""
        made: Job = self._again(f"{_path(job_id)}/retry", {}, {"Idempotency-Key": f'"{uuid.uuid4()}"'})
        return made

    def _again(self, path: str, body: Any, headers: dict[str, str]) -> Any:
        for tries in range(3):
            try:
                return self.fetch(path, body, **headers)
            except Wrong:
                raise
            except click.ClickException:
                if tries == 2:
                    raise
                time.sleep(PAUSE)
        raise AssertionError

    def get(self, job_id: str) -> Job:
        """Return a job."""
        job: Job = self.fetch(_path(job_id))
        return job

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        """Return a job's attempts, the first one first."""
        found: list[dict[str, Any]] = self.fetch(f"{_path(job_id)}/attempts")["attempts"]
        return found

    def large_result(self, job_id: str) -> Any:
        """Return a result that is too large to stand in its job."""
        with self._open(f"{_path(job_id)}/result") as answer:
            return _json(answer)

    def find(self, limit: int, **narrowed: Any) -> Iterator[Job]:
        """Yield jobs, newest first, by the parameters of ``GET /v1/jobs``."""
        cursor = None
        while limit > 0:
            asked = {**narrowed, "limit": min(limit, PAGE), "cursor": cursor}
            query = urllib.parse.urlencode({name: each for name, each in asked.items() if each}, doseq=True)
            page = self.fetch(f"/v1/jobs?{query}")
            yield from page["jobs"]
            limit, cursor = limit - len(page["jobs"]), page["next_cursor"]
            if cursor is None:
                return

    def cancel(self, job_id: str, *, terminate: bool) -> Job:
        """Cancel a job; return it."""
        job: Job = self.fetch(f"{_path(job_id)}/cancel", {"terminate": terminate})
        return job

    def change(self, job_id: str, asked: Mapping[str, Any]) -> Job:
        """Change a job that waits; return it."""
        headers = {"Content-Type": "application/merge-patch+json"}
        with self._open(_path(job_id), asked, headers, method="PATCH") as answer:
            job: Job = _json(answer)
        return job

    def delete(self, job_id: str) -> Job:
        """Delete a job that has ended; return what is left of it."""
        self._open(_path(job_id), method="DELETE").close()
        return {"id": job_id}

    def operate(self, action: str, narrowed: Mapping[str, Any], *, dry_run: bool, terminate: bool) -> Iterator[Job]:
        """Yield an operation on all jobs that fit, again and again up to its end."""
        body = {"action": action, "filter": narrowed, "dry_run": dry_run, "terminate": terminate}
        operation: Job = self.fetch("/v1/operations", body, Prefer="wait=1")
        yield operation
        while not operation["done"]:
            operation = self._again(f"/v1/operations/{operation['id']}", None, {"Prefer": "wait=1"})
            yield operation

    def tasks(self) -> list[str]:
        """Return the names of the tasks."""
        return [task["name"] for task in self.fetch("/v1/tasks")["tasks"]]

    def follow(self, job_id: str, timeout: float | None) -> Iterator[Event]:
        """
        Yield a job's events to its end, over lost connections and restarts of the service.

        Raises:
            NotInTime: *timeout* seconds have passed.
        """
        deadline = time.monotonic() + timeout if timeout is not None else None
        seen, failed = "", 0
        while True:
            left = SILENCE if deadline is None else min(SILENCE, deadline - time.monotonic())
            if left <= 0:
                raise NotInTime
            try:
                headers = {"Last-Event-ID": seen} if seen else {}
                with self._open(f"{_path(job_id)}/events", headers=headers, timeout=left) as stream:
                    if stream.status == 204:
                        return
                    if stream.headers.get_content_type() != "text/event-stream":
                        raise _no_service(stream, "no events")
                    for kind, data, number in _frames(stream):
                        seen, failed = number or seen, 0
                        if kind == "close":
                            break
                        yield Event(kind, data)
                        if kind == "end":
                            return
                        if deadline is not None and time.monotonic() > deadline:
                            raise NotInTime
            except (OSError, HTTPException):
                pass  # it was silent for too long, or the connection is lost
            except Wrong:
                raise
            except click.ClickException:
                failed += 1
                if failed > TRIES:
                    raise
            time.sleep(PAUSE if deadline is None else max(0.0, min(PAUSE, deadline - time.monotonic())))


def _path(job_id: str) -> str:
    return f"/v1/jobs/{urllib.parse.quote(job_id, safe='')}"


def _json(answer: HTTPResponse) -> Any:
    try:
        return json.load(answer)
    except ValueError as exc:
        raise _no_service(answer, "no JSON") from exc


def _no_service(answer: HTTPResponse | urllib.error.HTTPError, what: str) -> SettingsError:
    return SettingsError(f"{answer.url} answers {what}: is that the service?")


def _refused(answer: urllib.error.HTTPError) -> Exception:
    """Return what a problem says; one that will be the same the next time is :class:`Wrong`."""
    with answer:
        try:
            problem = json.load(answer)
            said = [problem["detail"], *(f"{each['pointer']}: {each['detail']}" for each in problem.get("errors", ()))]
        except (ValueError, KeyError, TypeError, OSError):
            told = f"{answer.code} {answer.reason}"
            if answer.code < 500:
                return _no_service(answer, told)
            return click.ClickException(f"{answer.url} answers {told}")
    if answer.code == 401:
        return SettingsError(f"{said[0]} Set TCB_KEY to one")
    if answer.code < 500 and answer.code != 429:
        return Wrong("\n  ".join(said), problem.get("code", ""))
    return click.ClickException("\n  ".join(said))


def _frames(stream: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield kind, data and id of the events in a stream, as the HTML standard has them (9.2.6)."""
    fields = dict[str, str]()
    for line in stream:
        name, _, given = line.decode().rstrip("\r\n").partition(":")
        if name:
            fields[name] = given.removeprefix(" ")
        elif "data" in fields:
            yield fields.get("event", "message"), json.loads(fields["data"]), fields.get("id", "")
            fields = {}


class InLedger:
    """
    The app's ledger. A job is shown as the service shows it, so the extra ``service`` has to be there.

    Raises:
        SettingsError: The app can't be imported, or has no ledger.
    """

    def __init__(self) -> None:
        from tornado_celery_bridge.cli.deployment import load

        self._app = load()
        self._runner = asyncio.Runner()
        self._bridge = self._run(Bridge(self._app).start())

    def close(self) -> None:
        """Close all connections."""
        with self._runner:
            self._runner.run(self._bridge.close())

    def _run(self, work: Any) -> Any:
        from celery.exceptions import ImproperlyConfigured, QueueNotFound
        from kombu.exceptions import EncodeError

        try:
            return self._runner.run(work)
        except (TypeError, EncodeError, QueueNotFound) as exc:
            raise Wrong(str(exc)) from exc
        except ImproperlyConfigured as exc:
            raise SettingsError(str(exc)) from exc
        except BridgeError as exc:
            raise click.ClickException(str(exc)) from exc

    def tasks(self) -> list[str]:
        """Return the names of the app's own tasks."""
        return sorted(name for name in self._app.tasks if not name.startswith("celery."))

    def submit(self, task: str, given: Any, options: dict[str, Any]) -> Job:
        """Submit a job of any of the app's tasks."""
        if task not in self._app.tasks:
            raise Wrong(f"{Settings.from_environment().celery_app} has no task {task!r}; it has {_some(self.tasks())}")
        return self.get(self._run(self._submit(task, given, options)))

    async def _submit(self, task: str, given: Any, options: dict[str, Any], **more: Any) -> str:
        """Submit a job; return its id."""
        from tornado_celery_bridge.transports import Priorities

        options = dict(options)
        tags = options.pop("tags", [])
        if "priority" in options:
            options["priority"] = Priorities(self._app).to_broker(options["priority"])
        args, kwargs = (given, {}) if isinstance(given, list) else ((), given or {})
        made = await self._bridge.submit(task, args, kwargs, tags=tags, **more, **options)
        return str(made.id)

    def get(self, job_id: str) -> Job:
        """Return a job."""
        return _document(self._job(job_id), traceback=True)

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        """Return a job's attempts, the first one first."""
        from tornado_celery_bridge.service.resources.jobs.attempts import attempts

        self._job(job_id)
        found = self._run(self._bridge.ledger.jobs.attempts(job_id))
        return [{**each} for each in attempts(found, traceback=True)["attempts"]]

    def _job(self, job_id: str) -> Any:
        return self._run(self._known(job_id))

    async def _known(self, job_id: str) -> Any:
        from tornado_celery_bridge.ledger import Gone

        job = await self._bridge.ledger.jobs.get(job_id)
        if job is None:
            raise Wrong(f"there is no job {job_id!r}")
        if isinstance(job, Gone):
            raise Wrong(f"the job {job_id!r} has expired: nothing of it is kept")
        return job

    def large_result(self, job_id: str) -> Any:
        """Return a result that is too large to stand in its job: of the ledger, or of the store that it is in."""
        stored = self._job(job_id).stored
        if stored is None:
            return json.loads(self._run(self._bridge.ledger.jobs.result_of(job_id)))
        if self._bridge.store is None:
            raise SettingsError("the result is in the store of the workers, and the app here has no job_store_url")
        try:
            return json.loads(self._bridge.store.read(stored))
        except BridgeError as exc:
            raise click.ClickException(str(exc)) from exc

    def find(self, limit: int, **narrowed: Any) -> Iterator[Job]:
        """Yield jobs, newest first."""
        asked, cursor = _filter(narrowed), None
        while limit > 0:
            found = self._bridge.ledger.jobs.find(asked, limit=min(limit, PAGE), cursor=cursor)
            page = self._run(found)
            yield from map(_listed, page.jobs)
            limit, cursor = limit - len(page.jobs), page.cursor
            if cursor is None:
                return

    def cancel(self, job_id: str, *, terminate: bool) -> Job:
        """Cancel a job; return it."""
        self._job(job_id)
        self._run(self._bridge.ledger.jobs.cancel(job_id, grace=GRACE if terminate else None))
        return self.get(job_id)

    def retry(self, job_id: str) -> Job:
        """Submit a job again that has ended, with the same input."""
        return self.get(self._run(self._retry(job_id)))

    async def _retry(self, job_id: str, made_id: str | None = None) -> str:
        """Submit a job again, under an id if there is one; return the new job's."""
        from tornado_celery_bridge.ledger.submission import SENT_AGAIN

        job = await self._known(job_id)
        if not job.done:
            raise Wrong("the job has not ended: cancel it first, or wait for it")
        written = await self._bridge.ledger.jobs.input_of(job_id)
        given = None if written is None else json.loads(written)
        if not isinstance(given, list | dict):
            raise Wrong("the job's input is not in the ledger, as it is large: set TCB_URL, and retry it over HTTP")
        record = job.record
        kept = set(SENT_AGAIN) - {"eta", "countdown", "expires"}
        options = {name: each for name, each in record.options.items() if name in kept}
        more = {"owner": record.owner, "retry_of": job_id, "task_id": made_id}
        return await self._submit(record.task, given, options | {"tags": record.tags}, **more)

    def change(self, job_id: str, asked: Mapping[str, Any]) -> Job:
        """Refuse: what a job is changed to is checked by the service."""
        raise Wrong("set TCB_URL: a job is changed over HTTP, where what it is changed to is checked")

    def delete(self, job_id: str) -> Job:
        """Delete a job that has ended; return what is left of it."""
        self._job(job_id)
        if why := self._run(self._bridge.ledger.jobs.delete(job_id)):
            raise Wrong(f"the job is not deleted: {why}")
        return {"id": job_id}

    def operate(self, action: str, narrowed: Mapping[str, Any], *, dry_run: bool, terminate: bool) -> Iterator[Job]:
        """Yield an operation on all jobs that fit, again and again up to its end. It is carried on here."""
        from tornado_celery_bridge.ledger.operations import BY_LEDGER
        from tornado_celery_bridge.service.resources.links import Links
        from tornado_celery_bridge.service.resources.operations import documents

        operations, asked = self._bridge.ledger.operations, _filter(narrowed)
        grace = GRACE if terminate else None
        begun: Any = operations.begin(action, asked, by=BY_LEDGER, dry_run=dry_run, grace=grace, mine=True)
        operation = self._run(begun)
        if operation is None:
            raise click.ClickException("a hundred operations are under way: wait for one")
        while operation.state == "RUNNING":
            self._run(operations.carry(operation, self._retry_one))
            operation = self._run(operations.get(operation.id))
            yield {**documents.operation(operation, Links())}

    async def _retry_one(self, _: Any, job_id: str, made_id: str) -> str | None:
        """Submit a job again for an operation; return why it is refused."""
        from tornado_celery_bridge.ledger import Waits

        try:
            await self._retry(job_id, made_id)
        except Wrong as exc:
            return exc.message
        except (TypeError, ValueError, LookupError) as exc:  # the arguments do not fit, or the queue is not there
            return type(exc).__name__
        except BridgeError as exc:
            raise Waits(str(exc)) from exc
        return None

    def follow(self, job_id: str, timeout: float | None) -> Iterator[Event]:
        """
        Yield a job's events to its end.

        Raises:
            NotInTime: *timeout* seconds have passed.
        """
        from dataclasses import replace

        from tornado_celery_bridge.ledger import Job as Accepted
        from tornado_celery_bridge.service.resources.jobs.frames import UNTOLD

        shown: Any = Accepted(record=self._job(job_id).record)
        yield Event("state", _document(shown))
        deadline = time.monotonic() + timeout if timeout is not None else None
        with self._run(_called(self._bridge.ledger.events.follow, job_id)) as events:
            iterator: AsyncIterator[Any] = aiter(events)
            while True:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                try:
                    event = self._run(asyncio.wait_for(anext(iterator), left))
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise NotInTime from None
                if event.kind == "state":
                    shown = replace(shown, **UNTOLD | json.loads(event.data))
                elif event.kind in ("snapshot", "changed", "end"):
                    shown = self._job(job_id)
                else:
                    yield Event(event.kind, json.loads(event.data))
                    continue
                yield Event(event.kind, _document(replace(shown, queue_depth=None), traceback=True))


def _filter(narrowed: Mapping[str, Any]) -> Any:
    """Return the ledger's filter for the parameters of ``GET /v1/jobs``."""
    from datetime import datetime

    from tornado_celery_bridge.ledger import Filter

    given: dict[str, Any] = {**narrowed}
    for name in given.keys() & {"since", "until"}:
        given[name] = datetime.fromisoformat(given[name]).timestamp()
    return Filter(tags=tuple(given.pop("tag", ())), **given)


async def _called(function: Any, *args: Any) -> Any:
    """Call what needs a running loop."""
    return function(*args)


def _listed(job: Any) -> Job:
    from tornado_celery_bridge.service.resources.jobs import documents
    from tornado_celery_bridge.service.resources.links import Links

    return {**documents.listed(job, Links())}


def _document(job: Any, *, traceback: bool = False) -> Job:
    from tornado_celery_bridge.service.resources.jobs import documents
    from tornado_celery_bridge.service.resources.links import Links

    return {**documents.job(job, Links(), traceback=traceback)}


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "") if names else "none"

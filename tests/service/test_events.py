"""Server-sent events, read as a client reads them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from tests.service.site import Service, nothing_new, problem, tasks_of, until
from tornado_celery_bridge.service.resources.jobs import endpoint, streams
from tornado_celery_bridge.service.resources.jobs import frames as events


class Event(NamedTuple):
    name: str | None
    data: Any
    id: str | None
    comment: str | None


class Stream:
    """A connection that reads a job's events."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int) -> None:
        self.reader, self.writer, self.status = reader, writer, status

    async def next(self) -> Event | None:
        """Return the next event; None at the stream's end. Each is written as one chunk."""
        size = int(await asyncio.wait_for(self.reader.readline(), 30) or b"0", 16)
        chunk = (await self.reader.readexactly(size + 2))[:-2]
        if not size:
            return None
        fields = dict(line.split(": ", 1) for line in chunk.decode().splitlines() if line)
        data = fields.get("data")
        return Event(fields.get("event"), data and json.loads(data), fields.get("id"), fields.get(""))

    async def rest(self) -> list[Event]:
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found


@asynccontextmanager
async def reading(service: Service, job_id: str, query: str = "") -> AsyncIterator[Stream]:
    path = f"/v1/jobs/{job_id}/events" if job_id else "/v1/events"
    head = f"GET {path}{query} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    reader, writer = await service.raw(head.encode())
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert b"\r\nContent-Type: text/event-stream\r\n" in answer
    try:
        yield Stream(reader, writer, int(answer.split()[1]))
    finally:
        writer.close()


async def submitted(service: Service, task: str, body: Any) -> str:
    job_id: str = json.loads((await service.submit(task, body)).body)["id"]
    return job_id


async def test_states_progress_and_end(service: Service) -> None:
    job_id = await submitted(service, "s.steps", {"input": {"count": 4}, "options": {"countdown": 0.5}})
    async with reading(service, job_id) as stream:
        told = await stream.rest()
    assert [event.name for event in told][:1] == ["state"]
    assert told[0].data["state"] == "PENDING"
    assert "STARTED" in [event.data["state"] for event in told if event.name == "state"]
    steps = [event.data for event in told if event.name == "progress"]
    assert steps == [{"current": n, "total": 4, "message": f"step {n}"} for n in range(1, 5)]
    assert told[-1].name == "end"
    assert told[-1].data["result"] == 4
    assert told[-1].data == json.loads((await service.fetch(f"/v1/jobs/{job_id}")).body)


async def test_checkpoints(service: Service) -> None:
    job_id = await submitted(service, "s.goes_on", {})
    async with reading(service, job_id) as stream:
        told = await stream.rest()
    assert [event.name for event in told] == ["state", "state", "checkpoint", "checkpoint", "end"]
    first, last = (event.data for event in told if event.name == "checkpoint")
    assert first == {"saved_at": first["saved_at"], "attempt": 1, "size": len('{"items":{"done": 1}}')}
    assert last["saved_at"] == told[-1].data["checkpoint"]["saved_at"]


async def test_items(service: Service) -> None:
    job_id = await submitted(service, "s.yields", {"input": {"count": 3}})
    async with reading(service, job_id) as stream:
        told = await stream.rest()
    assert [event.name for event in told] == ["state", "state", "item", "item", "item", "end"]
    items = [event.data for event in told if event.name == "item"]
    assert items == [{"attempt": 1, "number": n, "value": {"x": n - 1, "y": 0}} for n in (1, 2, 3)]
    assert (told[-1].data["items"], told[-1].data["result"]) == (3, "done")
    async with reading(service, job_id, f"?after={told[3].id}") as stream:
        assert await stream.rest() == told[4:]
    path = told[-1].data["links"]["items"]
    first = json.loads((await service.fetch(f"{path}?limit=2")).body)
    rest = json.loads((await service.fetch(f"{path}?limit=2&cursor={first['next_cursor']}")).body)
    expected = [{"id": int(event.id or ""), **event.data} for event in told if event.name == "item"]
    assert first == {"items": expected[:2], "next_cursor": str(expected[1]["id"])}
    assert rest == {"items": expected[2:], "next_cursor": None}
    problem(await service.fetch(f"{path}?cursor=x"), 400, "invalid-cursor")
    problem(await service.fetch("/v1/jobs/none/items"), 404, "unknown-job")


async def test_nothing_comes_after_the_end(service: Service) -> None:
    job_id = await submitted(service, "s.fail", {})
    async with reading(service, job_id) as stream:
        told = await stream.rest()
    assert told[-1].data["error"]["detail"] == "as asked"
    assert told[-1].id
    path = f"/v1/jobs/{job_id}/events"
    again = await service.fetch(path, headers={"Last-Event-ID": told[-1].id})
    assert (again.code, again.body) == (204, b"")
    async with reading(service, job_id) as stream:
        assert await stream.rest() == told
    problem(await service.fetch(path, headers={"Last-Event-ID": "another"}), 400, "invalid-event-id")


async def test_comments_in_the_silence(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE", 0.05)
    job_id = await submitted(service, "s.nap", {"input": [0.5]})
    async with reading(service, job_id) as stream:
        told = await stream.rest()
    assert [event.comment for event in told].count("still here") >= 3
    assert told[-1].name == "end"


async def test_a_shutdown_says_so(service: Service) -> None:
    job_id = await submitted(service, "s.add", {"input": [1], "options": {"queue": "quiet"}})
    async with reading(service, job_id) as stream:
        first = await stream.next()
        assert first is not None
        assert first.name == "state"
        service.lifecycle.closing.set()
        (last,) = await stream.rest()
    assert (last.name, last.data) == ("close", {"reason": "shutting-down"})


async def test_a_reader_that_leaves_leaves_nothing(service: Service) -> None:
    job_id = await submitted(service, "s.add", {"input": [1], "options": {"queue": "quiet"}})
    before = await tasks_of(service)
    async with reading(service, job_id) as stream:
        await stream.next()
        assert service.jobs.ledger.events.following == 1
    await until(lambda: not service.lifecycle._requests)
    assert service.jobs.ledger.events.following == 0
    await nothing_new(before)


async def test_a_slow_reader_is_dropped(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "WRITE_TIMEOUT", 0.2)
    text = "x" * 900_000  # comes back more often than any socket's buffers hold
    made = json.loads((await service.submit("s.echo", {"input": {"value": text}}, wait=20)).body)

    async def often(*args: Any) -> AsyncIterator[events.Frame]:
        for _ in range(100):
            yield events.Frame("state", text)

    monkeypatch.setattr(streams, "frames", often)
    _, writer = await service.raw(f"GET {made['links']['events']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await until(lambda: service.lifecycle._requests)
    await until(lambda: not service.lifecycle._requests)
    writer.close()


async def test_events_of_no_job(service: Service) -> None:
    problem(await service.fetch("/v1/jobs/none/events"), 404, "unknown-job")


async def test_each_event_once_in_order_wherever_the_connection_was_cut(service: Service) -> None:
    job_id = await submitted(service, "s.steps", {"input": {"count": 20}})
    told: list[Event] = []
    while not told or told[-1].name != "end":
        position = f"?after={told[-1].id}" if told else ""
        async with reading(service, job_id, position) as stream:
            for _ in range(5):
                event = await stream.next()
                if event is None:
                    break
                told.append(event)
    assert [int(event.id or -1) for event in told] == list(range(len(told)))
    assert [event.data["current"] for event in told if event.name == "progress"] == list(range(1, 21))


async def test_what_a_job_logs(service: Service) -> None:
    job_id = await submitted(service, "s.log", {"input": {"lines": 3}})
    async with reading(service, job_id) as stream:
        told = await stream.rest()
    lines = [event.data for event in told if event.name == "log"]
    assert [line["message"] for line in lines] == ["line 0", "line 1", "line 2"]
    assert {line["level"] for line in lines} == {"WARNING"}


async def test_history_that_is_no_longer_kept_begins_with_a_snapshot(service: Service) -> None:
    job_id = await submitted(service, "s.steps", {"input": {"count": 5}})
    async with reading(service, job_id) as stream:
        told = await stream.rest()
    redis = service.jobs.ledger.redis.client
    await redis.ltrim(f"{{tcb}}events:{job_id}", -2, -1)
    async with reading(service, job_id, "?after=1") as stream:
        names = [event.name for event in await stream.rest()]
    assert names == ["snapshot", "progress", "end"]
    await redis.delete(f"{{tcb}}events:{job_id}")  # as it expires, some time after the end
    async with reading(service, job_id, "?after=1") as stream:
        (snapshot, end) = await stream.rest()
    assert (snapshot.name, end.name, end.id) == ("snapshot", "end", told[-1].id)
    assert end.data == told[-1].data


async def test_several_jobs_in_one_stream(service: Service) -> None:
    ids = [await submitted(service, "s.steps", {"input": {"count": count}}) for count in (3, 6)]
    query = f"?job={ids[0]}&job={ids[1]}"
    told: list[Event] = []
    while sum(event.name == "end" for event in told) < 2:
        async with reading(service, "", f"{query}&after={told[-1].id if told else ''}") as stream:
            for _ in range(4):
                event = await stream.next()
                if event is None:
                    break
                told.append(event)
    for job_id, count in zip(ids, (3, 6), strict=True):
        steps = [event.data["data"] for event in told if event.name == "progress" and event.data["job"] == job_id]
        assert [step["current"] for step in steps] == list(range(1, count + 1))
        assert [event.data["data"]["result"] for event in told if event.name == "end" and event.data["job"] == job_id]
    assert (await service.fetch(f"/v1/events{query}&after={told[-1].id}")).code == 204
    problem(await service.fetch(f"/v1/events{query}&after=1"), 400, "invalid-event-id")
    problem(await service.fetch("/v1/events"), 400, "invalid-query")
    problem(await service.fetch(f"/v1/events{query}&job=none"), 404, "unknown-job")
    await until(lambda: service.jobs.ledger.events.following == 0)


async def test_all_jobs_with_a_tag_in_one_stream(service: Service) -> None:
    def tagged(count: int, *tags: str, **more: Any) -> dict[str, Any]:
        return {"input": {"count": count}, "options": {"tags": ["stream", *tags], **more}}

    assert (await service.fetch("/v1/events?tag=stream")).code == 204
    await service.submit("s.steps", tagged(1), wait=10)
    assert (await service.fetch("/v1/events?tag=stream")).code == 204
    ids = [await submitted(service, "s.steps", tagged(count, countdown=1)) for count in (3, 6)]
    told: list[Event] = []
    while sum(event.name == "end" for event in told) < 2:
        async with reading(service, "", f"?tag=stream&after={told[-1].id if told else ''}") as stream:
            for _ in range(4):
                event = await stream.next()
                if event is None:
                    break
                told.append(event)
        if len(told) == 4:
            later = await submitted(service, "s.steps", tagged(1, "later"))
    assert later not in {event.data["job"] for event in told}
    for job_id, count in zip(ids, (3, 6), strict=True):
        mine = [event for event in told if event.data["job"] == job_id]
        steps = [event.data["data"]["current"] for event in mine if event.name == "progress"]
        assert steps == list(range(1, count + 1))
        assert (mine[0].name, mine[-1].name) == ("state", "end")
    assert (await service.fetch(f"/v1/events?tag=stream&after={told[-1].id}")).code == 204
    for query, code in {
        "tag=stream&after=1": "invalid-event-id",
        f"tag=stream&after={(told[-1].id or '').partition(':')[0]}:1": "invalid-event-id",
        "tag=": "invalid-query",
        f"tag=stream&job={later}": "invalid-query",
    }.items():
        problem(await service.fetch(f"/v1/events?{query}"), 400, code)
    await until(lambda: service.jobs.ledger.events.following == 0)


# What a client has had, as it says.


async def test_an_event_that_there_was_not_yet(service: Service) -> None:
    """The ledger may have lost it, or the client made it up: the stream goes on from what there is."""
    job_id = await submitted(service, "s.nap", {"input": [1]})
    async with reading(service, job_id, "?after=999") as stream:
        told = await stream.rest()
    assert told[0].name == "snapshot"
    assert [event.name for event in told].count("end") == 1
    assert told[-1].data["state"] == "SUCCESS"
    other = await submitted(service, "s.nap", {"input": [1]})
    async with reading(service, "", f"?job={job_id}&job={other}&after=999.999") as stream:
        told = await stream.rest()
    assert [(event.name, event.data["job"]) for event in told if event.name == "end"] == [("end", other)]


async def test_many_silent_jobs_send_one_sign_of_life(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE", 0.3)
    later = {"input": [1], "options": {"countdown": 60, "tags": ["silent"]}}
    ids = [await submitted(service, "s.add", later) for _ in range(20)]
    async with reading(service, "", "?tag=silent") as stream:
        states = [await stream.next() for _ in ids]
        assert all(event and event.name == "state" for event in states)
        began = asyncio.get_running_loop().time()
        comments = [await stream.next() for _ in range(4)]
        assert {event and event.comment for event in comments} == {"still here"}
        assert asyncio.get_running_loop().time() - began > 0.9
    for job_id in ids:
        await service.post(f"/v1/jobs/{job_id}/cancel", {})


async def test_a_forgotten_job_ends_no_stream_of_others(service: Service) -> None:
    ledger = service.jobs.ledger
    gone, other = [await submitted(service, "s.add", {"input": [1]}) for _ in range(2)]
    for job_id in (gone, other):
        await service.fetch(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=20"})
    packed: Any = await ledger.redis.client.zrange(f"{ledger.redis.prefix}due", 0, -1)
    [key] = [each for each in packed if each.hex() == gone.replace("-", "")]
    await ledger.redis.client.zadd(f"{ledger.redis.prefix}due", {key: 0})
    await ledger.jobs.sweep()
    assert (await service.fetch(f"/v1/jobs/{gone}")).code == 410
    async with reading(service, "", f"?job={gone}&job={other}") as stream:
        told = await stream.rest()
    assert (told[0].name, told[0].data) == ("gone", {"job": gone, "data": None})
    assert (told[-1].name, told[-1].data["job"]) == ("end", other)
    assert (await service.fetch(f"/v1/events?job={gone}&job={other}&after={told[-1].id}")).code == 204
    problem(await service.fetch(f"/v1/events?job={gone}"), 410, "expired-job")
    assert (await service.fetch(f"/v1/events?job={gone}&after=3")).code == 204


async def test_a_tag_is_taken_as_it_is(service: Service) -> None:
    """In a stream as in a list."""
    options = {"tags": [" lead"], "countdown": 60}
    job_id = await submitted(service, "s.add", {"input": [1], "options": options})
    found = json.loads((await service.fetch("/v1/jobs?tag=%20lead")).body)["jobs"]
    assert [job["id"] for job in found] == [job_id]
    async with reading(service, "", "?tag=%20lead") as stream:
        first = await stream.next()
        assert first is not None
        assert first.data["job"] == job_id
    assert (await service.fetch("/v1/events?tag=lead")).code == 204
    await service.post(f"/v1/jobs/{job_id}/cancel", {})

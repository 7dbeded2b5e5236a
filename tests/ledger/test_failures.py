"""Groups of failures: what is one, what it counts, how it ends, and how many there may be."""

import asyncio
from typing import Any

import pytest
from celery import Celery

from tests.ledger.records import accept, begin, record
from tornado_celery_bridge.ledger import Filter, Ledger, calls
from tornado_celery_bridge.ledger.blocking import WorkerLedger
from tornado_celery_bridge.worker.errors import place_of

MOST = 30


async def fail(
    ledger: Ledger, worker: WorkerLedger, job_id: str, message: str = "no", place: str = "a.py in f", **fields: Any
) -> None:
    made = record(job_id, **fields)
    assert (await accept(ledger, made, {})).kind == "accepted"
    assert await begin(worker, job_id, "token", task=made.task) == "go"
    error = {"type": "E", "module": "m", "message": message}
    await asyncio.to_thread(worker.finish, job_id, "FAILURE", error, "token", place=place)


async def ids(ledger: Ledger, group: str) -> list[str]:
    return sorted(job.record.id for job in (await ledger.jobs.find(Filter(failure=group))).jobs)


async def test_alike_is_the_owner_the_task_what_was_raised_and_where(ledger: Ledger, worker: WorkerLedger) -> None:
    await fail(ledger, worker, "a", "first")
    await fail(ledger, worker, "b", "second")
    await fail(ledger, worker, "c", place="a.py in g")
    await fail(ledger, worker, "d", task="other")
    await fail(ledger, worker, "e", owner="alice")
    newest, *_, oldest = groups = await ledger.failures.groups()
    assert len(groups) == 4
    assert (newest.owner, newest.times, newest.first_seen) == ("alice", 1, newest.last_seen)
    assert oldest._replace(id="", first_seen=0, last_seen=0) == (
        *("", "", "t", "m.E", "a.py in f", "second", 0, 0, 2, 2),
    )
    assert oldest.first_seen <= oldest.last_seen <= newest.last_seen
    assert await ids(ledger, oldest.id) == ["a", "b"]
    assert [group.owner for group in await ledger.failures.groups("alice")] == ["alice"]
    assert len(await ledger.failures.groups("")) == 3
    assert await ledger.failures.groups("bob") == []


async def test_only_failures_are_in_it(ledger: Ledger, worker: WorkerLedger) -> None:
    for job_id, state in (("a", "SUCCESS"), ("b", "REVOKED")):
        await accept(ledger, record(job_id), {})
        await begin(worker, job_id, "token")
        await asyncio.to_thread(worker.finish, job_id, state, {"type": "E", "module": "m", "message": "no"}, "token")
    assert await ledger.failures.groups() == []


async def test_a_job_that_was_given_up_is_in_it(ledger: Ledger, worker: WorkerLedger) -> None:
    await accept(ledger, record("a"), {})
    for token in "123":
        await begin(worker, "a", token)
        await asyncio.to_thread(worker.lease, "w@here", [], [("a", token)])
        await asyncio.to_thread(worker.reconcile, "me", 5.0, 10, [])
    (group,) = await ledger.failures.groups()
    assert (group.exception, group.place) == ("billiard.exceptions.WorkerLostError", "")
    assert "3 workers were lost" in group.detail


async def test_a_retry_takes_its_job_out_and_one_that_is_withdrawn_puts_it_back(
    ledger: Ledger, worker: WorkerLedger
) -> None:
    await fail(ledger, worker, "a")
    (group,) = await ledger.failures.groups()
    again = record("b")
    object.__setattr__(again, "retry_of", "a")
    await accept(ledger, again, {})
    assert (await ledger.failures.groups())[0]._replace(jobs=1) == group
    assert await ids(ledger, group.id) == []
    await ledger.jobs.withdraw("b")
    assert await ids(ledger, group.id) == ["a"]
    await accept(ledger, again, {})
    await ledger.failures.resolve(group.id)
    await ledger.jobs.withdraw("b")
    assert await ledger.failures.groups() == []
    assert await ids(ledger, group.id) == []


async def test_resolved_is_gone_until_it_fails_again(ledger: Ledger, worker: WorkerLedger) -> None:
    await fail(ledger, worker, "a")
    (group,) = await ledger.failures.groups()
    await ledger.failures.resolve(group.id)
    assert await ledger.failures.groups() == []
    await fail(ledger, worker, "b")
    (again,) = await ledger.failures.groups()
    assert (again.id, again.times) == (group.id, 1)
    assert await ids(ledger, group.id) == ["b"]


async def test_what_is_forgotten_leaves_its_group(ledger: Ledger, worker: WorkerLedger) -> None:
    ledger.jobs.ttl = 0.0
    await fail(ledger, worker, "a")
    (group,) = await ledger.failures.groups()
    while await ledger.jobs.sweep():
        pass
    assert await ids(ledger, group.id) == []
    (left,) = await ledger.failures.groups()
    assert (left.times, left.jobs) == (1, 0)


async def test_it_is_bounded(ledger: Ledger, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = "local MAX_GROUPS = {}\n"
    assert bound.format(500) in calls.finish.text
    monkeypatch.setattr(calls.finish, "text", calls.finish.text.replace(bound.format(500), bound.format(MOST)))
    worker = await asyncio.to_thread(WorkerLedger, app)
    detail, place = "ö" * 5_000, "p" * 5_000
    await fail(ledger, worker, "of-alice", owner="alice")
    for number in range(MOST + 20):
        await fail(ledger, worker, f"job-{number}", detail, f"{number} {place}")
    # The bound is each owner's: nobody's groups push out another's.
    assert [group.owner for group in await ledger.failures.groups("alice")] == ["alice"]
    await ledger.failures.resolve((await ledger.failures.groups("alice"))[0].id)
    assert await ledger.failures.groups("alice") == []
    groups = await ledger.failures.groups()
    assert len(groups) == MOST
    assert {group.place.split()[0] for group in groups} == {str(number) for number in range(20, MOST + 20)}
    assert len(await ledger.redis.call("KEYS", f"{ledger.redis.prefix}failure:*")) == MOST
    assert len(await ledger.redis.call("KEYS", f"{ledger.redis.prefix}index:failure:*")) == MOST
    size = sum(
        await asyncio.gather(
            *(ledger.redis.call("MEMORY", "USAGE", f"{ledger.redis.prefix}failure:{group.id}") for group in groups)
        )
    )
    assert size / MOST < 1_900  # bytes, as docs/monitoring.md says
    print(size / MOST)


async def test_old_groups_go(ledger: Ledger, worker: WorkerLedger) -> None:
    await fail(ledger, worker, "a", place="old")
    (old,) = await ledger.failures.groups()
    await ledger.redis.call("ZADD", f"{ledger.redis.prefix}failures", old.last_seen - 31 * 86_400_000, old.id)
    assert await ledger.failures.groups() == []
    await fail(ledger, worker, "b", place="new")
    assert [group.place for group in await ledger.failures.groups()] == ["new"]
    assert await ledger.redis.call("EXISTS", f"{ledger.redis.prefix}failure:{old.id}") == 0


async def test_text_that_is_none(ledger: Ledger, worker: WorkerLedger) -> None:
    await fail(ledger, worker, "a", "half \ud800 and \x00 null")
    assert (await ledger.failures.groups())[0].detail == "half ? and \x00 null"


def test_the_place_is_the_end_of_a_traceback() -> None:
    frames = [
        '  File "/srv/a/tasks/text.py", line 7, in outer\n    x',
        '  File "/srv/a/tasks/text.py", line 9, in inner\n',
    ]
    assert place_of("Traceback (most recent call last):\n" + "\n".join(frames)) == "tasks/text.py in inner"
    assert place_of('  File "<string>", line 1, in <module>') == "<string> in <module>"
    assert place_of('  File "/x.py", line 1, in f') == "x.py in f"
    assert place_of("no frames") == place_of(None) == ""

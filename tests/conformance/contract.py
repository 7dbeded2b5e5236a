"""
The contract: what the service and the library do on every broker. Each broker's file has a class of these tests.

The system is the product as it is deployed: `tcb serve`, two workers of two processes that reach the broker through
a proxy, a Redis for the ledger, and the broker apart from it.
"""

import asyncio
import base64
import json
import random
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.result import AsyncResult

from tests.conformance.brokers import Kind
from tests.conformance.sample import OTHER, QUIET, make_app
from tests.faults.harness import Program, System, running, under_fire
from tests.needs import impossible
from tests.servers import free_port, wait_for, worker
from tests.ticker import ticking
from tornado_celery_bridge import Bridge, BridgeConfig, DispatchError, TaskFailed, TaskRevoked
from tornado_celery_bridge.base.heartbeat import answers
from tornado_celery_bridge.transports import Priorities
from tornado_celery_bridge.worker.errors import GivenUp

SAMPLE = "tests.conformance.sample"

#: Seconds that a shared machine may take for what takes none.
PATIENCE = 60.0


class Service:
    """What clients of the system do."""

    def __init__(self, system: System) -> None:
        self.system = system

    def post(self, path: str, body: Any, expected: int = 202, wait: float | None = None) -> dict[str, Any]:
        status, document = self.system.ask(path, body, wait=wait)
        assert status in (expected, 200), document
        return document

    def submit(self, task: str, options: dict[str, Any] | None = None, **given: Any) -> str:
        return str(self.post(f"/v1/tasks/c.{task}/jobs", {"input": given, "options": options or {}})["id"])

    def run(self, task: str, options: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
        return self.ended(self.submit(task, options, **given))

    def job(self, job_id: str) -> dict[str, Any]:
        status, document = self.system.ask(f"/v1/jobs/{job_id}")
        assert status == 200, document
        return document

    def ended(self, job_id: str, timeout: float = PATIENCE) -> dict[str, Any]:
        wait_for(lambda: self.job(job_id)["done"], timeout)
        return self.job(job_id)

    def starts(self, job_ids: Sequence[str]) -> list[str]:
        """Return these ids in the order in which they began, each as often as it did."""
        return [job_id for what, job_id, _ in self.system.entries() if what == "start" and job_id in job_ids]

    def cancel(self, job_id: str, *, terminate: bool = False) -> None:
        self.post(f"/v1/jobs/{job_id}/cancel", {"terminate": terminate})

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Have all slots of all workers do nothing else until the block ends."""
        key, holds, deadline = f"hold-{time.time_ns()}", list[str](), time.monotonic() + PATIENCE
        try:
            while len(self.starts(holds)) < 4:  # on Kafka some may wait for a slot of one worker, and the other be idle
                assert time.monotonic() < deadline
                holds.append(self.submit("hold", in_turn(len(holds)), key=key))
                time.sleep(0.1)
            yield
        finally:
            with self.system.journal.client() as client:
                client.set(key, "1")
        for job_id in holds:
            self.ended(job_id)


def in_turn(number: int) -> dict[str, Any]:
    """
    Return options that have jobs wait in each of the workers' queues in turn.

    On Kafka, a worker that comes second may get all partitions of one queue and none of the other.
    """
    return {"queue": OTHER} if number % 2 else {}


#: Checks in which a task ends the process that it runs in.
ONE_PROCESS = ("a_job_goes_on_where_it_was", "poison", "poison_that_is_no_job")


class Contract:
    """To be inherited with the `kind` of a broker. The tests share a system, in this order."""

    kind: Kind
    #: Whether the workers have the asyncio pool.
    on_loop = False
    #: The names of the checks that ``make test`` has; None for all.
    by_day: tuple[str, ...] | None = None

    @pytest.fixture(autouse=True)
    def _possible(self, request: pytest.FixtureRequest) -> None:
        name = request.node.originalname.removeprefix("test_")
        if why := self.kind.cannot.get(name):
            impossible(why)
        if self.on_loop and name in ONE_PROCESS:
            impossible("a worker with the asyncio pool is one process")

    @pytest.fixture(scope="class")
    @classmethod
    def system(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
        cls.kind.require()
        folder = tmp_path_factory.mktemp("contract")
        broker = cls.kind.make(folder / "broker")
        broker.start()
        try:
            options: dict[str, Any] = {"broker": broker, "sample": SAMPLE, "queues": (OTHER,), "on_loop": cls.on_loop}
            with running(folder, proxied=True, **options) as made:
                yield made
        finally:
            broker.stop()

    @pytest.fixture(scope="class")
    @classmethod
    def service(cls, system: System) -> Service:
        return Service(system)

    @pytest.fixture(scope="class")
    @classmethod
    def poisoned(cls, service: Service) -> str:
        """A job that kills its process, time and again, while the other tests run."""
        return "" if cls.on_loop else service.submit("poison")

    @pytest.fixture(scope="class")
    @classmethod
    def app(cls, system: System) -> Iterator[Celery]:
        made = make_app(system.redis.url, system.broker.url)
        yield made
        made.close()

    @pytest.fixture
    async def bridge(self, app: Celery) -> AsyncIterator[Bridge]:
        async with Bridge(app, BridgeConfig(dispatch_timeout=10, result_timeout=PATIENCE)) as made:
            yield made

    @pytest.fixture(scope="class")
    @classmethod
    def plainly_poisoned(cls, app: Celery) -> "AsyncResult[Any]":
        """The same of a task that is no job."""
        return app.AsyncResult("none") if cls.on_loop else app.send_task("c.poison")

    # What a job does.

    def test_submit_and_await(self, service: Service, poisoned: str, plainly_poisoned: "AsyncResult[Any]") -> None:
        job = service.post("/v1/tasks/c.add/jobs", {"input": {"x": 1, "y": 2}}, wait=30)
        job = service.ended(job["id"])
        assert (job["state"], job["result"]) == ("SUCCESS", 3)

    async def test_dispatch_and_await(self, bridge: Bridge) -> None:
        results = [await bridge.dispatch("c.add", (number, 1)) for number in range(20)]
        assert await asyncio.gather(*results) == [*range(1, 21)]

    async def test_failure(self, bridge: Bridge, service: Service) -> None:
        with pytest.raises(TaskFailed, match="as asked"):
            await (await bridge.dispatch("c.fail"))
        job = await asyncio.to_thread(service.run, "fail")
        assert (job["state"], job["error"]["exception"]) == ("FAILURE", "builtins.ValueError")

    @pytest.mark.parametrize("countdown", [0, 0.5, 2])
    def test_retry(self, service: Service, countdown: float) -> None:
        begun = time.monotonic()
        job = service.run("again", {"queue": OTHER}, countdown=countdown)
        assert (job["state"], job["result"]) == ("SUCCESS", [OTHER])  # it stays in its queue
        assert len(service.starts([job["id"]])) == 3
        assert time.monotonic() - begun >= 2 * countdown

    @pytest.mark.parametrize(
        ("how", "state", "result", "starts"),
        [
            ("ignore", "IGNORED", None, 1),
            ("reject", "FAILURE", None, 1),
            ("requeue", "SUCCESS", "again", 2),
            ("retry", "SUCCESS", "again", 2),
            ("replace", "SUCCESS", "another", 1),
        ],
    )
    def test_an_end_that_celery_stores_nothing_for(
        self, service: Service, how: str, state: str, result: str | None, starts: int
    ) -> None:
        """More of them than a job has lives: none of these ends uses one up."""
        jobs = [service.submit("ends", how=how) for _ in range(4)]
        for job_id in jobs:
            job = service.ended(job_id)
            assert (job["state"], job.get("result"), len(service.starts([job_id]))) == (state, result, starts), job

    def test_a_job_goes_on_where_it_was(self, service: Service) -> None:
        job = service.run("goes_on")
        assert (job["state"], job["result"], job["attempt"]) == ("SUCCESS", [4, 5], 2)

    # When it does.

    def test_short_eta(self, service: Service) -> None:
        jobs = {delay: service.submit("nap", {"countdown": delay}, seconds=0) for delay in (0.3, 1.5, 3)}
        accepted = time.time()
        for job_id in jobs.values():
            assert service.ended(job_id)["state"] == "SUCCESS"
        begun = {job_id: moment for what, job_id, moment in service.system.entries() if what == "start"}
        for delay, job_id in jobs.items():
            assert begun[job_id] > accepted + delay - 1  # accepted within the second before

    async def test_short_eta_of_a_task(self, bridge: Bridge) -> None:
        begun = time.monotonic()
        assert await (await bridge.dispatch("c.add", (1, 1), countdown=1.5)) == 2
        assert time.monotonic() - begun >= 1.4

    def test_long_eta(self, service: Service) -> None:
        """More of them than there are slots keep nobody from working; cancelled, they never run."""
        waiting = [service.submit("nap", {"countdown": 3600}, seconds=0) for _ in range(8)]
        assert service.run("add", x=1)["state"] == "SUCCESS"
        assert {service.job(job_id)["state"] for job_id in waiting} == {"PENDING"}
        for job_id in waiting:
            service.cancel(job_id)
        assert {service.job(job_id)["state"] for job_id in waiting} == {"REVOKED"}

    def test_expiry(self, service: Service) -> None:
        with service.occupied():
            late = [
                service.submit("nap", {"expires": 1}, seconds=0),
                service.submit("nap", {"expires": 1, "countdown": 2}, seconds=0),
            ]
            time.sleep(1.1)
        assert {service.ended(job_id)["state"] for job_id in late} == {"REVOKED"}
        assert service.starts(late) == []

    # Where, and in which order.

    def test_several_queues(self, service: Service) -> None:
        quiet = service.submit("add", {"queue": QUIET}, x=1)
        assert service.run("nap", {"queue": OTHER}, seconds=0)["queue"] == OTHER
        assert service.job(quiet)["state"] == "PENDING"
        service.cancel(quiet)
        body = {"input": {"x": 1}, "options": {"queue": "no-such-queue"}}
        problem = service.post("/v1/tasks/c.add/jobs", body, 422)
        assert problem["errors"][0]["pointer"] == "/options/queue"

    def test_paused_and_resumed(self, service: Service) -> None:
        def taken_by() -> int:
            queues = service.system.ask("/v1/queues")[1]["queues"]
            return next(int(queue["consumers"]) for queue in queues if queue["name"] == OTHER)

        wait_for(lambda: taken_by() == 2, PATIENCE)
        service.post(f"/v1/queues/{OTHER}/pause", {})
        wait_for(lambda: taken_by() == 0, PATIENCE)
        waiting = service.submit("nap", {"queue": OTHER}, seconds=0)
        assert service.run("add", x=1)["state"] == "SUCCESS"  # the others go on
        assert service.job(waiting)["state"] == "PENDING"
        service.post(f"/v1/queues/{OTHER}/resume", {})
        assert service.ended(waiting)["state"] == "SUCCESS"

    def test_purged(self, service: Service) -> None:
        purged = [service.submit("nap", {"queue": QUIET}, seconds=0) for _ in range(3)]
        assert service.post(f"/v1/queues/{QUIET}/purge", {"confirm": QUIET})["jobs"] == 3
        assert {service.job(job_id)["state"] for job_id in purged} == {"REVOKED"}

    def test_priority(self, service: Service, app: Celery) -> None:
        """9 is the most urgent, and who asks for none comes last; where there are none, who asks for one is told."""
        if not Priorities(app).are_served(app.conf.task_default_queue):
            problem = service.post("/v1/tasks/c.add/jobs", {"input": {"x": 1}, "options": {"priority": 9}}, 422)
            assert problem["errors"][0]["pointer"] == "/options/priority"
            return
        with service.occupied():
            slow = [service.submit("nap", {"priority": 0} if n % 2 else {}, seconds=0.1) for n in range(8)]
            middle = [service.submit("nap", {"priority": 5}, seconds=0.1) for _ in range(2)]
            urgent = [service.submit("nap", {"priority": 9}, seconds=0.1) for _ in range(4)]
        for job_id in slow + middle + urgent:
            service.ended(job_id)
        order = service.starts(slow + middle + urgent)
        # Four slots begin at once, so in each of their turns one of the next turn may overtake one that is late.
        assert {*urgent} <= {*order[:6]}
        assert {*middle} <= {*order[:9]}

    def test_even_shares(self, service: Service) -> None:
        with ThreadPoolExecutor(8) as pool:
            jobs = list(pool.map(lambda number: service.submit("nap", in_turn(number), seconds=0.1), range(40)))
        workers = [service.ended(job_id)["result"] for job_id in jobs]
        assert all(workers.count(name) >= 10 for name in {*workers})
        assert len({*workers}) == 2

    # Several together.

    async def test_chain_group_and_chord(self, bridge: Bridge) -> None:
        add, total = bridge.app.tasks["c.add"], bridge.app.tasks["c.total"]
        assert await (await bridge.dispatch(chain(add.s(1, 2), add.s(3), add.s(4)))) == 10
        assert await (await bridge.dispatch(group(add.s(i, i) for i in range(3)))) == [0, 2, 4]
        assert await (await bridge.dispatch(chord([add.s(i, i) for i in range(5)], total.s()))) == 20

    def test_workflow(self, service: Service) -> None:
        def add(x: int) -> dict[str, Any]:
            return {"task": "c.add", "input": {"x": x}}

        tree = {"chord": {"header": [add(1), add(2)], "body": {"task": "c.total"}}}
        workflow = service.post("/v1/workflows", tree)
        path = f"/v1/workflows/{workflow['id']}"
        wait_for(lambda: service.system.ask(path)[1]["state"] == "SUCCESS", PATIENCE)

    # While it runs.

    async def test_progress(self, bridge: Bridge) -> None:
        result = await bridge.dispatch("c.steps", (30,))
        told = [state.progress async for state in bridge.stream(result, timeout=PATIENCE) if state.progress]
        assert (told[-1].current, told[-1].total, told[-1].message) == (30, 30, "step 30")

    def test_cancel_queued(self, service: Service) -> None:
        with service.occupied():
            queued = service.submit("nap", seconds=0)
            service.cancel(queued)
            assert service.job(queued)["state"] == "REVOKED"
        assert service.run("add", x=1)["state"] == "SUCCESS"  # what came after it is done
        assert service.starts([queued]) == []

    def test_cancel_running(self, service: Service) -> None:
        running = service.submit("steps", count=10_000)
        wait_for(lambda: service.starts([running]), PATIENCE)
        service.cancel(running)
        assert service.ended(running)["state"] == "REVOKED"

    async def test_revoke_with_terminate(self, bridge: Bridge, service: Service) -> None:
        running = await asyncio.to_thread(service.submit, "nap", seconds=500)
        await asyncio.to_thread(wait_for, lambda: service.starts([running]), PATIENCE)
        await asyncio.to_thread(service.cancel, running, terminate=True)
        assert (await asyncio.to_thread(service.ended, running))["state"] == "REVOKED"
        result = await bridge.dispatch("c.nap", (500,))
        await asyncio.to_thread(wait_for, lambda: service.starts([result.id]), PATIENCE)
        await bridge.revoke(result, terminate=True)
        with pytest.raises(TaskRevoked):
            await bridge.get(result, timeout=PATIENCE)

    def test_time_limit(self, service: Service) -> None:
        """It ends the process even if the task swallows that, and nobody else is the worse for it."""
        jobs = [service.submit("swallow", {"time_limit": 1}) for _ in range(6)]
        assert {service.ended(job_id)["error"]["exception"] for job_id in jobs} == {
            "billiard.exceptions.TimeLimitExceeded"
        }
        assert service.run("add", x=1)["state"] == "SUCCESS"

    # Seen from outside.

    def test_ping_and_inspect(self, app: Celery) -> None:
        assert answers(app)  # what a process asks whose loop stands still: without an answer it is not taken for hung
        names = {"w0@faults", "w1@faults"}
        inspect = app.control.inspect(timeout=10, limit=len(names))
        wait_for(lambda: (inspect.ping() or {}).keys() == names, PATIENCE)
        assert (inspect.registered() or {}).keys() == names
        queues = inspect.active_queues() or {}
        assert {queue["name"] for each in queues.values() for queue in each} == {app.conf.task_default_queue, OTHER}

    def test_flower(self, service: Service, tmp_path: Path) -> None:
        port, settings = free_port(), service.system.environment | {"BROKER_URL": service.system.broker.url}

        def see(path: str) -> Any:
            try:
                secret = (tmp_path / "flower-password").read_text().strip()
                key = base64.b64encode(f"admin:{secret}".encode()).decode()
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/flower{path}", headers={"Authorization": f"Basic {key}"}
                )
                with urllib.request.urlopen(request, timeout=20) as response:
                    return json.load(response)
            except OSError:
                return {}

        settings |= {"DATA_DIR": str(tmp_path), "FLOWER_PORT": str(port)}
        flower = Program(
            ["tornado_celery_bridge", "flower"],
            settings,
            tmp_path / "flower.log",
            lambda _: bool(see("/api/workers?refresh=1")),
        )
        try:
            flower.start()
            assert see("/api/workers").keys() == {"w0@faults", "w1@faults"}
            job_id = service.run("add", x=1)["id"]
            wait_for(lambda: see("/api/tasks").get(job_id, {}).get("state") == "SUCCESS", PATIENCE)
        finally:
            flower.kill()

    # Odd and large ones.

    async def test_values_come_as_they_were(self, bridge: Bridge) -> None:
        """Also those that look like a type of kombu's, as an argument, a result, and a header."""
        value = [{"__type__": kind, "__value__": "x"} for kind in ("datetime", "nowhere")]
        echo = bridge.app.tasks["c.echo"]
        headers: dict[str, Any] = {"told": value[0]}
        first = echo.s(value).set(headers=headers)
        assert await (await bridge.dispatch(chain(first, echo.s()))) == value

    async def test_a_message_of_1_mb(self, bridge: Bridge) -> None:
        """Of every plane of Unicode, with every ASCII character."""
        planes = "".join(map(chr, range(128))) + "".join(chr(plane * 0x10000 + 0x1F00) for plane in range(17))
        text = planes * (1_000_000 // len(planes.encode()) + 1)
        assert await (await bridge.dispatch("c.echo", (text,))) == text

    # What goes wrong.

    async def test_what_a_worker_cannot_read(self, bridge: Bridge) -> None:
        """It fails with the reason, as a job and as a plain task, and ends no worker."""
        echo = bridge.app.tasks["c.echo"]
        for send in (bridge.submit, bridge.dispatch):
            result: Any = await send(echo.s(1), serializer="pickle")
            with pytest.raises(TaskFailed, match="can't read the task's message"):
                await bridge.get(result, timeout=PATIENCE)
        assert await (await bridge.dispatch(echo.s(2))) == 2

    async def test_wrong_password(self, system: System, caplog: pytest.LogCaptureFixture) -> None:
        wrong = system.broker.url.replace("secret", "wr0ng").replace("guest@", "wr0ng@")
        app = await asyncio.to_thread(make_app, system.redis.url, wrong)
        async with Bridge(app) as bridge:
            begun = time.monotonic()
            with pytest.raises(DispatchError):
                await bridge.dispatch("c.add", (1, 1))
            assert time.monotonic() - begun < 5
        await asyncio.to_thread(app.close)
        assert "wr0ng" not in caplog.text

    def test_two_apps_side_by_side(self, system: System, app: Celery, tmp_path: Path) -> None:
        """On one broker, with the same queues: neither runs, nor hears of, what is the other's."""
        assert self.kind.apart
        url = self.kind.apart(system.broker)
        settings = {**system.environment, "BROKER_URL": url, "DATA_DIR": str(tmp_path)}
        settings["REDIS_URL"] = system.redis.url.removesuffix("0") + "1"
        second = make_app(settings["REDIS_URL"], url)
        with worker(SAMPLE, settings, tmp_path / "worker.log", "--hostname", "second@faults", "--pool", "solo"):
            assert second.control.ping(timeout=2) == [{"second@faults": {"ok": "pong"}}]
            assert {name for each in app.control.ping(timeout=2) or () for name in each} == {"w0@faults", "w1@faults"}
            here, there = [app.send_task("c.nap", (0,)) for _ in range(10)], second.send_task("c.nap", (0,))
            assert {result.get(timeout=PATIENCE) for result in here} <= {"w0@faults", "w1@faults"}
            assert there.get(timeout=PATIENCE) == "second@faults"
        second.close()

    async def test_frozen_broker(self, system: System, service: Service, bridge: Bridge) -> None:
        """The loop goes on, a dispatch ends in time and is not said to be sent, and jobs are accepted."""
        await bridge.dispatch("c.add", (1, 1))
        async with ticking():
            system.broker.freeze()
            try:
                refused, deadline = 0, time.monotonic() + PATIENCE
                while refused < 3:
                    begun = time.monotonic()
                    assert begun < deadline
                    try:  # what is on its way as the server is stopped may get there
                        await bridge.dispatch("c.add", (1, 1), dispatch_timeout=2)
                    except DispatchError:
                        refused += 1
                    assert time.monotonic() - begun < 4
                jobs = [await asyncio.to_thread(service.submit, "nap", seconds=0) for _ in range(3)]
            finally:
                system.broker.thaw()
            for job_id in jobs:
                assert (await asyncio.to_thread(service.ended, job_id))["state"] == "SUCCESS"

    def test_half_open_connections(self, service: Service) -> None:
        """Of the workers to the broker, which says nothing of it: what is sent over them arrives nowhere."""
        assert service.system.proxy
        service.system.proxy.drop()
        jobs = [service.submit("nap", seconds=0) for _ in range(20)]
        assert {service.ended(job_id)["state"] for job_id in jobs} == {"SUCCESS"}

    def test_poison_that_is_no_job(self, service: Service, plainly_poisoned: "AsyncResult[Any]") -> None:
        with pytest.raises(GivenUp, match="began 3 times"):
            plainly_poisoned.get(timeout=PATIENCE)
        assert len(service.starts([plainly_poisoned.id])) == 3

    def test_poison(self, service: Service, poisoned: str) -> None:
        """It is given up, and nobody else is the worse for it."""
        job = service.ended(poisoned)
        assert job["state"] == "FAILURE"
        assert len(service.starts([poisoned])) == 3

    @pytest.mark.parametrize("count", [150, pytest.param(500, marks=pytest.mark.nightly)])
    def test_kills_of_worker_and_broker(self, system: System, count: int) -> None:
        kills = iter([system.kill_worker, system.kill_broker, system.kill_worker])

        def kill(chance: random.Random) -> None:
            next(kills)(chance)

        faults = 3 if count == 500 else 2
        figures = under_fire(system, count, faults, kill, seed=6, rate=25, seconds=0.02, allowed=4, task="c.nap")
        assert figures.lost == figures.unfinished == figures.failed == figures.unexpected == []
        assert figures.second_starts <= figures.allowed, figures
        assert not any(figures.left.values()), figures

    def test_broker_down_at_the_start_of_each_process(self, system: System, service: Service) -> None:
        """All come up; what is submitted meanwhile is accepted, and runs once the broker is there."""
        system.broker.kill()
        with system.killing:
            for program in system.programs:
                program.kill()
                program.spawn()
        wait_for(lambda: _listens(system), PATIENCE)
        jobs = [service.submit("nap", seconds=0) for _ in range(5)]
        system.broker.start()
        for program in system.programs:
            program.wait_until_ready()
        assert {service.ended(job_id)["state"] for job_id in jobs} == {"SUCCESS"}


def _listens(system: System) -> bool:
    try:
        return system.ask("/healthz")[0] == 200
    except OSError:
        return False

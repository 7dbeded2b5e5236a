"""
The fault harness, in the manner of Jepsen's total-queue: what was accepted against what ran, whatever happened between.

Theory of operation. A :class:`System` is the product as it is deployed, of real processes: Redis with AOF, workers,
``tcb serve``; and a second Redis, the journal, which no fault reaches and in which each task writes that it starts
and that it ends. A load submits jobs at a steady rate below what the workers can do, each with an idempotency key, and
asks again with the same key until one is accepted. Meanwhile faults happen, drawn by a seeded generator. Then, once
nothing is left to be done, :func:`check` compares: nothing but the ids that clients were told, the journal, and each
job's last state. As the load is below what the workers can do, the time for which a job that was accepted does not
start, or one that was lost does not start again, is what the faults cost it.
"""

import http.client
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from kombu import Connection
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tests.faults.proxy import Proxy
from tests.faults.sample import QUEUE, make_app
from tests.servers import Server, free_port, wait_for
from tornado_celery_bridge.transports import register

ROOT = Path(__file__).parents[2]
#: Worker processes, and slots of each.
WORKERS, SLOTS = 2, 2
#: Seconds after which a client asks again, for one answer, and in all.
PAUSE, PATIENCE, LONGEST = 0.2, 10.0, 120.0
#: Seconds in which whatever a fault held up has run.
RECOVERY = 15.0


ASYNCIO_POOL = "tornado_celery_bridge.worker.asyncio_pool:TaskPool"


class Broker(Protocol):
    """A server that can be killed and started again, as in up/brokers; a :class:`Server` is one."""

    port: int

    @property
    def url(self) -> str: ...
    def start(self) -> Any: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def stop(self) -> None: ...


Journal = Sequence[tuple[str, str, float]]


@dataclass
class Figures:
    """What came of one row: how many, and of what."""

    accepted: int = 0
    faults: int = 0
    lost: list[str] = field(default_factory=list)  # accepted, and never ran to its end
    unfinished: list[str] = field(default_factory=list)  # accepted, and has no last state
    failed: list[str] = field(default_factory=list)  # ended, and not in SUCCESS
    unexpected: list[str] = field(default_factory=list)  # ran, and nobody was told of it
    slow: list[str] = field(default_factory=list)  # was held up for longer than RECOVERY, the longest first
    second_starts: int = 0
    #: Second starts that there may be.
    allowed: int = 0
    #: Seconds, at the longest, in which nothing happened to a job that should have gone on; less those of a fault.
    recovery: float = 0.0
    #: Seconds from the end of a fault until the next job ended, at the longest.
    back: float = 0.0
    #: Seconds that *recovery* may take.
    bound: float = RECOVERY
    left: dict[str, int] = field(default_factory=dict)  # in the queue, when nothing came of it any more
    notes: dict[str, Any] = field(default_factory=dict)  # what else the row tells
    broken: list[str] = field(default_factory=list)  # what else the row demands, and did not get
    evidence: dict[str, Any] = field(default_factory=dict)  # of what was lost, failed or slow: what is known of it

    def demand(self, kept: object, what: str) -> None:
        if not kept:
            self.broken.append(what)

    def wrong(self) -> dict[str, Any]:
        """Return what must not be."""
        names = ("lost", "unfinished", "failed", "unexpected", "broken")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found["left"] = {name: count for name, count in self.left.items() if count}
        found["second starts"] = self.second_starts if self.second_starts > self.allowed else 0
        found["recovery"] = self.recovery if self.recovery > self.bound else 0
        return {name: value for name, value in found.items() if value}


def check(
    accepted: Mapping[str, float],
    journal: Journal,
    states: Mapping[str, str | None],
    faults: Sequence[tuple[float, float]] = (),
    allowed: int = 0,
) -> Figures:
    """
    Compare what was accepted with what ran.

    Args:
        accepted: When, by id.
        journal: What the tasks wrote, in order.
        states: What the system says has become of each.
        faults: When each began and ended; one that is over at once ends as it begins.
        allowed: Second starts that there may be.
    """
    starts = Counter(job_id for what, job_id, _ in journal if what == "start")
    ends = {job_id: moment for what, job_id, moment in reversed(journal) if what == "end"}

    steps = {job_id: [moment] for job_id, moment in accepted.items()}
    for _, job_id, moment in journal:
        steps.get(job_id, []).append(moment)

    def held_up(since: float, until: float) -> float:
        return until - since - sum(max(0.0, min(until, over) - max(since, begun)) for begun, over in faults)

    waits = {
        job_id: max((held_up(*pair) for pair in itertools.pairwise(moments)), default=0.0)
        for job_id, moments in steps.items()
    }
    moments = sorted(ends.values())
    gaps = [next((moment - until for moment in moments if moment > until), 0.0) for _, until in faults]
    terminal = {"SUCCESS", "FAILURE", "REVOKED"}
    return Figures(
        accepted=len(accepted),
        faults=len(faults),
        lost=[job_id for job_id in accepted if job_id not in ends],
        unfinished=[job_id for job_id in accepted if states.get(job_id) not in terminal],
        failed=[job_id for job_id in accepted if states.get(job_id) in terminal - {"SUCCESS"}],
        unexpected=[job_id for job_id in starts if job_id not in accepted],
        second_starts=sum(count - 1 for count in starts.values()),
        allowed=allowed,
        slow=sorted((job_id for job_id in waits if waits[job_id] > RECOVERY), key=lambda job_id: -waits[job_id]),
        recovery=max(waits.values(), default=0.0),
        back=max(gaps, default=0.0),
    )


class Program:
    """A process with children, to be killed and started again."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, is_ready: Callable[["Program"], bool]
    ) -> None:
        self.log = log
        self._command, self._is_ready = [sys.executable, "-m", *command], is_ready
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self._read = 0
        self.process: subprocess.Popen[bytes]

    def spawn(self) -> Self:
        self._read = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self._command, env=self._environment, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )
        return self

    def start(self) -> Self:
        self.spawn()
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        wait_for(lambda: self._is_ready(self) or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.log.read_text()

    def said(self, text: bytes) -> bool:
        """Return whether this start of it has logged something."""
        return text in self.log.read_bytes()[self._read :]

    def kill(self) -> None:
        """Kill it and all of its children at once, or the children that it left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout: float = 40.0) -> None:
        self.process.terminate()
        self.process.wait(timeout)

    def revive(self) -> bool:
        """Start it again if it died; return whether it did, as a supervisor would."""
        if self.process.poll() is None:
            return False
        self.kill()
        self.spawn()
        return True

    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class System:
    """
    The product, or stock Celery with the same settings.

    Args:
        folder: Where everything is.
        broker: One that runs, apart from Redis, which then has the ledger and the results alone.
        sample: The module that has the app, whose queue is :data:`QUEUE`.
        queues: What else its workers consume.
        stock: Celery alone: no ledger, and jobs are submitted by ``apply_async``.
        on_loop: The workers have the asyncio pool, and ``faults.work`` is ``async def``.
        proxied: The workers reach the broker through :attr:`proxy`.
        sync: When Redis has written what it confirms; see up/embedded.py.
    """

    def __init__(
        self,
        folder: Path,
        *,
        broker: Broker | None = None,
        sample: str = "tests.faults.sample",
        queues: Sequence[str] = (),
        stock: bool = False,
        on_loop: bool = False,
        proxied: bool = False,
        sync: str = "always",
    ) -> None:
        self.stock = stock
        self.redis = Server(folder / "redis", "--appendfsync", sync, "--enable-debug-command", "local")
        self.journal = Server(folder / "journal", "--appendonly", "no")
        self.redis.start()
        self.journal.start()
        self.broker = broker or self.redis
        if broker:
            register(broker.url)
        # A broker that tells its address to clients has one for those that come through a proxy.
        told, target = getattr(self.broker, "proxied", (0, self.broker.port))
        self.proxy = Proxy(target, told) if proxied else None
        url = self.broker.url.replace(f":{self.broker.port}", f":{self.proxy.port}") if self.proxy else self.broker.url
        self.environment = {"FAULTS_JOURNAL": self.journal.url, "DATA_DIR": str(folder)}
        self.environment |= {"FAULTS_STOCK": "1"} if stock else {}
        self.environment |= {"FAULTS_ON_LOOP": "1", "CELERY_CUSTOM_WORKER_POOL": ASYNCIO_POOL} if on_loop else {}
        self.environment |= {"REDIS_URL": self.redis.url, "CELERY_APP": sample}
        others = {"BROKER_URL": self.broker.url} if broker else {}
        of_workers = {"BROKER_URL" if broker else "REDIS_URL": url}
        self.workers = [
            Program(
                [
                    *("celery", "-A", sample, "worker", "--loglevel", "INFO"),
                    *("--queues", ",".join([QUEUE, *queues])),
                    *("--concurrency", str(SLOTS), "--hostname", f"w{number}@faults"),
                    *("--without-gossip", "--without-mingle"),
                    *(("--pool", "custom") if on_loop else ()),
                ],
                self.environment | of_workers,
                folder / f"worker-{number}.log",
                lambda program: program.said(b" ready."),
            )
            for number in range(WORKERS)
        ]
        self.port = free_port()
        self.web = Program(
            ["tornado_celery_bridge", "serve"],
            self.environment | others | {"PORT": str(self.port)},
            folder / "web.log",
            lambda program: self.answers(),
        )
        self.app = make_app(self.redis.url, stock=True) if stock else None
        if self.app:  # a publisher that listens for results is broken for good once Redis was away
            self.app.conf.update(result_backend="disabled://")
        self.programs = [*self.workers, *([] if stock else [self.web])]
        for program in self.programs:
            program.spawn()
        for program in self.programs:
            program.wait_until_ready()
        #: Main processes that died by themselves.
        self.crashes = 0
        #: Held by who ends processes, so that the watcher does not start them.
        self.killing = threading.Lock()
        self._watched = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def close(self) -> None:
        self._watched.set()
        self._watcher.join()
        for program in self.programs:
            program.kill()
        for server in (self.redis, self.journal):
            server.stop()
        if self.proxy:
            self.proxy.close()
        if self.app:
            self.app.close()

    def _watch(self) -> None:
        """Supervise, as ``make up`` does: what dies by itself is started again, and counted."""
        while not self._watched.wait(1.0):
            with self.killing:
                self.crashes += sum(program.revive() for program in self.programs)

    # Clients.

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        key: str | None = None,
        wait: float | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the document of an answer, over a connection of its own."""
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        headers |= {"Prefer": f"wait={wait:g}"} if wait else {}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request(method or ("GET" if body is None else "POST"), path, content, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def answers(self) -> bool:
        try:
            return self.ask("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def submit(self, key: str, task: str = "faults.work", **given: Any) -> str:
        """Submit a job, again and again with the same key, until it is accepted; return its id."""
        deadline = time.monotonic() + LONGEST
        while time.monotonic() < deadline:
            try:
                if self.app is not None:
                    self.app.send_task(task, kwargs=given, task_id=key)
                    return key
                status, document = self.ask(f"/v1/tasks/{task}/jobs", {"input": given}, key=key)
                if status in (200, 202):
                    return str(document["id"])
                assert status in (409, 429, 503), document
            except (OSError, http.client.HTTPException, OperationalError, RedisError):
                pass
            time.sleep(PAUSE)
        raise TimeoutError(f"{key} was not accepted")

    # Faults.

    def kill_worker(self, chance: random.Random) -> None:
        """F2: kill -9 of a worker and its children. It is started again at once."""
        with self.killing:
            worker = chance.choice(self.workers)
            worker.kill()
            worker.spawn()

    def kill_child(self, chance: random.Random) -> None:
        """F1: kill -9 of one pool process."""
        children = [child for worker in self.workers for child in worker.children()]
        os.kill(chance.choice(children), signal.SIGKILL)

    def restart_worker(self, chance: random.Random) -> None:
        """F3: TERM, and a new one once it has ended."""
        with self.killing:
            worker = chance.choice(self.workers)
            worker.stop()
            worker.start()

    def kill_redis(self, chance: random.Random) -> None:
        """F4: kill -9 of Redis, and back."""
        self.redis.kill()
        time.sleep(chance.uniform(0.0, 1.0))
        self.redis.start()

    def fill_disk(self) -> Path:
        """F9: leave no room for what Redis writes, on a small disk; return the file whose removal does."""
        full = self.redis.folder / "full"
        with suppress(OSError), full.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        return full

    def kill_broker(self, chance: random.Random) -> None:
        """F5: kill -9 of the broker, and back."""
        self.broker.kill()
        time.sleep(chance.uniform(0.0, 1.0))
        self.broker.start()

    def kill_web(self, chance: random.Random) -> None:
        """F10: kill -9 of the web process, whatever it is about to answer, and back."""
        with self.killing:
            self.web.kill()
            self.web.spawn()

    # The end.

    def left(self) -> dict[str, int]:
        """Return how much there is still to be done, by where it is."""
        with self.redis.client() as client:
            found = {"queue": self._queued()}
            if self.broker is self.redis:
                found["unacked"] = int(client.hlen("unacked")) + int(client.zcard("unacked_index"))
            return found if self.stock else found | {"open": int(client.hlen("{tcb}open"))}

    def _queued(self) -> int:
        options = getattr(self.broker, "transport_options", {})  # of transport
        with Connection(self.broker.url, connect_timeout=2, transport_options=options) as connection:
            try:
                with connection.channel() as channel:
                    return int(channel.queue_declare(QUEUE, passive=True).message_count)
            except connection.channel_errors:  # an empty one is none, on Redis
                return 0

    def settle(self, timeout: float) -> dict[str, int]:
        """Wait until nothing is left, twice in a row; return what is, if it becomes no less for so many seconds."""
        deadline, clean, left, least = time.monotonic() + timeout, 0, {"?": 1}, sys.maxsize
        while clean < 2 and time.monotonic() < deadline:
            try:
                left = self.left()
                clean = 0 if any(left.values()) else clean + 1
            except (RedisError, OperationalError, OSError):
                clean = 0
            if sum(left.values()) < least:
                deadline, least = time.monotonic() + timeout, sum(left.values())
            time.sleep(0.3)
        return left

    def entries(self) -> Journal:
        with self.journal.client() as client:
            return [tuple(json.loads(entry)) for entry in client.lrange("journal", 0, -1)]

    def states(self, job_ids: Sequence[str]) -> dict[str, str | None]:
        """Return what has become of jobs, as whoever asks is told."""
        with self.redis.client() as client, client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                if self.stock:
                    pipe.get(f"celery-task-meta-{job_id}")
                else:
                    pipe.hget(f"{{tcb}}job:{job_id}", "state")
            found = pipe.execute()
        if self.stock:
            return {each: meta and json.loads(meta)["status"] for each, meta in zip(job_ids, found, strict=True)}
        return {each: state and state.decode() for each, state in zip(job_ids, found, strict=True)}

    def evidence(self, job_id: str, journal: Journal) -> dict[str, Any]:
        """Return what is known of a job that did not go as it should: for whoever looks for the reason."""
        known: dict[str, Any] = {"journal": [(what, moment) for what, each, moment in journal if each == job_id]}
        with self.redis.client() as client:
            known["result"] = repr(client.get(f"celery-task-meta-{job_id}"))
            if not self.stock:
                known["job"] = repr(client.hgetall(f"{{tcb}}job:{job_id}"))
        return known

    def forget(self) -> None:
        """Begin a new row."""
        with self.journal.client() as client:
            client.flushall()
        for worker in self.workers:
            worker.wait_until_ready()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """
    Have *folder* be a file system of its own, with room for little.

    Raises:
        PermissionError: This process may not mount one.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        raise PermissionError("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def running(folder: Path, *, on_small_disk: bool = False, **options: Any) -> Iterator[System]:
    """Run a system for the block; its Redis on a small disk, or not, and as :class:`System` takes *options*."""
    with small_disk(folder / "redis") if on_small_disk else nullcontext():
        system = System(folder, **options)
        try:
            yield system
        finally:
            system.close()


class Load:
    """Jobs submitted at a steady rate, by threads."""

    def __init__(self, count: int, rate: float, submit: Callable[[str], str], threads: int = 8) -> None:
        self.accepted: dict[str, float] = {}
        self.errors: list[BaseException] = []
        self.duration = count / rate
        self._submit, self._rate = submit, rate
        self._numbers = iter(range(count))
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    number = next(self._numbers, None)
                if number is None:
                    return
                time.sleep(max(0.0, self._begun + number / self._rate - time.monotonic()))
                job_id = self._submit(str(uuid.uuid4()))
                with self._lock:
                    self.accepted[job_id] = time.time()
        except BaseException as exc:
            self.errors.append(exc)

    def join(self) -> dict[str, float]:
        """Return when each job was accepted, once all are."""
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]
        return self.accepted


def under_fire(
    system: System,
    count: int,
    faults: int,
    inject: Callable[[random.Random], object] | None,
    *,
    seed: int,
    rate: float = 20.0,
    seconds: float = 0.05,
    allowed: int = 0,
    settle: float = 60.0,
    apart: Collection[str] = (),
    task: str = "faults.work",
) -> Figures:
    """
    Submit jobs while faults happen, and return what came of it.

    Args:
        count: Jobs.
        faults: How many, spread over the load.
        inject: Does one, and returns when it is over.
        seed: What is hit, and when.
        rate: Jobs submitted in a second.
        seconds: Each job's.
        allowed: Second starts that each fault may cause.
        settle: Seconds after the last job was accepted in which some more of what is left ends.
        apart: Ids of jobs that are no part of this.
        task: What is submitted, with *seconds*.
    """
    system.forget()
    chance = random.Random(seed)
    load = Load(count, rate, lambda key: system.submit(key, task, seconds=seconds))
    begun, happened = time.monotonic(), []
    for number in range(faults):
        at = load.duration * (number + chance.uniform(0.3, 1.0)) / faults
        time.sleep(max(0.0, begun + at - time.monotonic()))
        since = time.time()
        assert inject is not None
        inject(chance)
        happened.append((since, time.time()))
    accepted = load.join()
    left = system.settle(settle)
    journal = [entry for entry in system.entries() if entry[1] not in apart]
    figures = check(accepted, journal, system.states(list(accepted)), happened, faults * allowed)
    figures.left = left
    told = {*figures.lost, *figures.failed, *figures.slow[:3]}
    figures.evidence = {job_id: system.evidence(job_id, journal) for job_id in told}
    return figures

"""The rows of the fault matrix: what happens, and what must come of it all the same."""

import contextlib
import os
import random
import signal
import statistics
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from redis.exceptions import RedisError

from tests.faults.harness import SLOTS, WORKERS, Figures, Program, System, check, under_fire
from tests.servers import wait_for

#: Jobs that may be begun a second time where a fault hits all workers at once.
ALL = WORKERS * SLOTS


@dataclass(frozen=True)
class Row:
    """
    One row.

    Args:
        name: As the matrix has it.
        what: What happens.
        run: Does it, with so many jobs and faults, and a seed.
        count: Jobs, in CI.
        faults: Of these, in CI.
        every: Jobs to a fault, with large numbers; 0 for no more faults than in CI.
        proxied: Whether the workers reach Redis through the proxy.
        has_stock: Whether stock Celery is put to it as well.
        broker: What kind of broker there is apart from Redis, if any; see up/brokers.
    """

    name: str
    what: str
    run: Callable[[System, int, int, int], Figures]
    count: int
    faults: int
    every: int = 0
    proxied: bool = False
    on_small_disk: bool = False
    has_stock: bool = False
    broker: str = ""


ROWS: dict[str, Row] = {}


def row(
    name: str,
    what: str,
    *,
    count: int = 150,
    faults: int = 1,
    every: int = 0,
    proxied: bool = False,
    on_small_disk: bool = False,
    has_stock: bool = False,
    broker: str = "",
) -> Callable[[Callable[[System, int, int, int], Figures]], None]:
    def add(run: Callable[[System, int, int, int], Figures]) -> None:
        ROWS[name] = Row(name, what, run, count, faults, every, proxied, on_small_disk, has_stock, broker)

    return add


@row("control", "no fault at all", count=60, faults=0, has_stock=True)
def control(system: System, count: int, faults: int, seed: int) -> Figures:
    return under_fire(system, count, 0, None, seed=seed)


@row("F1", "kill -9 of a pool process", count=150, faults=5, every=100, has_stock=True)
def kill_child(system: System, count: int, faults: int, seed: int) -> Figures:
    return under_fire(system, count, faults, system.kill_child, seed=seed, allowed=1)


@row("F2", "kill -9 of a worker and all its processes", count=200, faults=3, every=200, has_stock=True)
def kill_worker(system: System, count: int, faults: int, seed: int) -> Figures:
    return under_fire(system, count, faults, system.kill_worker, seed=seed, allowed=SLOTS)


@row("F3", "rolling restart of the workers with TERM", faults=2, every=200)
def restart(system: System, count: int, faults: int, seed: int) -> Figures:
    return under_fire(system, count, faults, system.restart_worker, seed=seed)


@row("F4", "kill -9 of Redis", count=200, faults=2, every=400, has_stock=True)
def kill_redis(system: System, count: int, faults: int, seed: int) -> Figures:
    figures = under_fire(system, count, faults, system.kill_redis, seed=seed, allowed=ALL)
    figures.demand(figures.back < 5, "jobs end again within 5 s")
    return figures


@row("F5", "kill -9 of RabbitMQ", count=500, faults=2, every=1000, broker="rabbitmq")
def kill_rabbitmq(system: System, count: int, faults: int, seed: int) -> Figures:
    """The contract has it in CI (tests/conformance), on every broker."""
    figures = under_fire(system, count, faults, system.kill_broker, seed=seed, allowed=ALL)
    figures.demand(figures.back < 15, "jobs end again within 15 s")
    return figures


@row("F6", "Redis frozen (SIGSTOP)", count=200)
def freeze(system: System, count: int, faults: int, seed: int) -> Figures:
    """In CI for some seconds, else for a minute."""
    seconds = 4.0 if count <= 1000 else 60.0
    refusals: list[tuple[int, float]] = []
    alive: list[float] = []
    probes: list[str] = []

    def inject(_: random.Random) -> None:
        keys: list[str] = []
        system.redis.freeze()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.monotonic()
            refusals.append((_probe(system, keys), time.monotonic() - begun))
            begun = time.monotonic()
            system.ask("/healthz")
            alive.append(time.monotonic() - begun)
        system.redis.thaw()
        probes.extend(map(system.submit, keys))  # what was refused may have come to be accepted: the key finds out

    figures = under_fire(system, count, faults, inject, seed=seed, allowed=ALL, apart=probes)
    figures.demand({status for status, _ in refusals} == {503}, "submits are refused with 503 meanwhile")
    figures.demand(max(took for _, took in refusals) < 2.5 + 0.5, "and within 2.5 s (and what noise may add)")
    figures.demand(statistics.median(alive) < 0.1, "other endpoints answer")
    figures.demand(figures.back < 5, "jobs end again within 5 s")
    figures.notes |= {
        "refused after, s": round(max(took for _, took in refusals), 2),
        "healthz, ms": round(max(alive) * 1000, 1),
    }
    return figures


def _probe(system: System, keys: list[str]) -> int:
    """Submit a job of no matter, and return the status of the answer."""
    keys.append(str(uuid.uuid4()))
    return system.ask("/v1/tasks/faults.work/jobs", {"input": {}}, key=keys[-1])[0]


@row(
    "F7",
    "half-open connections of the workers to Redis; then reset; then held up",
    count=300,
    faults=3,
    every=300,
    proxied=True,
)
def half_open(system: System, count: int, faults: int, seed: int) -> Figures:
    proxy = system.proxy
    assert proxy is not None

    def hold() -> None:
        proxy.hold()
        time.sleep(3.0)
        proxy.release()

    kinds = (proxy.drop, proxy.reset, hold)
    turn = iter(range(faults))
    return under_fire(
        system, count, faults, lambda _: kinds[next(turn) % 3](), seed=seed, allowed=ALL, rate=count / faults / 8
    )


@row("F8", "connections of Redis killed, CLIENT PAUSE, DEBUG SLEEP", count=200, faults=5, every=100)
def storm(system: System, count: int, faults: int, seed: int) -> Figures:
    def inject(chance: random.Random) -> None:
        with system.redis.client() as client:
            match chance.choice(["normal", "pubsub", "pause", "sleep"]):
                case "pause":
                    client.client_pause(1_000)
                    time.sleep(1.0)
                case "sleep":
                    client.execute_command("DEBUG", "SLEEP", "1.5")
                case kind:
                    client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    return under_fire(system, count, faults, inject, seed=seed, allowed=ALL)


@row("F9", "Redis at maxmemory (noeviction)")
def full(system: System, count: int, faults: int, seed: int) -> Figures:
    """Stock workers' main processes die of it, and take up to 10 s to."""
    statuses: set[int] = set()
    probes: list[str] = []

    def inject(_: random.Random) -> None:
        keys: list[str] = []
        with system.redis.client() as client:
            client.config_set("maxmemory", "1")
            end = time.monotonic() + 2.0
            while time.monotonic() < end:
                statuses.add(_probe(system, keys))
            client.config_set("maxmemory", "0")
        probes.extend(map(system.submit, keys))

    figures = under_fire(system, count, faults, inject, seed=seed, allowed=ALL, apart=probes)
    figures.bound = 60.0
    figures.demand(statuses == {503}, f"submits are refused with 503 meanwhile, not {statuses}")
    return figures


def _is_back(system: System) -> bool:
    if system.redis.process.poll() is not None:
        system.redis.spawn()
    return _answers(system)


def _answers(system: System) -> bool:
    with contextlib.suppress(RedisError), system.redis.client() as client:
        return bool(client.ping())
    return False


@row("F9b", "the disk under Redis' append-only file full", on_small_disk=True)
def disk_full(system: System, count: int, faults: int, seed: int) -> Figures:
    """Redis, which syncs always, ends of it, and is started again, as ``make up`` does, until there is room."""
    statuses: set[int] = set()
    probes: list[str] = []

    def inject(_: random.Random) -> None:
        keys: list[str] = []
        full = system.fill_disk()
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            if system.redis.process.poll() is not None:
                system.redis.spawn()
            while system.redis.process.poll() is None and not _answers(system):
                time.sleep(0.01)
            with contextlib.suppress(RedisError), system.redis.client() as client:
                client.set("one more", "x" * 100_000)  # the last page of its file has room for a short command
            statuses.add(_probe(system, keys))
        full.unlink()
        while not _is_back(system):  # what was started with the disk full may still end of it
            time.sleep(0.05)
        probes.extend(map(system.submit, keys))

    figures = under_fire(system, count, faults, inject, seed=seed, allowed=ALL, apart=probes)
    figures.demand(statuses == {503}, f"submits are refused with 503 meanwhile, not {statuses}")
    return figures


@row("F10", "kill -9 of web; 100 posts at once with one key", faults=2, every=200)
def kill_web(system: System, count: int, faults: int, seed: int) -> Figures:
    figures = under_fire(system, count, faults, system.kill_web, seed=seed)
    key = f"same-{seed}-{time.time()}"
    with ThreadPoolExecutor(20) as pool:
        ids = set(pool.map(lambda _: system.submit(key), range(100)))
    figures.demand(len(ids) == 1, f"one key is one job, not {len(ids)}")
    system.settle(10)
    figures.demand(sum(job_id in ids for what, job_id, _ in system.entries() if what == "start") == 1, "and runs once")
    return figures


def _deep(depth: int) -> bytes:
    return b'{"input":{"value":' + b"[" * depth + b"]" * depth + b"}}"


#: Bodies of which each one, let in, would kill or deafen a stock worker, or whoever reads the result.
HOSTILE = [
    *(_deep(depth) for depth in (100, 1_000, 10_000, 100_000)),
    *(b'{"input":{"value":%s}}' % value for value in (b"NaN", b"-Infinity", b"1e999", b"9" * 5_000)),
    b'{"input":{"value":"\\ud800"}}',
    b'{"input":{"value":1,"value":2}}',
]
HARMLESS = [_deep(10), b'{"input":{"value":{"__type__":"datetime","__value__":"x"}}}', b'{"input":{"value":"\\u0000"}}']


@row("F13", "poison: a task that kills its process every time; hostile inputs", faults=2)
def poison(system: System, count: int, faults: int, seed: int) -> Figures:
    poisons: dict[str, float] = {}
    pids = [worker.process.pid for worker in system.workers]

    def inject(chance: random.Random) -> None:
        poisons[system.submit(f"poison-{chance.random()}", "faults.poison")] = time.monotonic()

    figures = under_fire(system, count, faults, inject, seed=seed, allowed=SLOTS, apart=poisons)
    wait_for(lambda: set(system.states(list(poisons)).values()) == {"FAILURE"}, 60)
    took = time.monotonic() - min(poisons.values())
    with system.redis.client() as client:
        dead = client.zcard("{tcb}index:dead")
    figures.demand(took < 60, "given up within 60 s")
    figures.demand(dead >= len(poisons), "and found as dead")
    path, slowest = "/v1/tasks/faults.echo/jobs", 0.0
    for body in HOSTILE:
        begun = time.perf_counter()
        status, _ = system.ask(path, body)
        slowest = max(slowest, time.perf_counter() - begun)
        figures.demand(400 <= status < 500, f"{body[:40]!r} is refused, and not answered {status}")
    for body in HARMLESS:
        status, document = system.ask(path, body)
        figures.demand(status == 202, f"{body[:40]!r} is accepted, and not answered {status}")
        wait_for(lambda document=document: system.states([document["id"]])[document["id"]] == "SUCCESS", 20)  # type: ignore[misc]
    figures.demand(pids == [worker.process.pid for worker in system.workers], "no worker dies")
    figures.notes |= {"given up after, s": round(took, 1), "hostile refused after, ms": round(slowest * 1000, 1)}
    return figures


@row("F14", "a task that ignores TERM past its time limit of 3 s", count=100)
def stubborn(system: System, count: int, faults: int, seed: int) -> Figures:
    made: dict[str, float] = {}

    def inject(_: random.Random) -> None:
        made[system.submit(f"stubborn-{time.time()}", "faults.stubborn")] = time.monotonic()

    figures = under_fire(system, count, faults, inject, seed=seed, allowed=0, apart=made)
    for job_id, begun in made.items():
        wait_for(lambda job_id=job_id: system.states([job_id])[job_id] == "FAILURE", 30)  # type: ignore[misc]
        figures.notes["ended after, s"] = round(time.monotonic() - begun, 1)
    starts = [job_id for what, job_id, _ in system.entries() if what == "start" and job_id in made]
    figures.demand(len(starts) == len(made), "it is not tried again")
    return figures


@row("F15", "cancel, then kill -9 of every worker", count=100)
def cancel(system: System, count: int, faults: int, seed: int) -> Figures:
    """The workers hear of nothing meanwhile: they are stopped, with a first few messages in their hands."""
    system.forget()
    with system.killing:
        for worker in system.workers:
            os.killpg(worker.process.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda number: system.submit(f"{seed}-{time.time()}-{number}"), range(count)))
            answers = list(pool.map(lambda each: system.ask(f"/v1/jobs/{each}/cancel", method="POST")[0], ids))
        for worker in system.workers:
            worker.kill()
        for worker in system.workers:
            worker.start()
    left = system.settle(60)
    states, ran = system.states(ids), {job_id for _, job_id, _ in system.entries()}
    figures = Figures(accepted=count, faults=1, left=left)
    cancelled = [job_id for job_id, status in zip(ids, answers, strict=True) if status in (200, 202)]
    figures.demand(len(cancelled) == count, f"all are cancelled, not {len(cancelled)} of {count}")
    figures.demand(not ran & set(ids), f"none runs, not {len(ran & set(ids))}")
    figures.demand(set(states.values()) == {"REVOKED"}, "all end REVOKED")
    return figures


@row("F16", "kill -9 of a worker during a chord", count=60, faults=2)
def chord(system: System, count: int, faults: int, seed: int) -> Figures:
    system.forget()
    chance, count = random.Random(seed), min(count, 200)
    header = [{"task": "faults.work", "input": {"seconds": 0.3}}] * count
    status, document = system.ask("/v1/workflows", {"chord": {"header": header, "body": {"task": "faults.gather"}}})
    assert status == 202, document
    accepted = dict.fromkeys(_ids(document["tree"]), time.time())
    happened = []
    for _ in range(faults):
        time.sleep(chance.uniform(1.0, 3.0))
        happened.append((time.time(), time.time()))
        system.kill_worker(chance)
    left = system.settle(90)
    journal, states = system.entries(), system.states(list(accepted))
    figures = check(accepted, journal, states, happened, faults * SLOTS)
    figures.left, figures.recovery = left, 0.0  # the chord's own length
    body = list(accepted)[-1]
    figures.demand(sum(entry[:2] == ("start", body) for entry in journal) == 1, "its body runs once")
    return figures


def _ids(tree: object) -> list[str]:
    """Return the ids of a workflow's jobs, a chord's body last."""
    if isinstance(tree, dict):
        return [tree["id"]] if "id" in tree else [each for part in tree.values() for each in _ids(part)]
    return [each for part in tree for each in _ids(part)] if isinstance(tree, list) else []


@dataclass
class Sample:
    """The system at one moment of a soak."""

    minute: float
    web_megabytes: float
    web_descriptors: int
    #: Of a worker's main process.
    worker_megabytes: float
    #: For how long the web process' loop made a request wait that asks it for nothing.
    lag_ms: float
    waiting: int


def soak(system: System, minutes: float, seed: int, rate: float = 20.0) -> tuple[Figures, list[Sample]]:
    """F19: jobs at a steady rate, and a random fault of the above every minute (at least three)."""
    samples: list[Sample] = []
    ended = threading.Event()

    def watch() -> None:
        begun = time.monotonic()
        while not ended.wait(5.0):
            try:
                samples.append(_sample(system, (time.monotonic() - begun) / 60))
            except (OSError, RedisError):
                continue

    faults = max(3, round(minutes))
    kinds = [system.kill_child, system.kill_worker, system.restart_worker, system.kill_redis, system.kill_web]
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    figures = under_fire(
        system,
        round(minutes * 60 * rate),
        faults,
        lambda chance: chance.choice(kinds)(chance),
        seed=seed,
        rate=rate,
        allowed=ALL,
    )
    ended.set()
    watcher.join()
    begun, ended_with = samples[: len(samples) // 2], samples[len(samples) // 2 :]
    for name, slack in (("web_descriptors", 30), ("web_megabytes", 30), ("worker_megabytes", 30)):
        grown = statistics.median(getattr(each, name) for each in ended_with) - statistics.median(
            getattr(each, name) for each in begun
        )
        figures.demand(grown < slack, f"{name} of the second half is no more than {slack} above the first: {grown:.0f}")
    lag = statistics.median(each.lag_ms for each in samples)
    figures.demand(lag < 100, f"a request that does nothing is answered within 100 ms: {lag:.0f}")
    return figures, samples


def _sample(system: System, minute: float) -> Sample:
    """Look at the processes that live longest."""
    descriptors = len(list(Path(f"/proc/{system.web.process.pid}/fd").iterdir()))
    begun = time.perf_counter()
    system.ask("/healthz")
    lag = (time.perf_counter() - begun) * 1000
    with system.redis.client() as client:
        waiting = int(client.zcard("{tcb}index:state:PENDING"))
    return Sample(minute, _megabytes(system.web), descriptors, _megabytes(system.workers[0]), lag, waiting)


def _megabytes(program: Program) -> float:
    return int(Path(f"/proc/{program.process.pid}/statm").read_text().split()[1]) * 4096 / 2**20

"""
The fault matrix with large numbers: ``python -m tests.faults --count 10000 F1 F2``, or ``make faults`` for all of it.

Each row that is done is a line in ``.test/faults.jsonl``, and docs/reliability.md is written anew from the last line of
each, so that rows may be run one by one, or side by side (each has servers of its own).
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.faults.harness import ROOT, SLOTS, WORKERS, Broker, Figures, running
from tests.faults.rows import ROWS, Row, soak
from tests.servers import Server, free_port
from tornado_celery_bridge.up.brokers import KINDS

RESULTS, REPORT = ROOT / ".test" / "faults.jsonl", ROOT / "docs" / "reliability.md"
PLOT = REPORT.parent / "images" / "soak.svg"

HEAD = """# Reliability

This page has what the fault matrix measured. Run it with `make faults` (or `python -m tests.faults --count N ROW…`);
the tests run the same with small numbers.

The processes are real: {workers} workers of {slots} prefork processes each, one `tcb serve`, and one Valkey with AOF.
A second Valkey, which no fault reaches, holds what each task writes when it starts and when it ends. Jobs are
submitted over HTTP at 20 a second. Each has an idempotency key, and is submitted again with the same key until it is
accepted. A seeded generator draws the faults and spreads them over the load. What was killed is started again at
once. Then the harness (`tests/faults/harness.py`) compares the accepted jobs with the jobs that ran.

{versions}. The machine was shared with other work, so times are upper bounds.

- **lost**: jobs that were accepted, and had not run to their end when nothing was left in the queue. 0 lost of n
  proves with 95 % confidence that no more than 3/n are lost; the column *at most* says that.
- **second starts**: starts of a job after its first. There may be one for each process slot that a fault hits.
- **held up**: the longest time in seconds that a lost job waited for its next start (or for its first, if it had not
  begun). The time during which a fault itself went on is not counted. Bound: 15 s.
- **load**: the machine's load average over five minutes. Where it is well above the number of cores, other work held
  the jobs up, and not the fault.
- **back**: the longest time in seconds from the end of a fault to the next end of a job.
- **wrong**: what the row demands and did not get. Every row also demands that no job is FAILED, that every job
  reaches a last state, that no job ran which nobody had accepted, and that the queue and the unacknowledged messages
  are empty at the end.

## The product

"""

STOCK = """
## Stock Celery, hardened by settings

These rows have the same harness, processes and settings (`celeryconfig.py`: late acknowledgement, reject on a lost
worker, prefetch 1; visibility timeout 10 s; the same `appendfsync`), but no `install(app)`. Jobs are sent by
`send_task`, and sent again with the same id if that raised an error. Each fault loses few jobs, so compare runs of
thousands.

"""

TAIL = """
## Soak (F19)

{soak}

## What is not here

- F11 and F12 (a beat that is killed or frozen, clocks that are set) are in tests/schedules/test_beats.py. F18 (huge
  bodies) and parts of F17 (slow readers, waits whose client hung up, hostile WebSockets) are in tests/service, with
  small numbers; 5,000 idle connections at once were not tried. F20 (the state machine under hypothesis) is in
  tests/ledger/test_states.py.
- All of this ran on one machine: no fault here separates machines or loses a disk. A kill ends a process; it does not
  empty the operating system's cache.
"""

COLUMNS = "| row | what | jobs | faults | lost | at most | second starts | held up | back | wrong | also |\n" + (
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def run(name: str, count: int | None, seed: int, *, stock: bool, sync: str) -> dict[str, Any]:
    """Put the product, or stock Celery, to one row, and return what came of it."""
    row = ROWS[name]
    count = count or row.count
    faults = max(row.faults, count // row.every) if row.every else row.faults
    with (
        tempfile.TemporaryDirectory() as folder,
        broker_of(row, Path(folder)) as broker,
        running(
            Path(folder), on_small_disk=row.on_small_disk, broker=broker, stock=stock, proxied=row.proxied, sync=sync
        ) as system,
    ):
        figures = row.run(system, count, faults, seed)
        crashes = system.crashes
    own = not (stock or os.environ.get("STOCK_TRANSPORT"))
    more = {"stock": stock, "sync": sync, "transport": "ours" if own else "kombu's", "load": os.getloadavg()[1]}
    return result(figures, crashes) | more | {"row": name, "what": row.what, "seed": seed}


@contextmanager
def broker_of(row: Row, folder: Path) -> Iterator[Broker | None]:
    """Start the broker of a row that has one of its own."""
    if not row.broker:
        yield None
        return
    broker = KINDS[row.broker](folder / row.broker, free_port())
    if not broker.available():
        raise SystemExit(f"{row.name} needs {row.broker}, which can't be had here")
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def result(figures: Figures, crashes: int) -> dict[str, Any]:
    counts = {name: len(getattr(figures, name)) for name in ("lost", "unfinished", "failed", "unexpected")}
    names = (
        "accepted",
        "faults",
        "second_starts",
        "allowed",
        "recovery",
        "back",
        "left",
        "notes",
        "broken",
        "evidence",
    )
    wrong = {name: len(value) if name in counts else value for name, value in figures.wrong().items()}
    if "recovery" in wrong:
        wrong["recovery"] = round(figures.recovery, 1)
    more = {"wrong": wrong, "crashes": crashes, "date": time.strftime("%d %B %Y")}
    return counts | {name: getattr(figures, name) for name in (*names, "evidence")} | more


def run_soak(minutes: float, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as system:
        figures, samples = soak(system, minutes, seed)
        found = result(figures, system.crashes)
    more = {"minutes": minutes, "load": os.getloadavg()[1], "samples": [vars(sample) for sample in samples]}
    return found | {"row": "F19", "stock": False} | more


# The report.


def line(found: dict[str, Any]) -> str:
    notes = dict(found["notes"]) | ({"main processes that died of it": found["crashes"]} if found["crashes"] else {})
    notes["load"] = round(found["load"], 1)
    if found["sync"] != "always":
        notes["appendfsync"] = found["sync"]
    if found["transport"] != "ours" and not found["stock"]:
        notes["transport"] = found["transport"]
    wrong = "; ".join(f"{name}: {value}" for name, value in found["wrong"].items()) or "nothing"
    bound = f"{3 / found['accepted']:.2%}" if not found["lost"] else ""
    cells = [
        *(found["row"], found["what"], f"{found['accepted']:,}", found["faults"], found["lost"], bound),
        f"{found['second_starts']} of {found['allowed']}",
        *(f"{found['recovery']:.1f}", f"{found['back']:.1f}" if found["faults"] else ""),
        *(wrong, "; ".join(f"{name}: {value}" for name, value in notes.items())),
    ]
    return "| " + " | ".join(map(str, cells)) + " |\n"


def soak_text(found: dict[str, Any]) -> str:
    wrong = "; ".join(f"{name}: {value}" for name, value in found["wrong"].items()) or "nothing"
    text = (
        f"{found['minutes']:g} minutes, {found['accepted']:,} jobs, {found['faults']} faults (kill -9 of a pool "
        f"process, a worker, Redis or web, or a worker that is restarted): {found['lost']} jobs were lost, "
        f"{found['second_starts']} started a second time, and the longest was held up for "
        f"{found['recovery']:.1f} s. *wrong*: {wrong}. Load: {found['load']:.1f}.\n\n"
        f"![What it was like]({PLOT.relative_to(REPORT.parent)})"
    )
    return text


#: What is drawn of a soak's samples, one below the other.
PANELS = {
    "web_megabytes": "web, MB",
    "web_descriptors": "web, descriptors",
    "worker_megabytes": "a worker, MB",
    "lag_ms": "lag of web's loop, ms",
    "waiting": "jobs waiting",
}
WIDTH, HEIGHT, LEFT = 800, 110, 60


def plot(samples: list[dict[str, Any]]) -> str:
    """Return an SVG picture of a soak: each of :data:`PANELS` over the minutes, from 0 to its most."""
    longest = samples[-1]["minute"]
    drawn = []
    for place, (name, title) in enumerate(PANELS.items()):
        top, values = place * (HEIGHT + 30) + 25, [sample[name] for sample in samples]
        most = max(*values, 1)
        points = " ".join(
            f"{LEFT + sample['minute'] / longest * (WIDTH - LEFT):.1f},{top + HEIGHT * (1 - sample[name] / most):.1f}"
            for sample in samples
        )
        drawn += [
            f'<text x="{LEFT}" y="{top - 6}">{title}</text>',
            f'<text x="{LEFT - 6}" y="{top + 8}" text-anchor="end">{most:.0f}</text>',
            f'<text x="{LEFT - 6}" y="{top + HEIGHT}" text-anchor="end">0</text>',
            f'<path d="M{LEFT},{top}v{HEIGHT}h{WIDTH - LEFT}" fill="none" stroke="#999"/>',
            f'<polyline points="{points}" fill="none" stroke="#06c"/>',
        ]
    tall = len(PANELS) * (HEIGHT + 30) + 25
    drawn.append(f'<text x="{WIDTH}" y="{tall - 6}" text-anchor="end">{longest:.0f} minutes</text>')
    style = 'font-family="sans-serif" font-size="12" style="background:#fff"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 10} {tall}" {style}>'
    return "\n".join([head, *drawn, "</svg>\n"])


def write_report() -> None:
    last: dict[tuple[Any, ...], dict[str, Any]] = {}
    for each in RESULTS.read_text().splitlines():
        found = json.loads(each)
        last[found["row"], found["stock"], found.get("sync"), found.get("transport")] = found
    soaked = last.pop(("F19", False, None, None), None)
    order = list(ROWS)
    rows = sorted(last.values(), key=lambda found: (order.index(found["row"]), found["sync"]))
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("celery", "kombu", "redis", "tornado"))
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}, Valkey {_server_version()}"
    dates = ", ".join(dict.fromkeys(found["date"] for found in rows))
    head = HEAD.format(workers=WORKERS, slots=SLOTS, versions=f"{dates}; {machine}")
    text = head + COLUMNS + "".join(line(found) for found in rows if not found["stock"])
    text += STOCK + COLUMNS + "".join(line(found) for found in rows if found["stock"])
    if soaked:
        PLOT.write_text(plot(soaked["samples"]))
    text += TAIL.format(soak=soak_text(soaked) if soaked else "Not run: `python -m tests.faults --minutes 30`.")
    REPORT.write_text(text)


def _server_version() -> str:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder)).start()
        with server.client() as client:
            info = client.info("server")
        server.stop()
    return str(info.get("valkey_version") or info["redis_version"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], metavar="ROW", help=f"of {', '.join(ROWS)}; or all")
    parser.add_argument("--count", type=int, help="jobs; the tests' small number, if there is none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stock", action="store_true", help="put stock Celery to it instead, where that makes sense")
    parser.add_argument("--sync", default="always", choices=["always", "everysec"], help="Redis' appendfsync")
    parser.add_argument("--minutes", type=float, help="a soak of so long instead of rows")
    parser.add_argument("--no-report", dest="report", action="store_false", help="leave docs/reliability.md as it is")
    options = parser.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    wrong = 0
    for name in ["F19"] if options.minutes else options.rows or ROWS:
        if options.minutes:
            found = run_soak(options.minutes, options.seed)
        elif options.stock and not ROWS[name].has_stock:
            continue
        else:
            found = run(name, options.count, options.seed, stock=options.stock, sync=options.sync)
        with RESULTS.open("a") as file:
            file.write(json.dumps(found) + "\n")
        if options.report:
            write_report()
        wrong += bool(found["wrong"]) and not options.stock
        print(name, {key: value for key, value in found.items() if key != "samples"}, flush=True)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())

"""
The contract's promise under ``kill -9``, with large numbers: ``python -m tests.conformance.kills --broker kafka``.

The product runs on a private broker; 10 times one of its workers is killed with all its processes, and 3 times the
broker, while jobs are submitted at a steady rate. What was accepted is compared with what ran, by the harness of
tests/faults. The figures are a row of docs/brokers.md.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.conformance import matrix
from tests.conformance.brokers import KINDS
from tests.faults.harness import RECOVERY, SLOTS, WORKERS, Figures, running, under_fire

#: How many kills of workers, and of the broker.
KILLS = {"kill_worker": 10, "kill_broker": 3}
#: Jobs that may begin a second time for each: as many as may be running.
ALLOWED = WORKERS * SLOTS

HEAD = [
    "| broker | jobs | a second | lost | at most | second starts | held up, s | over 15 s | back, s | load | when |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
]


def run(broker: str, count: int, rate: float, seed: int) -> Figures:
    """Put the product on a broker to it."""
    kind = KINDS[broker]
    if not kind.is_available():
        raise SystemExit(f"{broker} can't be had here")
    kills = [name for name, number in KILLS.items() for _ in range(number)]
    random.Random(seed).shuffle(kills)
    with tempfile.TemporaryDirectory() as folder:
        server = kind.make(Path(folder) / "broker")
        server.start()
        try:
            with running(Path(folder), broker=server, sample="tests.conformance.sample") as system:
                turn = iter(kills)

                def kill(chance: random.Random) -> None:
                    name = next(turn)
                    begun = time.monotonic()
                    getattr(system, name)(chance)
                    print(f"{time.strftime('%H:%M:%S')} {name}, {time.monotonic() - begun:.1f} s", flush=True)

                more: dict[str, Any] = {"seconds": 0.02, "allowed": ALLOWED, "task": "c.nap"}
                return under_fire(system, count, len(kills), kill, seed=seed, rate=rate, **more)
        finally:
            server.stop()


def row(broker: str, figures: Figures, rate: float) -> list[str]:
    """Return a broker's cells."""
    lost = len(figures.lost)
    return [
        *(broker, f"{figures.accepted:,}", f"{rate:g}", str(lost), "" if lost else f"{3 / figures.accepted:.2%}"),
        *(f"{figures.second_starts} of {figures.allowed}", f"{figures.recovery:.1f}", str(len(figures.slow))),
        f"{figures.back:.1f}",
        *(f"{os.getloadavg()[1]:.0f}", time.strftime("%d %B %Y")),
    ]


def write(cells: list[str]) -> None:
    """Put a broker's row into the docs, in place of the one that it had."""
    rows = {line.split(" | ")[0]: line for line in matrix.written("kills")[len(HEAD) :]}
    line = f"| {' | '.join(cells)} |"
    rows[line.split(" | ")[0]] = line
    matrix.write("kills", [*HEAD, *(rows[name] for name in sorted(rows))])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.kills", description=__doc__)
    parser.add_argument("--broker", required=True, choices=KINDS)
    parser.add_argument("--count", type=int, default=10_000, help="jobs")
    parser.add_argument("--rate", type=float, default=25.0, help="jobs submitted in a second")
    parser.add_argument("--seed", type=int, default=1, help="what is killed, and when")
    parser.add_argument("--dry", action="store_true", help="leave docs/brokers.md as it is")
    options = parser.parse_args()
    figures = run(options.broker, options.count, options.rate, options.seed)
    wrong = figures.wrong()
    wrong.pop("recovery", None)  # a broker that is away for longer holds jobs up for longer: a figure, and no more
    print({name: value for name, value in vars(figures).items() if name not in ("evidence", "slow")})
    print(f"wrong: {wrong or 'nothing'}; held up for over {RECOVERY:g} s: {len(figures.slow)}")
    for job_id, known in figures.evidence.items():
        print(job_id, known)
    if not options.dry:
        write(row(options.broker, figures, options.rate))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

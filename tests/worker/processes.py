"""How the tests of this room start a worker."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


OPTIONS = ("--concurrency", "2", "--without-gossip", "--without-mingle")

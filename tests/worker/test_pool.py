"""The pool of processes."""

import subprocess
import sys
from pathlib import Path

from tests.worker.processes import ROOT


def test_of_two_processes_that_die_together_neither_begins_its_job_again(tmp_path: Path) -> None:
    """
    The pool hears of one while it clears the other away, and has not read what that said of its job.

    What it hears later is not taken for the end of a process that has come in its place.
    """
    words = [sys.executable, "-m", "tests.worker.dying_together", str(tmp_path / "begun")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "2\nTrue\n", done.stderr

"""The interpreters in which other libraries run: each library at its newest version."""

import functools
import os
import subprocess
import sys


@functools.cache
def python_of(module: str) -> str | None:
    """
    Return the interpreter that has a library; None if none has it.

    ``BENCH_PYTHON`` names one or more, with colons between them. Libraries whose versions do not fit together need one
    each: requirements/peers.lock, requirements/taskiq.lock.

    Args:
        module: What is imported of the library.
    """
    for python in os.environ.get("BENCH_PYTHON", sys.executable).split(":"):
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0:
            return python
    return None

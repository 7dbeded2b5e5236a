"""
Files of state that a process can do without, as Python's :mod:`shelve` keeps them.

One that can't be read would keep its process from starting: it was written by another Python, whose databases are of
another kind, or is damaged. It is put aside then, and the process begins with an empty one.
"""

import errno
import shelve
from collections.abc import Callable
from pathlib import Path

#: What a database of a kind puts after the name.
_SUFFIXES = ("", ".db", ".dat", ".dir", ".bak", ".pag")


def put_aside(path: Path, load: Callable[[str], object]) -> str:
    """
    Put a file of state aside if it can't be read.

    Args:
        path: Its name, to which the database may add a suffix.
        load: Reads it, by its name, as its process does.

    Returns:
        What is to be said about it; empty if it can be read, is not there, or is in use by another process.
    """
    files = [file for suffix in _SUFFIXES if (file := path.with_name(path.name + suffix)).exists()]
    if not files:
        return ""
    try:
        load(str(path))
    except Exception as exc:  # of any database, and of whatever was pickled
        if getattr(exc, "errno", None) == errno.EAGAIN or "locked" in str(exc):
            return ""
        for file in files:
            file.replace(file.with_name(f"{file.name}.unreadable"))
        told = " ".join(str(exc).split()) or type(exc).__name__
        return f"{path} can't be read ({told}): it is put aside as {path.name}.unreadable, and an empty one is begun"
    return ""


def read_all(name: str) -> None:
    """Read all of a shelf."""
    with shelve.open(name) as kept:
        dict(kept)

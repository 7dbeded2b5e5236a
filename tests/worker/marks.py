"""How often a task's code has begun, whichever process runs it."""

from pathlib import Path


def mark(path: str) -> int:
    """Note that the code begins; return how often it has."""
    with Path(path).open("a+") as file:
        file.write("x")
        return file.tell()

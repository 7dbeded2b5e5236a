"""What a task's code notes in files, whichever process runs it."""

from pathlib import Path


def mark(path: str) -> int:
    """Note that the code begins; return how often it has."""
    with Path(path).open("a+") as file:
        file.write("x")
        return file.tell()


def note(path: str, text: str) -> None:
    """Write a file."""
    Path(path).write_text(text)


def is_there(path: str) -> bool:
    """Return whether there is a file."""
    return Path(path).exists()

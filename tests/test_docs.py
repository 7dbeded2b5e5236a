"""Examples with curl and with tcb's commands for jobs show what the real service, with a real worker, answers."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.servers import Database, wait_for, worker
from tests.service.processes import Web, serving

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

#: Where `make up` serves.
URL = "http://127.0.0.1:8888"


#: An example of a command that asks the service; `tcb keys` and others are examples of other tests.
TCB = re.compile(r"^\$ (\w+=\$\(|\w+=\S+ )?tcb (run|watch|list|cancel|retry)\b", re.MULTILINE)


def blocks() -> Iterator[tuple[str, str, str]]:
    """Yield page and line, language and text of each block that has curl in it."""
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if (found[1] == "console" and TCB.search(found[2])) or re.search(r"\bcurl .*http", found[2], re.DOTALL):
                line = text[: found.start()].count("\n") + 1
                yield f"{page.relative_to(ROOT)}:{line}", found[1], found[2]


BLOCKS = list(blocks())


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a block, which begins with a dollar, and what comes after it: what it writes."""
    lines = text.splitlines()
    while lines:
        command = lines.pop(0).removeprefix("$ ")
        while command.endswith(("\\", "|")) or not is_whole(command):
            command += "\n" + lines.pop(0)
        written = []
        while lines and not lines[0].startswith("$ "):
            written.append(lines.pop(0))
        yield command, "\n".join(written)


def is_whole(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:  # within quotes
        return False
    return True


def matches(written: str, shown: str) -> bool:
    """Return whether all that was written is shown: white space aside, and with … (or 5f4d…, of an id) for anything."""
    written, shown = ("".join(text.split()) for text in (written, shown))
    pattern = ".*?".join(map(re.escape, re.split(r"[0-9a-f]{4}…|…", shown)))
    return re.fullmatch(pattern, written) is not None


def test_what_counts_as_the_same() -> None:
    assert matches('{"id":"12-34","n":[1,2]}', '{"id": "5f4d…", "n": [1, 2]}')
    assert matches("HTTP/1.1 202 Accepted\r\nA: b\r\n\r\n{}", "HTTP/1.1 202 Accepted\n…\n{}")
    assert not matches('{"n":1,"m":2}', '{"n":1}')
    assert not matches('{"n":12}', '{"n":1, …}')


def test_every_example_shows_its_answer() -> None:
    assert len(BLOCKS) > 10
    for place, language, text in BLOCKS:
        assert language == "console", place
        for command, shown in commands(text):
            assert shown or not command.startswith("curl"), f"{place}: {command}"


@pytest.fixture(scope="module")
def product(databases: Iterator[Database], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The service, without keys and with, and the variables that examples have: jobs in the states that they need."""
    folder = tmp_path_factory.mktemp("docs")
    Image.new("RGB", (640, 480)).save(folder / "photo.jpg")
    settings = {
        "REDIS_URL": next(databases).url,
        "DATA_DIR": str(folder),
        "CALLBACK_ALLOW": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }
    command = folder / "bin" / "tcb"  # of this folder, wherever this environment's own leads to
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tornado_celery_bridge "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **settings, "PATH": path, "HOME": str(folder)}
    keys = {**environment, "API_KEYS_FILE": str(folder / "keys.json")}
    make = [sys.executable, "-m", "tornado_celery_bridge", "keys", "make", "--owner", "somebody"]
    key = subprocess.run(make, env=keys, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    with ExitStack() as stack:
        stack.enter_context(worker("tasks", settings, folder / "worker.log", "--concurrency", "2"))
        plain = stack.enter_context(serving(folder / "web.log", **settings))
        guarded = stack.enter_context(serving(folder / "guarded.log", API_KEYS_FILE=keys["API_KEYS_FILE"], **settings))
        ended = submitted(plain, callback_url="http://127.0.0.1:1/")
        deliveries = f"/v1/jobs/{ended}/deliveries"
        wait_for(lambda: plain.fetch(deliveries)[1]["deliveries"][0]["attempts"])
        delivery = plain.fetch(deliveries)[1]["deliveries"][0]["id"]
        for _ in range(2):
            plain.fetch("/v1/tasks/tasks.data.profile_csv/jobs", {"input": {"csv": ""}}, Prefer="wait=20")
        group = plain.fetch("/v1/failures")[1]["failures"][0]["id"]
        variables = {"GROUP": group, "ID": ended, "DELIVERY": delivery}
        variables["API_KEY"] = key
        yield {"folder": folder, "environment": environment | variables, "plain": plain, "guarded": guarded}


def submitted(web: Web, **options: Any) -> str:
    body = {"input": {"text": "to be or not to be", "top": 1}, "options": options}
    wait = "respond-async" if "countdown" in options else "wait=20"
    _, made = web.fetch("/v1/tasks/tasks.text.count_words/jobs", body, Prefer=wait)
    return str(made["id"])


@pytest.mark.parametrize(("place", "language", "text"), BLOCKS, ids=[place for place, _, _ in BLOCKS])
def test_an_example_answers_what_it_shows(product: dict[str, Any], place: str, language: str, text: str) -> None:
    web = product["guarded" if "API_KEY" in text else "plain"]
    found = [(command.replace(URL, f"http://127.0.0.1:{web.port}"), shown) for command, shown in commands(text)]
    # What tcb says on standard error is part of what it shows.
    shows = [f"{{ {command}; }} 2>&1" if command.startswith("tcb") else command for command, _ in found]
    script = "".join(f"{command}\nprintf '\\0'\n" for command in shows)
    bash = ["bash", "-euo", "pipefail", "-c", script]
    environment = {**product["environment"], "TCB_URL": f"http://127.0.0.1:{web.port}"}
    if "$WAITING" in text:  # some examples cancel it
        environment["WAITING"] = submitted(product["plain"], countdown=600)
    done = subprocess.run(
        bash, cwd=product["folder"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for (command, shown), written in zip(found, done.stdout.split("\0"), strict=False):
        assert matches(written, shown), f"{place}: {command}\nwrites:\n{written}\nand not:\n{shown}"

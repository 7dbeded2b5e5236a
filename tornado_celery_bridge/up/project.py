"""
What ``tcb up`` runs for a project: the lines of its Procfile, or else the whole product over its Celery app.

A Procfile of which a line starts with ``tcb`` was written for it, and is run as it is. In any other folder the app runs
with what it lacks set in its place, in these processes alone. What that is, a child process finds out
(``cli.survey``): the supervisor imports nothing that it supervises.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.up import supervisor
from tornado_celery_bridge.up.supervisor import PYTHON, Plan

#: What replaces ``python`` and ``tcb`` at the beginning of a command.
OWN = {"python": PYTHON, "tcb": f"{PYTHON} -m tornado_celery_bridge"}

#: What is run where there is no Procfile of ours.
COMMANDS = """
redis: tcb redis
web: tcb serve
worker: tcb worker
beat: tcb beat
flower: tcb flower
"""

#: What stands before the second column.
INDENT = " " * 10


class Options(NamedTuple):
    """What the command line says."""

    #: Patterns of names of tasks.
    expose: Sequence[str] = ()
    #: Celery's options of the worker.
    worker: Sequence[str] = ()
    #: Whether servers on other machines, and messages that are there, may be used.
    is_allowed: bool = False
    reloads: bool = False


def main(procfile: Path, options: Options) -> int:
    """
    Run the project in this folder; return the exit status.

    Raises:
        SettingsError: A setting is wrong, the app can't be imported or can't run, or the Procfile is none.
        ClickException: The broker does not answer.
    """
    is_there = procfile.exists()
    if is_there and is_ours(procfile.read_text("utf-8")):
        if options.expose or options.worker:
            raise SettingsError(
                f"{procfile} says what is run: -Q, -n and -c stand in its lines, and exposed=True in a task's options"
            )
        return supervisor.main(read_procfile(procfile), reloads=options.reloads)
    commands = _commands(COMMANDS, procfile)
    commands["worker"] = " ".join([commands["worker"], *map(shlex.quote, options.worker)])

    def prepare(settings: Settings, starts: Sequence[str], commands: Mapping[str, str]) -> Plan:
        return plan(settings, starts, commands, options, ignores=procfile if is_there else None)

    return supervisor.main(commands, prepare, reloads=options.reloads)


def is_ours(text: str) -> bool:
    """Return whether a Procfile was written for ``tcb up``."""
    return re.search(r"^[A-Za-z0-9_-]+:[ \t]*tcb\b", text, re.MULTILINE) is not None


def read_procfile(path: Path) -> dict[str, str]:
    """
    Return the commands of a Procfile by name, in order; those of :data:`COMMANDS` if there is no such file.

    Raises:
        SettingsError: A line has no command.
    """
    return _commands(path.read_text("utf-8") if path.exists() else COMMANDS, path)


def _commands(text: str, path: Path) -> dict[str, str]:
    commands = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"([A-Za-z0-9_-]+):\s*(\S+)(.*)", line.strip()):
            commands[match[1]] = OWN.get(match[2], match[2]) + match[3]
        elif line.strip() and not line.startswith("#"):
            raise SettingsError(f"{path}: not a line of the form 'name: command': {line!r}")
    return commands


def plan(
    settings: Settings,
    starts: Sequence[str],
    commands: Mapping[str, str],
    options: Options,
    *,
    ignores: Path | None = None,
) -> Plan:
    """Return what is run over an app that needs no line for it, and what is said about that."""
    asked = {"expose": options.expose, "starts": starts, "is_allowed": options.is_allowed}
    found = _survey(asked)
    broker = found["broker"]
    if trouble := broker.get("trouble"):
        raise click.ClickException(
            f"the broker of {settings.celery_app}, {broker['url']}, can't be used: {trouble.rstrip('.')}. "
            f"Start it, or try without it: tcb up -A {settings.celery_app} --broker redis"
        )
    os.environ["TCB_TRIAL"] = found["trial"]
    if found["result_backend"]:
        os.environ["RESULT_BACKEND"] = os.environ["CELERY_RESULT_BACKEND"] = found["result_backend"]
    allowed = {*filter(None, os.environ.get("ALLOW_UNSAFE", "").split(",")), *(name for name, _ in found["unsafe"])}
    os.environ["ALLOW_UNSAFE"] = ",".join(sorted(allowed))
    kept = dict(commands)
    reason = "" if options.is_allowed else _why_not_consumed(broker)
    if reason:
        del kept["worker"], kept["beat"]
    said = _opening(settings.celery_app, found, options, reason, ignores)
    return Plan(kept, ["", *(line for text in said for line in _wrapped(text)), ""])


def _survey(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a child process finds out about the app: see ``cli.survey``."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "tornado_celery_bridge.cli.survey", str(write_end)]
    environment = os.environ | {"TCB_SURVEY": json.dumps(asked)}
    with open(read_end) as answer, subprocess.Popen(command, pass_fds=[write_end], env=environment) as child:
        os.close(write_end)
        text = answer.read()
    if child.returncode:
        raise SystemExit(child.returncode if child.returncode > 0 else 1)  # it has said why
    found: dict[str, Any] = json.loads(text)
    return found


def _why_not_consumed(broker: Mapping[str, Any]) -> str:
    """Return why no worker takes the broker's messages; empty if one may."""
    if not broker.get("is_local", True):
        return "is not on this machine: a worker here would take the messages of others"
    if messages := broker.get("messages"):
        told = ", ".join(f"{count} in {queue}" for queue, count in messages.items())
        return f"holds messages that were there before ({told}): a worker here would take them"
    return ""


def _opening(app: str, found: Mapping[str, Any], options: Options, reason: str, ignores: Path | None) -> Iterator[str]:
    """Yield what is said before the processes start."""
    broker = found["broker"]
    if ignores is not None:
        yield f"{ignores} is left alone: no line of it starts with tcb."
    if found["lines"]:
        yield f"What {app} lacks is set in its place, in these processes alone. To make it permanent, write"
        for where, lines in found["lines"]:
            yield f"  {where}:"
            yield from (f"      {line}" for line in lines)
    else:
        yield f"{app} has all that it needs: nothing is set in its place."
    yield ""
    yield f"broker    {broker['url']}"
    if broker["of_the_app"]:
        place = broker["of_the_app"]
        yield f"{INDENT}Processes that are not started here still send to {place}: their tasks do not come here."
    yield f"queues    {', '.join(found['queues'])}" if "-Q" not in options.worker else "queues    as -Q says"
    if found["routers"]:
        names, queues = ", ".join(found["routers"]), ",".join(found["queues"])
        yield f"{INDENT}{names} may name others as tasks are sent. If so, name them all: -Q {queues},..."
    yield f"tasks     {_tasks(app, found)}"
    for note in found["notes"]:
        yield f"note      {note}"
    for name, what in found["unsafe"]:
        yield f"unsafe    {name}: {what}"
    if reason:
        yield f"NO WORKER AND NO BEAT: the broker {reason}."
        yield f"{INDENT}--yes starts them. To try without that broker: --broker redis"


def _wrapped(text: str) -> list[str]:
    """Return a line as lines, of which the others begin where its second column does, if any. Code stays as it is."""
    if not sys.stdout.isatty() or (text.startswith("  ") and not text.startswith(INDENT)):
        return [text]
    width = max(80, min(shutil.get_terminal_size().columns, 120)) - len("worker | ")
    indent = INDENT if re.match(r"\w+ {2,}| ", text) else ""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]


def _tasks(app: str, found: Mapping[str, Any]) -> str:
    """Return which tasks are served over HTTP."""
    tasks, exposed = found["tasks"], found["exposed"]
    if not tasks:
        return "none was found in the app"
    if not exposed:
        pattern = f"{tasks[0].rpartition('.')[0]}.*".lstrip(".")
        return f"{len(tasks)} found, none is served over HTTP: --expose '{pattern}' serves those of that name"
    shown = ", ".join(exposed[:4]) + (f" and {len(exposed) - 4} more" if len(exposed) > 4 else "")
    return f"{len(exposed)} of {len(tasks)} served over HTTP: {shown}"

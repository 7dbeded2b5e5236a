"""``tcb check`` and ``tcb doctor``: what is unsafe or unwise about the settings, and about the servers as well."""

import os
import shutil
import textwrap
from collections.abc import Collection, Sequence

import click
from celery import Celery

from tornado_celery_bridge.base.app import is_exposed, own_tasks, why_none_exposed
from tornado_celery_bridge.base.settings import VARIABLES
from tornado_celery_bridge.base.spelling import Spelling
from tornado_celery_bridge.cli.deployment import load
from tornado_celery_bridge.cli.options import app
from tornado_celery_bridge.cli.settings import of_the_app
from tornado_celery_bridge.ledger.checks import IMPOSSIBLE, NAMES, OF_SERVERS, Finding
from tornado_celery_bridge.ledger.checks import check as look
from tornado_celery_bridge.ledger.fleet import NAMES as FLEET
from tornado_celery_bridge.ledger.fleet import check_fleet
from tornado_celery_bridge.ledger.permissions import PROCESSES
from tornado_celery_bridge.schedules.schedules import OURS, beat_of
from tornado_celery_bridge.transports import describe

#: Columns: of the verdict and the name, and at most of a line.
INDENT = 25
WIDEST = 120


ALLOW = "\n".join(
    [
        "ALLOW_UNSAFE=NAME,... allows it all the same, by these names:\n",
        "\b",  # click leaves the lines as they are: it would cut a name at its hyphen
        *textwrap.wrap(", ".join(NAMES), 76, break_on_hyphens=False),
    ]
)


@click.command(epilog=ALLOW)
@app
def check() -> int:
    """
    Say what is unsafe about the app's settings. It asks no server: `tcb doctor` does.

    Ends with 1 if something is unsafe: then no worker, beat or service starts. It says the line that mends it, in the
    app's own spelling.

    \b
    tcb check -A proj
    """
    celery = load()
    findings = look(celery, servers=False)
    _tell(findings, [name for name in (*IMPOSSIBLE, *NAMES) if name not in OF_SERVERS])
    _tell_of_tasks(celery)
    _tell_of_app(celery)
    return _count(findings)


@click.command(epilog=ALLOW)
@app
@click.option(
    "--process",
    "processes",
    type=click.Choice(PROCESSES),
    multiple=True,
    help="Whose user of Redis this is, if each process has its own. Without it: of all of them.",
)
def doctor(processes: tuple[str, ...]) -> int:
    """
    Say what is unsafe about the app's settings, its servers and its workers, and what the broker can do.

    Ends with 1 if something is unsafe: then no worker, beat or service starts. Also if a server does not answer: what
    it has to say is not known then.

    \b
    tcb doctor -A proj
    """
    celery = load()
    findings = look(celery, processes=processes or PROCESSES)
    impossible = {each.name for each in findings} & {*IMPOSSIBLE}
    broker = None if "no-transport" in impossible else describe(celery)
    if not impossible:
        findings += check_fleet(celery, ask=True)
    is_away = broker is None or broker.is_away or any(each.name == "no-answer" for each in findings)
    _tell(findings, [*IMPOSSIBLE, *NAMES, *FLEET], not_asked=(*OF_SERVERS, *FLEET) if is_away else ())
    _tell_of_tasks(celery)
    if broker:
        print("\n".join(_cell("broker", "", f"{broker.server} ({broker.url})")))
        for name, phrase in broker.capabilities.items():
            print("\n".join(_cell("", name, phrase)))
    status = _count(findings)
    if is_away and not impossible:
        print("a server did not answer: ask again when it does")
    return 1 if is_away else status


def _tell(findings: Sequence[Finding], names: Sequence[str], not_asked: Collection[str] = ()) -> None:
    """Write what was found, which of the rules of *names* found nothing, and which of them could not look."""
    for finding in findings:
        print("\n".join(_rows(finding)))
    found = {finding.name for finding in findings}
    if kept := [name for name in names if name not in found and name not in not_asked]:
        print("\n".join(_cell("ok", "", ", ".join(kept))))
    if left := [name for name in names if name not in found and name in not_asked]:
        print("\n".join(_cell("not asked", "", ", ".join(left))))


def _tell_of_tasks(celery: Celery) -> None:
    """Write what of the app is served over HTTP, and who runs its schedules."""
    tasks = [task for _, task in own_tasks(celery)]
    told = why_none_exposed(celery) or f"{sum(map(is_exposed, tasks))} of {len(tasks)} served over HTTP"
    print("\n".join(_cell("tasks", "", told)))
    beat = beat_of(celery, None)
    print("\n".join(_cell("schedules", "", f"beat has the scheduler {beat.scheduler}")))
    if not beat.is_ours:
        spelling = Spelling.of(celery)
        told = f"it runs none of /v1/schedules, bridge.schedules and tcb schedules. To have it do so, {spelling.where}:"
        print("\n".join(_cell("", "", told)))
        print(f"{' ' * INDENT}    {spelling.line(beat_scheduler=OURS)}")


def _tell_of_app(celery: Celery) -> None:
    """Write what was looked at: without a deployment's variables it may be something else than what runs."""
    found = {name: value for name, value, _ in of_the_app(celery)}
    print("\n".join(_cell("app", "", f"{found['app']}, with the broker {found['broker_url']}")))
    for what, name in (("results", "result_backend"), ("ledger", "job_ledger_url")):
        print("\n".join(_cell("", what, found[name])))
    given = [name for name in VARIABLES if os.environ.get(name)]
    told = ", ".join(given) or "none is set here: what runs elsewhere may have another broker and ledger"
    print("\n".join(_cell("", "variables", told)))


def _count(findings: Sequence[Finding]) -> int:
    """Write how many are unsafe; return the exit status."""
    unsafe = sum(finding.is_unsafe for finding in findings)
    print(f"\n{unsafe} unsafe, {len(findings) - unsafe} allowed or unwise")
    return 1 if unsafe else 0


def _rows(finding: Finding) -> list[str]:
    word = finding.verdict.upper() if finding.is_unsafe else finding.verdict
    rows = _cell(word, finding.name, finding.what)
    code, where = finding.code
    if code:  # which is not cut: it is to be copied
        rows += [*_cell("", "", f"remedy, {where}:"), f"{' ' * INDENT}    {code}"]
    else:
        rows += _cell("", "", f"remedy: {finding.remedy}")
    return rows + _cell("", "", f"or ALLOW_UNSAFE={finding.name}") if finding.may_be_allowed else rows


def _cell(verdict: str, name: str, text: str) -> list[str]:
    """Return a row as lines: wrapped, for no path or URL in it is cut."""
    width = max(INDENT + 30, min(shutil.get_terminal_size().columns, WIDEST))
    head = f"{verdict:<8} {name:<14}"
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"{head:<{INDENT}}",
        subsequent_indent=" " * INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )

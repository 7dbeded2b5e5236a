"""``tcb doctor``: what is unsafe or unwise about the settings and servers, and what the broker can."""

import shutil
import textwrap

import click

from tornado_celery_bridge.base.app import load_celery_app
from tornado_celery_bridge.base.settings import Settings
from tornado_celery_bridge.cli.options import app
from tornado_celery_bridge.ledger.checks import NAMES, Finding, is_installed
from tornado_celery_bridge.ledger.checks import check as look
from tornado_celery_bridge.transports import describe

#: Columns: of the verdict and the name, and at most of a line.
INDENT = 25
WIDEST = 120


@click.command(epilog=f"ALLOW_UNSAFE=NAME,... allows it all the same. Names: {', '.join(NAMES)}.")
@app
def doctor() -> int:
    """
    Say what is unsafe about the settings and servers, and what the broker can do.

    Ends with 1 if something is unsafe: then nothing starts.
    """
    celery = load_celery_app(Settings.from_environment().celery_app)
    findings, broker = look(celery, installed=is_installed(celery)), describe(celery)
    for finding in findings:
        print("\n".join(_rows(finding)))
    found = {finding.name for finding in findings}
    print("\n".join(_cell("ok", "", ", ".join(name for name in NAMES if name not in found))))
    print("\n".join(_cell("broker", "", f"{broker.server} ({broker.url})")))
    for name, phrase in broker.capabilities.items():
        print("\n".join(_cell("", name, phrase)))
    unsafe = sum(finding.is_unsafe for finding in findings)
    print(f"\n{unsafe} unsafe, {len(findings) - unsafe} allowed or unwise")
    return 1 if unsafe else 0


check = doctor


def _rows(finding: Finding) -> list[str]:
    word = finding.verdict.upper() if finding.is_unsafe else finding.verdict
    rows = _cell(word, finding.name, finding.what) + _cell("", "", f"remedy: {finding.remedy}")
    return rows + _cell("", "", f"or ALLOW_UNSAFE={finding.name}") if finding.is_unsafe else rows


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

"""What the help and the docs say on command lines is what ``tcb`` takes."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import click
import pytest

from tornado_celery_bridge.cli.main import COMMANDS, main, tcb

ROOT = Path(__file__).parent.parent.parent

#: A command line, alone on its line: after a prompt or not, with variables before it or not.
LINE = re.compile(r"^ *(?:\$ )?(?:[A-Z_]+=\S+ )*(?:[A-Z]+=\$\()?tcb ((?:[^\n\\]|\\\n|\\.)+)$", re.MULTILINE)


def blocks_of_docs() -> Iterator[tuple[str, str]]:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for found in re.finditer(r"^```(?:sh|console)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            yield page.name, found[1]


def helps(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """Yield the help of a command and of all below it, by name."""
    yield name, command.help or ""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            assert below is not None
            yield from helps(below, f"{name} {each}")


HELPS = dict(helps(tcb, "tcb"))


def lines(text: str) -> list[str]:
    return [re.sub(r"\\\n", "", found) for found in LINE.findall(text)]


def words(line: str) -> list[str]:
    """Return the words of a command line up to what the shell has for itself."""
    found = shlex.shlex(line.removesuffix(")"), posix=True, punctuation_chars=True)
    found.whitespace_split = True
    made: list[str] = []
    for word in found:
        if set(word) <= set("|&;<>()"):
            break
        made.append(word)
    return made


def parse(command: click.Command, name: str, given: list[str]) -> None:
    """Have click read the words, down to the command that they name, and run nothing."""
    if not isinstance(command, click.Group):
        command.make_context(name, given)
        return
    while given[:1] == ["-A"]:
        given = given[2:]
    below = command.get_command(click.Context(command), given[0])
    assert below is not None, f"{name} has no command {given[0]}"
    parse(below, given[0], given[1:])


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the file that an example reads. Options set variables, which are put back."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "month.json").write_text("{}")
    with mock.patch.dict(os.environ):
        yield


@pytest.mark.usefixtures("somewhere")
@pytest.mark.parametrize(("place", "text"), [*blocks_of_docs(), *HELPS.items()])
def test_every_command_line_is_one(place: str, text: str) -> None:
    for line in lines(text):
        try:
            parse(tcb, "tcb", words(line))
        except click.ClickException as exc:
            pytest.fail(f"{place}: tcb {line}: {exc.format_message()}")


@pytest.mark.usefixtures("somewhere")
def test_a_line_that_is_none_is_seen() -> None:
    assert lines("$ tcb run x \\\n    --wat 3\nID=$(tcb list)\ntcb: no\nA=b tcb up -A x  # y") == [
        *("run x     --wat 3", "list)", "up -A x  # y"),
    ]
    with pytest.raises(click.NoSuchOption):
        parse(tcb, "tcb", words("run x --wat 3"))
    with pytest.raises(click.UsageError):
        parse(tcb, "tcb", words("watch | cat"))
    with pytest.raises(AssertionError, match="no command explode"):
        parse(tcb, "tcb", words("-A x explode"))


#: Those whose name and one line say all.
PLAIN = {"init", "flower", "redis", "openapi", "top", "settings", "upgrade"}


def test_the_help_has_examples() -> None:
    assert {name for name in COMMANDS if not lines(HELPS[f"tcb {name}"])} <= PLAIN
    assert len(lines(HELPS["tcb"])) > 2


def test_the_help_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if len(line) > 80] == []
    assert not re.search(r"no-$", said, re.MULTILINE)  # a name is not cut


def test_the_page_has_every_command() -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    table = page[: page.index("\n## ")]
    assert [name for name in COMMANDS if f"`tcb {name}`" not in table] == []

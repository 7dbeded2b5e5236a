"""The Lua commands agree with who calls them; no server is asked."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.lua import commands_in
from tornado_celery_bridge.base.lua import Command, Commands
from tornado_celery_bridge.ledger import calls as ledger_calls
from tornado_celery_bridge.schedules import calls as schedules_calls

ROOMS = [ledger_calls, schedules_calls]
COMMANDS = [pytest.param(each, id=each.name) for each in commands_in(*ROOMS)]
ROWS: dict[str, Any] = {
    "accept_workflow": ledger_calls.WorkflowJob,
    "lease": ledger_calls.LeasedJob,
    "claim_callbacks": ledger_calls.UnderWay,
    "load": schedules_calls.StaticEntry,
    "run": schedules_calls.DueRun,
    "backfill": schedules_calls.PastRun,
    "tell_owners": schedules_calls.Owner,
}


#: What is called without a definition: Lua's keywords and functions.
LUAS_OWN = {
    *("and", "elseif", "function", "if", "in", "not", "or", "return", "until", "while"),
    *("ipairs", "next", "pairs", "pcall", "rawget", "setmetatable", "tonumber", "tostring", "type", "unpack"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_its_head_and_its_code(command: Command[Any]) -> None:
    assert command.keys, "a Redis Cluster could not route it"
    assert {name for _, name in command.key_parts} - {""} <= {*command.arguments}
    own = command.text[command.text.rindex(f"-- {command.name}: ") :]
    code = "\n".join(line for line in own.splitlines() if not line.startswith("-- "))
    for name in command.arguments:
        assert len(re.findall(rf"\b{name}\b", code)) > 1, f"{name} is not used"
    rows = ROWS.get(command.name)
    assert rows is None or command.columns == rows._fields
    assert rows is not None or len(command.columns) < 2
    functions = re.findall(r"^local function (\w+)", command.text, re.MULTILINE)
    assert len(functions) == len(set(functions)), "a part is included twice"


@pytest.mark.parametrize("command", COMMANDS)
def test_it_has_what_it_calls(command: Command[Any]) -> None:
    """Redis would tell of another only once a call comes there."""
    code = re.sub(r"--.*", "", command.text)
    code = re.sub(r"'[^'\n]*'", "''", code)
    called = set(re.findall(r"(?<![\w.:])(\w+)\(", code))
    known = set(re.findall(r"\blocal function (\w+)", code))
    for names in re.findall(r"\blocal ([\w, ]+)", code) + re.findall(r"\bfunction\b[ \w]*\(([\w, ]*)\)", code):
        known |= {name.strip() for name in names.split(",")}
    assert called <= known | LUAS_OWN, called - known - LUAS_OWN
    assert set(re.findall(r"\brare\.(\w+)", code)) <= set(re.findall(r"\bloaded\.(\w+)", code))


@pytest.mark.parametrize("module", ROOMS)
def test_each_file_is_a_command(module: Any) -> None:
    folder = Path(module.__file__).parent / "lua"
    named = {name: each.name for name, each in vars(module).items() if isinstance(each, Command)}
    assert {file.stem: file.stem for file in folder.glob("*.lua")} == named
    lines = "".join(file.read_text() for file in folder.rglob("*.lua"))
    included = {
        name
        for names in re.findall(r"^-- include(?: rarely)?: (.+)$", lines, re.MULTILINE)
        for name in names.split(", ")
    }
    assert {file.stem for file in (folder / "parts").glob("*.lua")} <= included


def calls_in(file: Path) -> Iterator[tuple[str, set[str | None]]]:
    """Yield the commands that a module calls as ``calls.name(…)``, each with the names of the arguments."""
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="calls" | "ledger_calls"), attr=name), keywords=given):
                yield name, {each.arg for each in given}


def test_each_caller_names_the_arguments() -> None:
    known = {each.name: each for each in commands_in(*ROOMS)}
    folders = (Path(ledger_calls.__file__).parent.parent, Path(__file__).parent.parent)
    files = [file for folder in folders for file in folder.rglob("*.py")]
    found = [(file, name, given) for file in files for name, given in calls_in(file) if name in known]
    assert {name for _, name, _ in found} == {*known}, "a command is not called"
    for file, name, given in found:
        names = {*known[name].arguments, *(["rows"] if known[name].columns else [])}
        left_out = names - given if None not in given else set()  # ``**more`` has the others
        assert given - {None} <= names, f"{file}: {name}"
        assert left_out <= {*known[name].defaults}, f"{file}: {name}"


class Row(NamedTuple):
    name: str
    is_new: bool


def test_a_call(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "one.lua").write_text("-- include: two\nlocal one = two\n")
    (tmp_path / "parts" / "two.lua").write_text("local two = 2\n")
    head = (
        "-- add: it.\n-- KEYS: job:{job_id}, open\n-- ARGV: prefix, job_id, most,\n--   force\n-- ROWS: name, is_new\n"
    )
    (tmp_path / "add.lua").write_text(f"{head}-- include: one, two\n\nreturn one\n")
    add = Commands(tmp_path)("add", bytes.decode, force=True)
    assert re.findall(r"^(?!--).+", add.text, re.MULTILINE) == [
        "local FIRST_ROW, ROW_WIDTH = 5, 2",
        *("local two = 2", "local one = two"),
        *("local prefix, job_id, most, force = unpack(ARGV, 1, 4)", "return one"),
    ]
    call = add(job_id="a", most=None, rows=[Row("x", False), Row("y", True)])
    assert call.arguments("tcb:") == [2, "tcb:job:a", "tcb:open", "tcb:", "a", "", "1", "x", "", "y", "1"]
    assert call.command.answer(b"there") == "there"
    for wrong in ({"job_id": "a", "rows": []}, {"job_id": "a", "most": 1, "rows": [], "mist": 2}):
        with pytest.raises(TypeError, match="and was given"):
            add(**wrong)


def test_what_is_included_rarely(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "one.lua").write_text("-- include rarely: two\nlocal function one() end\n")
    (tmp_path / "parts" / "two.lua").write_text("-- include: one, three\nlocal function two() end\n")
    (tmp_path / "parts" / "three.lua").write_text("-- include rarely: four\nlocal function three() end\n")
    (tmp_path / "parts" / "four.lua").write_text("local function four() end\nlocal function five() end\n")
    (tmp_path / "add.lua").write_text("-- add: it.\n-- KEYS: open\n-- ARGV: prefix\n-- include: one\n\nreturn one\n")
    add = Commands(tmp_path)("add", bytes.decode)
    assert re.findall(r"^(?!--).+", add.text, re.MULTILINE) == [
        *("local rare", "local function one() end"),
        "rare = setmetatable({}, {__index = function(loaded, name)",
        *("local function three() end", "local function two() end"),
        *("local function four() end", "local function five() end"),
        "loaded.two, loaded.four, loaded.five = two, four, five",
        *("return rawget(loaded, name)", "end})"),
        *("local prefix = unpack(ARGV, 1, 1)", "return one"),
    ]

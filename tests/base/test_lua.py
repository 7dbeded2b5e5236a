"""The Lua commands agree with their declarations; no server is asked."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.lua import commands_in
from tornado_celery_bridge.base.lua import Command, commands
from tornado_celery_bridge.ledger import calls as ledger_calls
from tornado_celery_bridge.schedules import calls as schedules_calls

ROOMS = [ledger_calls, schedules_calls]
COMMANDS = [pytest.param(each, id=each.__module__.split(".")[1] + "." + each.name) for each in commands_in(*ROOMS)]


def head_of(command: Command[..., Any]) -> dict[str, list[str]]:
    """Return what the comment at the head of a command's file says, by its labels."""
    own = command.text[command.text.rindex(f"-- {command.name}: ") :]
    head = own[: own.index("\n\n")]
    labels = re.findall(r"^-- (KEYS|ARGV|ROWS): *((?:.*\n--   )*.*)$", head, re.MULTILINE)
    return {label: re.split(r",\s+(?:--\s+)?", names) for label, names in labels}


@pytest.mark.parametrize("command", COMMANDS)
def test_head_and_declaration_agree(command: Command[..., Any]) -> None:
    head = head_of(command)
    assert head["KEYS"] == list(command.keys)
    assert head["ARGV"] == ["prefix", *command.arguments]
    assert head.get("ROWS", []) == list(command.columns)


@pytest.mark.parametrize("command", COMMANDS)
def test_arguments_are_unpacked_by_their_names(command: Command[..., Any]) -> None:
    names = ["prefix", *command.arguments]
    bounds = f", 1, {len(names)}" if command.rows else ""
    assert f"local {', '.join(names)} = unpack(ARGV{bounds})\n" in re.sub(r",\n\s+", ", ", command.text)
    if command.rows and (calls := re.findall(r"in rows\((\d+), (\d+)\)", command.text)):
        assert set(calls) == {(str(len(names) + 1), str(len(command.columns)))}


@pytest.mark.parametrize("module", ROOMS)
def test_each_file_is_declared(module: Any) -> None:
    folder = Path(module.__file__).parent / "lua"
    assert {file.stem for file in folder.glob("*.lua")} == {each.name for each in commands_in(module)}
    included = {
        name for file in folder.rglob("*.lua") for name in re.findall(r"^-- include: (\w+)$", file.read_text(), re.M)
    }
    assert {file.stem for file in (folder / "parts").glob("*.lua")} <= included


@pytest.mark.parametrize("command", COMMANDS)
def test_a_part_is_included_once(command: Command[..., Any]) -> None:
    functions = re.findall(r"^local function (\w+)", command.text, re.MULTILINE)
    assert len(functions) == len(set(functions))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_cluster_can_route_it(command: Command[..., Any]) -> None:
    assert command.keys


class Row(NamedTuple):
    name: str
    is_new: bool


def test_a_call(tmp_path: Path) -> None:
    (tmp_path / "add.lua").write_text("-- include: one\nreturn one\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "one.lua").write_text("-- include: two\nlocal one = two\n")
    (tmp_path / "parts" / "two.lua").write_text("local two = 2\n")

    @commands(tmp_path)("job:{job_id}", "open")
    def add(answer: bytes, *, job_id: str, most: int | None, force: bool = True, rows: Sequence[Row]) -> str:
        return f"{job_id} {answer.decode()}"

    assert re.findall(r"^(?!--).+", add.text, re.MULTILINE) == ["local two = 2", "local one = two", "return one"]
    call = add(job_id="a", most=None, rows=[Row("x", False), Row("y", True)])
    assert call.arguments("tcb:") == [2, "tcb:job:a", "tcb:open", "tcb:", "a", "", "1", "x", "", "y", "1"]
    assert call.answer(b"there") == "a there"
    for wrong in ({"job_id": "a", "rows": []}, {"job_id": "a", "most": 1, "rows": [], "mist": 2}):
        with pytest.raises(TypeError, match="by name"):
            add(**wrong)

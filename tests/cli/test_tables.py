"""What a terminal is given: text that jobs and servers have chosen, of which it obeys nothing."""

import json

import pytest

from tornado_celery_bridge.cli.tables import shown_json, shown_lines


def test_lines_stay_lines_and_nothing_else_is_obeyed() -> None:
    assert shown_lines("tcb: ValueError: é\nrow 7\x1b[2J\r\nx\x9b1m") == (
        "tcb: ValueError: é\nrow 7\\u001b[2J\nx\\u009b1m"
    )


@pytest.mark.parametrize("text", ["\x9b2J", "a\nb", "é", "👩‍🔬", "\u2028"])
def test_json_is_what_it_was(text: str) -> None:
    made = shown_json({"text": [text]})
    assert json.loads(made) == {"text": [text]}
    assert all(line.isprintable() for line in made.split("\n"))
    assert ("é" in made) == (text == "é")

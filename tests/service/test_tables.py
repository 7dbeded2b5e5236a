"""The tables of routes in docs/http/ say what the endpoints declare."""

from pathlib import Path

import pytest

from tests.service.tables import PAGES, SHOWN, rewritten, shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tables_are_up_to_date(page: Path) -> None:
    assert page.read_text("utf-8") == rewritten(page), "write them: python -m tests.service.tables"


def test_every_route_is_in_some_table() -> None:
    assert {each.__name__ for each in SHOWN} == {each.__name__ for each in shown()}

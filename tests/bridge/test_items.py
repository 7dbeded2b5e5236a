"""The items of a generator, in a stream of a task's states."""

from typing import Any

from tornado_celery_bridge import Item, TaskState
from tornado_celery_bridge.bridge.streams import _States


def item(number: int, of: str = "a") -> dict[str, Any]:
    return {"status": "ITEM", "result": {"number": number, "value": number, "of": of}}


async def test_items_come_once_and_in_order() -> None:
    """What is read may be older, or newer, than what is heard."""
    coming = _States(TaskState.from_meta("id", item(1)))
    for told in (item(1), item(3), item(2), item(3), item(4), item(1, "b"), item(4), item(2, "b")):
        coming("id", told)
    found = [(await coming.next()).item for _ in range(4)]
    assert found == [Item(3, 3), Item(4, 4), Item(1, 1), Item(2, 2)]
    assert not coming._states

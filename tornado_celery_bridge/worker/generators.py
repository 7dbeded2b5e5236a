"""
Tasks that are generators: each item is told as the code yields it.

The code goes on once its item is told. What is raised as it is told is raised in the code, at its ``yield``: that the
job was cancelled, that the item can't be kept, a time limit. So the code can clean up, as at any other line.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any


def drained(items: Generator[Any, None, Any], tell: Callable[[int, Any], object]) -> Any:
    """Have *items* yield all, and tell each with its number, from 1 on. Return what the generator returns."""
    raised: BaseException | None = None
    number = 0
    while True:
        try:
            item = next(items) if raised is None else items.throw(raised)
        except StopIteration as end:
            return end.value
        number, raised = number + 1, None
        try:
            tell(number, item)
        except BaseException as exc:
            raised = exc


async def drained_async(items: AsyncGenerator[Any, None], tell: Callable[[int, Any], Awaitable[object]]) -> None:
    """Do the same with an asynchronous generator, which returns nothing."""
    raised: BaseException | None = None
    number = 0
    while True:
        try:
            item = await (anext(items) if raised is None else items.athrow(raised))
        except StopAsyncIteration:
            return
        number, raised = number + 1, None
        try:
            await tell(number, item)
        except GeneratorExit:  # nothing can be awaited any more; the loop closes the generator
            raise
        except BaseException as exc:
            raised = exc

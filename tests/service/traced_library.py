"""What a user of the library does, in a span of their own: ``python -m tests.service.traced_library``."""

import asyncio

from celery import chord
from opentelemetry import trace

from tests.service.traced import app
from tornado_celery_bridge import Bridge


async def main() -> None:
    add, total = app.tasks["s.add"], app.tasks["s.total"]
    async with Bridge(app) as bridge:
        for name, dispatching in (
            ("plain", lambda: bridge.dispatch(add.s(1, 2).set(queue="websample"))),
            ("by name", lambda: bridge.dispatch("s.add", (1, 2))),
            ("canvas", lambda: bridge.dispatch(add.s(1, 2) | chord([add.s(3), add.s(4)], total.s()))),  # type: ignore[call-overload]
            ("submitted", lambda: bridge.submit("s.add", (1, 2))),
        ):
            with trace.get_tracer("tests").start_as_current_span(name):
                result = await dispatching()
            print(name, await bridge.get(result, timeout=30))


if __name__ == "__main__":
    asyncio.run(main())

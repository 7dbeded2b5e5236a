"""A TCP proxy whose connections go bad in the ways that a network has."""

import asyncio
import contextlib
import threading
from asyncio import StreamReader, StreamWriter


class Proxy:
    """
    Passes what comes to its port on to *target*, in a loop and thread of its own, for as long as nothing is wrong.

    Args:
        port: Its own port, if somebody knows it already; else it is a free one.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        self._open: set[StreamWriter] = set()
        self._dead: set[StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", port), self._loop)
        self._server = starting.result()
        self.port = int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def hold(self) -> None:
        """Pass nothing on, to nobody, and lose nothing of it."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._passing.set)

    def drop(self) -> None:
        """Leave the open connections half-open: what is sent over them is never seen again. New ones are fine."""
        self._loop.call_soon_threadsafe(lambda: self._dead.update(self._open))

    def reset(self) -> None:
        """Break the open connections off."""
        for each in list(self._open):
            self._loop.call_soon_threadsafe(each.transport.abort)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for each in serving:
            each.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ends = {writer, far_writer}
        self._open |= ends
        try:
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:
            self._open -= ends
            self._dead -= ends
            for end in ends:
                end.close()

    async def _pass(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._passing.wait()
                if writer not in self._dead:
                    writer.write(data)
                    await writer.drain()
        if writer not in self._dead:
            writer.close()

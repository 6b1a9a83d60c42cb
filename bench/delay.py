"""A relay that delays traffic, for kernels that cannot delay packets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 65536


@contextmanager
def delayed(port: int, round_trip: float) -> Iterator[int]:
    """Relay connections to a port of this machine, with half of ``round_trip`` (seconds) as delay in each direction.

    Opening a connection takes a whole round trip. Loss, slow start and bandwidth are not simulated.

    Yields:
        The port of the relay.
    """
    loop = asyncio.new_event_loop()
    relay = _Relay(port, round_trip)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(relay.serve, "127.0.0.1", 0), loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(relay.close(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Relay:
    def __init__(self, port: int, round_trip: float) -> None:
        self._port = port
        self._round_trip = round_trip
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection, in both directions."""
        await asyncio.sleep(self._round_trip)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for source, target in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._pass(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while chunk := await source.read(CHUNK):
                loop.call_later(self._round_trip / 2, target.write, chunk)
        await asyncio.sleep(self._round_trip / 2)
        target.close()

    async def close(self, server: asyncio.Server) -> None:
        """Close the server and end all connections."""
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

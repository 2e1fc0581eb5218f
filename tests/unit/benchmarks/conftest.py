"""Servers of one page each, on a loop of their own in a thread: the engine runs without the interpreter's lock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from benchmarks.native.engine import Engine

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Served = Callable[[Talk], int]


@pytest.fixture
def served() -> Iterator[Served]:
    """Serves every connection with a coroutine; gives the port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def start(talk: Talk) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await talk(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass  # the engine ended it, which is what is tested
            finally:
                writer.close()

        async def listen() -> int:
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port: int = server.sockets[0].getsockname()[1]
            return port

        return asyncio.run_coroutine_threadsafe(listen(), loop).result(5)

    async def stop() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    yield start
    asyncio.run_coroutine_threadsafe(stop(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(256)
    yield engine
    engine.close()

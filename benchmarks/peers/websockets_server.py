"""`websockets` (its asyncio server) on uvloop: compression and pings off, all else as it comes."""

from __future__ import annotations

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as listen

from benchmarks.peers.common import BACKLOG, HOST, command, send_steps

everyone: set[ServerConnection] = set()


async def echo(connection: ServerConnection) -> None:
    everyone.add(connection)
    try:
        async for message in connection:
            given = command(message)
            if given is None:
                await connection.send(message)
            else:
                await send_steps(given, [connection.send] if given.to == "push" else [_to_all])
    finally:
        everyone.discard(connection)


async def _to_all(text: str) -> None:
    broadcast(everyone, text)


async def serve(port: int) -> None:
    async with listen(echo, HOST, port, compression=None, ping_interval=None, backlog=BACKLOG) as server:
        await server.serve_forever()


def run(port: int) -> None:
    uvloop.run(serve(port))

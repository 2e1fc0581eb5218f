"""aiohttp's server on uvloop: compression off, no heartbeat, no access log, all else as it comes."""

from __future__ import annotations

import asyncio

import uvloop
from aiohttp import WSMsgType, web

from benchmarks.peers.common import BACKLOG, HOST, command, send_steps

everyone: set[web.WebSocketResponse] = set()


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    everyone.add(socket)
    try:
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                given = command(message.data)
                if given is None:
                    await socket.send_str(message.data)
                else:
                    chosen = [socket] if given.to == "push" else everyone
                    await send_steps(given, [one.send_str for one in chosen])
    finally:
        everyone.discard(socket)
    return socket


async def serve(port: int) -> None:
    app = web.Application()
    app.router.add_get("/{path:.*}", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port, backlog=BACKLOG).start()
    await asyncio.Event().wait()


def run(port: int) -> None:
    uvloop.run(serve(port))

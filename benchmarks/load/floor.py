"""The engine's floor server as a process: says its port, and serves until its stdin is closed."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

from benchmarks.load.peer import Peer
from benchmarks.native.engine import serve_floor
from benchmarks.native.upgrade import ACCEPT

BACKLOG = 4096
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    + ACCEPT
    + b"\r\n\r\n"
)


async def run(peer: Peer, plan: Any) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listening:
        listening.setblocking(False)
        peer.say(port=listening.getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(
            None, serve_floor, listening.fileno(), sys.stdin.fileno(), SWITCH
        )

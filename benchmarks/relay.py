"""`python -m benchmarks.relay PORT TO`: hands every byte on, both ways: the least that stands between two programs."""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop

HOST = "127.0.0.1"


class _End(asyncio.Protocol):
    """One end of a relayed connection; what comes before the other end is there is kept for it."""

    def __init__(self, to: int | None) -> None:
        self._to = to
        self._early: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.other: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: uvloop's transports are no instances of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if self._to is not None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(self._to))

    async def _connect(self, port: int) -> None:
        end = _End(None)
        end.other = self._transport
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(lambda: end, HOST, port)
        except OSError:
            if self._transport is not None:
                self._transport.abort()
            return
        self.other = transport
        transport.writelines(self._early)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


async def _serve(port: int, to: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _End(to), HOST, port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay")
    parser.add_argument("port", type=int)
    parser.add_argument("to", type=int)
    args = parser.parse_args()
    uvloop.run(_serve(args.port, args.to))


if __name__ == "__main__":
    main()

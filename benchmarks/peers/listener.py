"""Our listener (`ext/ws.pyx`) by itself, with a handler that does nothing but what is asked; on uvloop."""

from __future__ import annotations

import asyncio

import uvloop

from benchmarks.peers.common import BACKLOG, HOST, Steps, command
from ext.ws import Accept, Connection, Handler, Limits, Request, listen


class Echo(Handler):
    __slots__ = ("_connection", "paused")

    everyone: set[Echo] = set()  # noqa: RUF012 - one for the process
    steps = Steps()

    def __init__(self) -> None:
        self.paused = False

    def on_open(self, connection: Connection) -> None:
        self._connection = connection
        self.everyone.add(self)

    def on_text(self, message: str) -> None:
        given = command(message)
        if given is None:
            self._connection.send_text(message)
        else:
            self.steps.begin(given, [self] if given.to == "push" else self.everyone)

    def on_close(self, code: int, reason: str) -> None:
        self.everyone.discard(self)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def write(self, text: bytes, count: int) -> None:
        send = self._connection.send_text
        for _ in range(count):
            send(text)


async def accept(request: Request) -> Accept:
    return Accept(Echo())


async def serve(port: int) -> None:
    await listen(accept, HOST, port, Limits(backlog=BACKLOG))
    await asyncio.Event().wait()


def run(port: int) -> None:
    uvloop.run(serve(port))

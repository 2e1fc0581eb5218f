"""picows on uvloop, as its documentation has it: a listener with callbacks. Read buffers of 2 KiB instead of 16: it
asks for the size of the messages to be expected, and memory is one of our questions. Its pings are off, as they are
unless asked for; TCP by aiofastnet, which it chooses by itself.
"""

from __future__ import annotations

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.peers.common import BACKLOG, HOST, Steps, command

READ_BUFFER = 2048


class Echo(WSListener):
    everyone: set[Echo] = set()  # noqa: RUF012 - one for the process
    steps = Steps()

    def __init__(self) -> None:
        super().__init__()
        self.paused = False
        self._transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self.everyone.add(self)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._transport = None
        self.everyone.discard(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            text = frame.get_payload_as_bytes()
            given = command(text)
            if given is None:
                transport.send(WSMsgType.TEXT, text)
            else:
                self.steps.begin(given, [self] if given.to == "push" else self.everyone)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def write(self, text: bytes, count: int) -> None:
        if self._transport is not None:
            for _ in range(count):
                self._transport.send(WSMsgType.TEXT, text)


def _accept(request: WSUpgradeRequest) -> Echo:
    return Echo()


async def serve(port: int) -> None:
    server = await ws_create_server(_accept, HOST, port, backlog=BACKLOG, read_buffer_init_size=READ_BUFFER)
    await server.serve_forever()


def run(port: int) -> None:
    uvloop.run(serve(port))

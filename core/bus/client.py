"""The NATS client with a shorter way to the socket."""

from __future__ import annotations

import asyncio
from typing import Any

from nats.aio.client import Client
from nats.aio.transport import TcpTransport


class PromptClient(Client):
    """What is published or subscribed in one loop turn leaves at its end, in one write.

    The library wakes a task for each command, which writes and waits for the socket. That is only needed while the
    socket holds back: then, and for errors, the library's way is taken.
    """

    _leaving = False

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if force_flush or not self._flows:
            return await super()._flush_pending(force_flush)
        if not self._leaving:
            self._leaving = True
            asyncio.get_running_loop().call_soon(self._leave)
        return None

    @property
    def _flows(self) -> bool:
        """Whether the socket takes all that it is given."""
        transport, flusher = self._transport, self._flusher_task
        if not self.is_connected or not isinstance(transport, TcpTransport) or flusher is None or flusher.done():
            return False
        writer = transport._io_writer
        if writer is None or writer.transport.is_closing():
            return False
        return writer.transport.get_write_buffer_size() == 0

    def _leave(self) -> None:
        self._leaving = False
        if not self._pending or not self.is_connected or self._transport is None or self._flush_queue is None:
            return
        try:
            self._transport.writelines(self._pending)
        except (OSError, RuntimeError):
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())  # it meets the error, and tells it
            return
        self._pending, self._pending_data_size = [], 0

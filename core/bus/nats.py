"""The bus over core NATS: no JetStream, nothing stored. See `core.bus.link` for how the connection is kept."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from nats.aio.msg import Msg

from core.bus.link import Bounds, Interest, Link
from core.events import Dispatch, EdgeMessage, GrantMessage, RunMessage

log = logging.getLogger(__name__)

QUEUE_GROUP = "routers"
MAX_BATCH_BYTES = 512 * 1024

_EDGE = Bounds(65_536, 64 * 1024 * 1024)
_TURNS = Bounds(8_192, 8 * 1024 * 1024)
_ROUTER = Bounds(16_384, 8 * 1024 * 1024)
_RUN = Bounds(1_024, 1024 * 1024)

_NO_RESPONDERS = "503"
_encoder = msgspec.msgpack.Encoder()
_batches = msgspec.msgpack.Decoder(list[EdgeMessage])
_dispatches = msgspec.msgpack.Decoder(Dispatch)
_grants = msgspec.msgpack.Decoder(GrantMessage)
_runs = msgspec.msgpack.Decoder(RunMessage)
_is_token = re.compile(r"[A-Za-z0-9_-]{1,128}").fullmatch


class NatsBus:
    """`Bus` over one `Link`, which it closes with itself.

    Publishing never waits and is never kept for later: while NATS is away it raises `Unavailable`. What was handed to
    a connection that is then lost may be lost with it. Subscriptions survive reconnections; messages sent meanwhile
    do not reach them. Names that become part of a subject must be of `A-Z a-z 0-9 _ -` (`ValueError`).
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self.malformed = 0

    @classmethod
    async def open(cls, urls: Sequence[str], name: str, timeout_s: float = 5.0) -> NatsBus:
        """A bus on a connection of its own; `Unavailable` when no server answered within `timeout_s`."""
        return cls(await Link.open(urls, name, timeout_s))

    @property
    def connected(self) -> bool:
        return self._link.connected

    def on_state(self, callback: Callable[[bool], None]) -> None:
        self._link.on_state(callback)

    async def serve_edge(
        self,
        edge: str,
        on_batch: Callable[[list[EdgeMessage]], None],
        on_no_responders: Callable[[str], None],
    ) -> EdgeSubscription:
        def on_status(message: Msg) -> None:
            if message.headers and message.headers.get("Status") == _NO_RESPONDERS:
                on_no_responders(message.subject.rpartition(".")[2])

        subject = f"edge.{_token(edge)}"
        batches = await self._serve(subject, _batches, on_batch, _EDGE)
        try:
            statuses = await self._link.subscribe(f"{subject}.*", on_status, _TURNS)
        except BaseException:
            await batches.stop()
            raise
        return EdgeSubscription(batches, statuses)

    async def serve_turns(self, zone: str, pool: str, on_dispatch: Callable[[Dispatch], None]) -> Interest:
        return await self._serve(_turns(zone, pool), _dispatches, on_dispatch, _TURNS, QUEUE_GROUP)

    async def serve_router(self, router: str, on_grant: Callable[[GrantMessage], None]) -> Interest:
        return await self._serve(f"router.{_token(router)}", _grants, on_grant, _ROUTER)

    async def serve_run(self, generation: str, on_message: Callable[[RunMessage], None]) -> Interest:
        return await self._serve(f"run.{_token(generation)}", _runs, on_message, _RUN)

    async def dispatch(self, zone: str, pool: str, dispatch: Dispatch) -> None:
        # The server answers on the reply subject when nobody listens; it must be a subscription of this connection.
        reply = f"edge.{_token(dispatch.edge)}.{_token(dispatch.generation)}"
        await self._link.publish(_turns(zone, pool), _encoder.encode(dispatch), reply)

    async def to_edge(self, edge: str, batch: Sequence[EdgeMessage]) -> None:
        payload = _encoder.encode(batch)
        if len(payload) > MAX_BATCH_BYTES:
            raise ValueError(f"a batch of {len(payload)} bytes is over {MAX_BATCH_BYTES}")
        await self._link.publish(f"edge.{_token(edge)}", payload)

    async def to_router(self, router: str, message: GrantMessage) -> None:
        await self._link.publish(f"router.{_token(router)}", _encoder.encode(message))

    async def to_run(self, generation: str, message: RunMessage) -> None:
        await self._link.publish(f"run.{_token(generation)}", _encoder.encode(message))

    async def round_trip(self, timeout_s: float) -> float:
        return await self._link.round_trip(timeout_s)

    async def close(self) -> None:
        await self._link.close()

    async def _serve(
        self,
        subject: str,
        decoder: msgspec.msgpack.Decoder[Any],
        callback: Callable[[Any], None],
        bounds: Bounds,
        queue: str = "",
    ) -> Interest:
        def on_message(message: Msg) -> None:
            try:
                decoded = decoder.decode(message.data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.malformed += 1
                log.warning("a malformed message on %s was dropped: %s", message.subject, error)
                return
            callback(decoded)

        return await self._link.subscribe(subject, on_message, bounds, queue)


class EdgeSubscription:
    """A gateway's batches and the answers to its dispatches, ended together."""

    __slots__ = ("_parts",)

    def __init__(self, *parts: Interest) -> None:
        self._parts = parts

    async def stop(self) -> None:
        """No further message is delivered once this returns. Idempotent."""
        for part in self._parts:
            await part.stop()


def _turns(zone: str, pool: str) -> str:
    return f"turns.{_token(zone)}.{_token(pool)}"


def _token(name: str) -> str:
    if _is_token(name) is None:
        raise ValueError(f"{name!r} cannot be part of a subject")
    return name

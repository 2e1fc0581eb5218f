"""Usage records in NATS JetStream: a work queue on disk, drained by one durable consumer.

`USAGE` refuses records when it is full (they go to the writer's spool) rather than dropping old ones. Records that no
consumer can take are kept in `USAGE_DEAD`, which is bounded and drops its oldest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from core.bus.link import Bounds, Interest, Link
from core.errors import Unavailable
from core.ledger.port import Entry

log = logging.getLogger(__name__)

STREAM: Final = "USAGE"
SUBJECT: Final = "usage.ledger"
CONSUMER: Final = "ledger"
DEAD_STREAM: Final = "USAGE_DEAD"
DEAD_SUBJECT: Final = "usage_dead.ledger"
ACK_WAIT_S: Final = 30
MAX_PULL: Final = 10_000

_MAX_RECORD_BYTES = 64 * 1024
_DEAD_BYTES = 64 * 1024 * 1024
_MAX_UNACKNOWLEDGED = 50_000
_API_TIMEOUT_S = 5.0
_GRACE_S = 1.0
_NANO = 1_000_000_000
_NAME_IN_USE = 10058
_NO_STORAGE = 10047
_NOT_FOUND = 10059
_MAKE_PAUSES_S = (0.05, 0.1, 0.2, 0.4)
_NO_RESPONDERS = "503"
_BOUNDS = Bounds(4 * MAX_PULL, 256 * 1024 * 1024)

_encoder = msgspec.msgpack.Encoder()
_entries = msgspec.msgpack.Decoder(Entry)


class _Error(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _Reply(msgspec.Struct):
    error: _Error | None = None


_replies = msgspec.json.Decoder(_Reply)


class _Fetch:
    """One request for messages; `status` is how the server ended it."""

    __slots__ = ("number", "status")

    def __init__(self, number: int) -> None:
        self.number = number
        self.status: str | None = None


class JetStreamUsage:
    """`UsageStream` over a `Link`, which it does not close. Close it before the link.

    The streams and the consumer are made by `ensure`, and made again in the background whenever a call finds them
    missing; such a call raises `Unavailable`. `pull` is for one caller at a time; several wait for each other.
    """

    def __init__(
        self,
        link: Link,
        *,
        domain: str = "",
        replicas: int = 1,
        max_bytes: int = 1024 * 1024 * 1024,
        ack_wait_s: int = ACK_WAIT_S,
    ) -> None:
        self._link = link
        self._api = f"$JS.{domain}.API" if domain else "$JS.API"
        self._replicas = replicas
        self._max_bytes = max_bytes
        self._ack_wait_s = ack_wait_s
        self._ensuring: asyncio.Task[None] | None = None
        self._pulling = asyncio.Lock()
        self._interest: Interest | None = None
        self._inbox = f"{link.inbox}.pull"
        self._fetching = _Fetch(0)
        self._buffer: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        link.on_state(self._on_state)

    async def ensure(self, timeout_s: float = _API_TIMEOUT_S) -> None:
        """Makes or updates the streams and the consumer; idempotent. `Unavailable` when that failed.

        `timeout_s` bounds each of the requests: five at most, and a few more where storage is short.
        """
        common = {"storage": "file", "num_replicas": self._replicas}
        usage = {
            "name": STREAM,
            "subjects": [SUBJECT],
            "retention": "workqueue",
            "discard": "new",
            "max_bytes": self._max_bytes,
            "max_msg_size": _MAX_RECORD_BYTES,
        }
        dead = {
            "name": DEAD_STREAM,
            "subjects": [DEAD_SUBJECT],
            "retention": "limits",
            "discard": "old",
            "max_bytes": _DEAD_BYTES,
        }
        consumer = {
            "durable_name": CONSUMER,
            "ack_policy": "explicit",
            "ack_wait": self._ack_wait_s * _NANO,
            "deliver_policy": "all",
            "max_deliver": -1,
            "max_ack_pending": _MAX_UNACKNOWLEDGED,
        }
        for config in (usage, dead):
            await self._make_stream({**config, **common}, timeout_s)
        request = {"stream_name": STREAM, "config": consumer}
        _check(await self._call(f"CONSUMER.CREATE.{STREAM}.{CONSUMER}", request, timeout_s))

    async def publish(self, entry: Entry, timeout_s: float) -> None:
        headers = {"Nats-Msg-Id": f"{entry.attempt}:{entry.revision}"}
        await self._store(SUBJECT, _encoder.encode(entry), headers, timeout_s)

    async def bury(self, entry: Entry, reason: str, timeout_s: float = _API_TIMEOUT_S) -> None:
        """Keeps a record that cannot be taken where an operator can read it. `Unavailable` when not acknowledged."""
        log.error("the usage record %s:%d is set aside: %s", entry.attempt, entry.revision, reason)
        await self._set_aside(_encoder.encode(entry), reason, timeout_s)

    async def pull(self, limit: int, wait_s: float) -> JetStreamBatch | None:
        limit = min(limit, MAX_PULL)
        async with self._pulling:
            if self._interest is None:
                self._interest = await self._link.subscribe(f"{self._inbox}.*", self._on_message, _BOUNDS)
            if not self._buffer:
                await self._fetch({"batch": limit, "no_wait": True}, limit, _GRACE_S)
            if not self._buffer and wait_s > 0:
                await self._fetch({"batch": 1, "expires": int(wait_s * _NANO)}, 1, wait_s + _GRACE_S)
                if self._buffer and limit > 1:
                    await self._fetch({"batch": limit - 1, "no_wait": True}, limit, _GRACE_S)
            taken = [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]
            batch = await self._decoded(taken)
            return batch if batch.entries else None

    async def close(self) -> None:
        """Stops consuming; what was pulled and not acknowledged goes to another consumer. Idempotent."""
        if self._interest is not None:
            await self._interest.stop()
        if self._ensuring is not None:
            self._ensuring.cancel()
            await asyncio.wait((self._ensuring,))

    async def _make_stream(self, config: dict[str, Any], timeout_s: float) -> None:
        for pause_s in _MAKE_PAUSES_S:
            reply = created = await self._call(f"STREAM.CREATE.{config['name']}", config, timeout_s)
            if reply.error is not None and reply.error.err_code in (_NAME_IN_USE, _NO_STORAGE):
                reply = await self._call(f"STREAM.UPDATE.{config['name']}", config, timeout_s)
            if reply.error is None or reply.error.err_code != _NOT_FOUND:
                break
            # Storage is checked before the name, what others just make included: neither made nor there yet, perhaps.
            reply = created
            await asyncio.sleep(pause_s)
        _check(reply)

    async def _call(self, name: str, request: dict[str, Any], timeout_s: float) -> _Reply:
        message = await self._link.ask(f"{self._api}.{name}", msgspec.json.encode(request), timeout_s)
        if _status(message) is not None:
            raise Unavailable("JetStream is not there")
        return _reply(message)

    async def _store(self, subject: str, payload: bytes, headers: dict[str, str], timeout_s: float) -> None:
        message = await self._link.ask(subject, payload, timeout_s, headers)
        if _status(message) is not None:
            self._ensure_soon()
            raise Unavailable(f"no stream takes {subject}")
        _check(_reply(message))

    async def _set_aside(self, payload: bytes, reason: str, timeout_s: float) -> None:
        await self._store(DEAD_SUBJECT, payload, {"Parley-Reason": reason[:1000]}, timeout_s)

    async def _fetch(self, request: dict[str, Any], wanted: int, wait_s: float) -> None:
        """Asks for messages; returns when `wanted` are there, the server says that there are no more, or too late."""
        self._fetching = fetching = _Fetch(self._fetching.number + 1)
        subject = f"{self._api}.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}"
        await self._link.publish(subject, msgspec.json.encode(request), f"{self._inbox}.{fetching.number}")
        deadline = time.monotonic() + wait_s
        while len(self._buffer) < wanted and fetching.status is None:
            self._arrived.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._arrived.wait()
            except TimeoutError:
                return
            if not self._link.connected:
                raise Unavailable("NATS is away")
        if fetching.status == _NO_RESPONDERS:
            self._ensure_soon()
            raise Unavailable("the consumer is not there")

    def _on_message(self, message: Msg) -> None:
        status = _status(message)
        if status is None:
            self._buffer.append(message)
        elif message.subject.endswith(f".{self._fetching.number}"):
            self._fetching.status = status
        self._arrived.set()

    def _on_state(self, connected: bool) -> None:
        self._arrived.set()

    async def _decoded(self, messages: Sequence[Msg]) -> JetStreamBatch:
        entries: list[Entry] = []
        replies: list[str] = []
        for message in messages:
            try:
                entries.append(_entries.decode(message.data))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                log.error("a malformed usage record is set aside: %s", error)
                await self._set_aside(message.data, f"malformed: {error}", _API_TIMEOUT_S)
                await self._link.publish(message.reply, b"+TERM")
            else:
                replies.append(message.reply)
        return JetStreamBatch(self._link, entries, replies)

    def _ensure_soon(self) -> None:
        if self._ensuring is None or self._ensuring.done():
            self._ensuring = asyncio.get_running_loop().create_task(self._ensure_quietly(), name="usage-ensure")

    async def _ensure_quietly(self) -> None:
        try:
            await self.ensure()
        except Unavailable as error:
            log.warning("the usage stream could not be made: %s", error)


class JetStreamBatch:
    """`UsageBatch` of one pull."""

    __slots__ = ("_entries", "_link", "_replies")

    def __init__(self, link: Link, entries: Sequence[Entry], replies: Sequence[str]) -> None:
        self._link = link
        self._entries = entries
        self._replies = replies

    @property
    def entries(self) -> Sequence[Entry]:
        return self._entries

    async def ack(self) -> None:
        """`Unavailable` when NATS is away: they are delivered again."""
        await self._answer(b"+ACK")

    async def nak(self, delay_s: float) -> None:
        """`Unavailable` when NATS is away: they are delivered again after `ack_wait_s`."""
        await self._answer(b"-NAK " + msgspec.json.encode({"delay": int(delay_s * _NANO)}))

    async def _answer(self, payload: bytes) -> None:
        for reply in self._replies:
            await self._link.publish(reply, payload)


def _status(message: Msg) -> str | None:
    return message.headers.get("Status") if message.headers else None


def _reply(message: Msg) -> _Reply:
    try:
        return _replies.decode(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unavailable(f"JetStream answered what cannot be read: {error}") from error


def _check(reply: _Reply) -> None:
    if reply.error is not None:
        raise Unavailable(f"JetStream: {reply.error.description}")

"""One connection to NATS that is kept for ever: what the bus and the usage stream share.

The client library's own reconnection is not used. It waits, unbounded, for a stalled server to take the last bytes
before it connects elsewhere, and gives up for good when the server refuses it with an error. Here a connection that
is lost, refused or silent is replaced by a new one on which all subscriptions are made again.

Nothing is kept for later while the connection is away: publishing raises `Unavailable` at once. Liveness and
confirmation are asked by an echo: a message to our own inbox, which leaves in the same order as everything published
and subscribed before it. (The library's flush writes its PING past commands that still wait, and a flush that timed
out makes it stop reading when the late PONG comes.)
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import NamedTuple

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from core.bus.client import PromptClient
from core.errors import Unavailable
from core.ids import new_process_id

log = logging.getLogger(__name__)

CONNECT_S = 3.0
FIRST_RETRY_S = 0.05
LAST_RETRY_S = 0.5
ECHO_EVERY_S = 0.5
ECHO_TIMEOUT_S = 2.5
CONFIRM_S = 2.0
CLOSE_S = 2.0
DISCARD_S = 1.0
MAX_PENDING_BYTES = 8 * 1024 * 1024
MAX_WAITING = 65_536
LOG_EVERY_S = 1.0

_NEVER_S = 24 * 3600
_ERRORS = (OSError, nats.errors.Error, TimeoutError)


class Bounds(NamedTuple):
    """What may wait between the socket and a callback; what is more is dropped and counted."""

    messages: int
    bytes: int


class Interest:
    """A subject that is subscribed on the present connection and on every one after it."""

    __slots__ = ("_link", "_on_message", "_on_wire", "bounds", "queue", "stopped", "subject")

    def __init__(self, link: Link, subject: str, queue: str, bounds: Bounds, on_message: Callable[[Msg], None]) -> None:
        self._link = link
        self._on_message = on_message
        self._on_wire: NatsSubscription | None = None
        self.subject = subject
        self.queue = queue
        self.bounds = bounds
        self.stopped = False

    async def place(self, client: Client) -> None:
        """Subscribes on this connection. Never waits: the command is buffered."""
        self._on_wire = await client.subscribe(
            self.subject,
            queue=self.queue,
            cb=self._deliver,
            pending_msgs_limit=self.bounds.messages,
            pending_bytes_limit=self.bounds.bytes,
        )

    async def _deliver(self, message: Msg) -> None:
        if self.stopped:
            return
        try:
            self._on_message(message)
        except Exception:
            log.exception("the callback of %s failed; the subscription goes on", self.subject)

    async def stop(self) -> None:
        """No further message is delivered, from now on. Idempotent."""
        if self.stopped:
            return
        self.stopped = True
        self._link.forget(self)
        wire, self._on_wire = self._on_wire, None
        if wire is not None:
            try:
                await wire.unsubscribe()
            except _ERRORS:
                log.debug("%s was not unsubscribed: its connection is gone", self.subject)


class Link:
    """A connection that is kept. Made by `Link.open`; all methods belong to the loop that opened it.

    `publish` and `subscribe` raise `Unavailable` while the connection is away or `MAX_PENDING_BYTES` wait to be sent.
    Reconnection starts within half a second of a loss that the socket tells and within `ECHO_EVERY_S +
    ECHO_TIMEOUT_S` of a silent one, and is tried after 50 ms, then ever more slowly up to twice a second, for ever.
    """

    def __init__(self, urls: Sequence[str], name: str) -> None:
        self._urls = list(urls)
        self._name = name
        self._inbox = "_INBOX." + new_process_id(name)
        self._client: Client | None = None
        self._interests: dict[Interest, None] = {}
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._tokens = itertools.count()
        self._watchers: list[Callable[[bool], None]] = []
        self._echo: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._first = asyncio.Event()
        self._closed = False
        self._told_away = False
        self._logged_at = 0.0
        self.slow_drops = 0

    @classmethod
    async def open(cls, urls: Sequence[str], name: str, timeout_s: float = 5.0) -> Link:
        """Connects. `Unavailable` when no server of `urls` answered within `timeout_s`; nothing stays behind then."""
        link = cls(urls, name)
        link._keeper = asyncio.get_running_loop().create_task(link._keep(), name="nats-keeper")
        try:
            async with asyncio.timeout(timeout_s):
                await link._first.wait()
        except TimeoutError:
            await link.close()
            raise Unavailable(f"no NATS server answered at {', '.join(urls)}") from None
        except BaseException:
            await link.close()
            raise
        return link

    @property
    def connected(self) -> bool:
        """Whether the server answered lately: at most `ECHO_EVERY_S + ECHO_TIMEOUT_S` ago."""
        return self._client is not None

    @property
    def inbox(self) -> str:
        """A subject prefix that is this connection's alone; a token after it makes a reply subject."""
        return self._inbox

    def on_state(self, callback: Callable[[bool], None]) -> None:
        """Calls back with `connected` at each change, after subscriptions were made again."""
        self._watchers.append(callback)

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Hands one message to the socket's buffer, without waiting; those of one loop turn leave together."""
        client = self._live(len(payload))
        try:
            await client.publish(subject, payload, reply, headers)
        except _ERRORS as error:
            raise Unavailable(f"NATS: {error}") from error

    async def subscribe(
        self, subject: str, on_message: Callable[[Msg], None], bounds: Bounds, queue: str = ""
    ) -> Interest:
        """Subscribes; once this returns a message published afterwards by anyone is delivered.

        `Unavailable` when that is not confirmed within `CONFIRM_S`; there is no subscription then. Many that start in
        one loop turn share one round trip.
        """
        client = self._live(len(subject))
        interest = Interest(self, subject, queue, bounds, on_message)
        self._interests[interest] = None
        try:
            await interest.place(client)
            await self.round_trip(CONFIRM_S)
        except _ERRORS as error:
            await interest.stop()
            raise Unavailable(f"NATS: {error}") from error
        except BaseException:
            await interest.stop()
            raise
        return interest

    def forget(self, interest: Interest) -> None:
        """Takes an interest from those that are made again on the next connection."""
        self._interests.pop(interest, None)

    async def ask(self, subject: str, payload: bytes, timeout_s: float, headers: dict[str, str] | None = None) -> Msg:
        """One message and its one reply; `Unavailable` when none came in time or the connection was lost."""
        reply = self._reply_subject()
        return await self._exchange(self.publish(subject, payload, reply, headers), reply, timeout_s)

    async def round_trip(self, timeout_s: float) -> float:
        """Seconds until an echo came back; everything published or subscribed before has reached the server."""
        self._live(0)
        if self._echo is None:
            self._echo = asyncio.get_running_loop().create_task(self._send_echo(), name="nats-echo")
            self._own(self._echo)
        start = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._echo)
        except TimeoutError:
            raise Unavailable(f"NATS: no echo within {timeout_s:g} s") from None
        return time.monotonic() - start

    async def close(self) -> None:
        """Sends what is buffered, bounded by `CLOSE_S`, then ends all subscriptions and tasks. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._client is not None:
            try:
                await self.round_trip(CLOSE_S)
            except Unavailable as error:
                log.warning("closed with messages unsent: %s", error)
        while self._keeper is not None and not self._keeper.done():
            # Repeated: `asyncio.wait_for` loses a cancellation that meets a refused connection (before Python 3.12).
            self._keeper.cancel()
            await asyncio.wait((self._keeper,), timeout=0.1)
        for interest in list(self._interests):
            await interest.stop()
        self._lose()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _live(self, size: int) -> Client:
        client = self._client
        if client is None or not client.is_connected:
            raise Unavailable("NATS is away")
        if client.pending_data_size + size > MAX_PENDING_BYTES:
            raise Unavailable("NATS takes no more: the outgoing buffer is full")
        return client

    async def _send_echo(self) -> None:
        # Whoever asks from now on must not share this echo: it leaves before what they have published.
        self._echo = None
        subject = self._reply_subject()
        await self._exchange(self.publish(subject, b""), subject, ECHO_TIMEOUT_S)

    def _reply_subject(self) -> str:
        return f"{self._inbox}.{next(self._tokens)}"

    async def _exchange(self, sending: Coroutine[None, None, None], reply: str, timeout_s: float) -> Msg:
        """Sends, then waits for the one message on the reply subject."""
        if len(self._waiting) >= MAX_WAITING:
            sending.close()
            raise Unavailable("NATS: too many replies are awaited")
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = future
        try:
            await sending
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise Unavailable(f"NATS: no reply within {timeout_s:g} s") from None
        finally:
            self._waiting.pop(reply, None)

    async def _keep(self) -> None:
        delay = FIRST_RETRY_S
        while True:
            lost = asyncio.Event()
            client = await self._connect(lost)
            if client is None:
                await asyncio.sleep(delay * random.uniform(0.75, 1.0))  # noqa: S311 - jitter
                delay = min(delay * 2, LAST_RETRY_S)
                continue
            delay = FIRST_RETRY_S
            await self._watch(client, lost)
            self._lose()

    async def _connect(self, lost: asyncio.Event) -> Client | None:
        async def on_error(error: Exception) -> None:
            if isinstance(error, nats.errors.SlowConsumerError):
                self._count_drop(error)
            elif isinstance(error, OSError | nats.errors.UnexpectedEOF):
                lost.set()

        async def on_end() -> None:
            lost.set()

        client = PromptClient()
        try:
            async with asyncio.timeout(CONNECT_S):
                await client.connect(
                    random.sample(self._urls, len(self._urls)),
                    name=self._name,
                    error_cb=on_error,
                    disconnected_cb=on_end,
                    closed_cb=on_end,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=1,
                    dont_randomize=True,
                    ping_interval=_NEVER_S,
                    pending_size=4 * MAX_PENDING_BYTES,
                    flusher_queue_size=0,
                    skip_subject_validation=True,
                )
                await self._restore(client)
        except Exception as error:
            log.log(logging.DEBUG if self._told_away else logging.WARNING, "NATS cannot be reached: %r", error)
            self._told_away = True
            self._discard(client)
            return None
        except BaseException:
            self._discard(client)
            raise
        return client

    async def _restore(self, client: Client) -> None:
        """Makes all subscriptions; the connection counts once an echo shows that the server has them."""
        await client.subscribe(f"{self._inbox}.*", cb=self._on_inbox)
        for interest in list(self._interests):
            await interest.place(client)
        subject = self._reply_subject()
        await self._exchange(client.publish(subject), subject, CONFIRM_S)
        self._client = client
        self._told_away = False
        self._first.set()
        self._tell(True)

    async def _on_inbox(self, message: Msg) -> None:
        future = self._waiting.get(message.subject)
        if future is not None and not future.done():
            future.set_result(message)

    async def _watch(self, client: Client, lost: asyncio.Event) -> None:
        """Returns when the connection is lost."""
        while client.is_connected and not lost.is_set():
            try:
                async with asyncio.timeout(ECHO_EVERY_S):
                    await lost.wait()
            except TimeoutError:
                try:
                    await self.round_trip(ECHO_TIMEOUT_S)
                except Unavailable as error:
                    log.warning("the connection to NATS is given up: %s", error)
                    return

    def _lose(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        self._waiting_fail("the connection was lost")
        self._discard(client)
        self._tell(False)

    def _waiting_fail(self, why: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(Unavailable(f"NATS: {why}"))
                future.exception()

    def _tell(self, connected: bool) -> None:
        log.info("NATS is %s", "connected" if connected else "away")
        for callback in self._watchers:
            try:
                callback(connected)
            except Exception:
                log.exception("a callback of the bus state failed")

    def _discard(self, client: Client) -> None:
        self._own(asyncio.get_running_loop().create_task(_end(client), name="nats-discard"))

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._disown)

    def _disown(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, Unavailable):
            log.error("%s failed", task.get_name(), exc_info=error)

    def _count_drop(self, error: nats.errors.SlowConsumerError) -> None:
        self.slow_drops += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.warning("too slow for %s: %d messages dropped so far", error.subject, self.slow_drops)


async def _end(client: Client) -> None:
    """Closes a connection, whatever its state. The library leaves two things behind, which are ended here: a socket
    whose peer takes no bytes, and the subscriptions' tasks where its last write failed.
    """
    try:
        async with asyncio.timeout(DISCARD_S):
            await client.close()
    except _ERRORS as error:
        log.debug("closing a connection to NATS: %s", error)
    for wire in client._subs.values():
        wire._stop_processing()
    writer = getattr(client._transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()

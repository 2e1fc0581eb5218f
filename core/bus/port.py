"""The bus between gateways and routers, and the stream of usage records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from core.events import Dispatch, EdgeMessage, GrantMessage, RunMessage
from core.ledger.port import Entry


class Subscription(Protocol):
    """A standing interest in a subject."""

    async def stop(self) -> None:
        """No further message is delivered once this returns. Idempotent."""
        ...


class Bus(Protocol):
    """At-most-once messages between processes.

    Ordering: messages that one process publishes to one subject arrive in that order; nothing is promised across
    publishers. Delivery: at most once; a message may be lost or, where the publisher repeats it, arrive twice.
    Callbacks run on the loop, one at a time per subscription, and must not block; an exception in one is logged and the
    subscription goes on. Malformed payloads are logged, counted and dropped.
    Errors: publishing raises `core.errors.Unavailable` when the bus is known to be away or its bounded outgoing buffer
    is full; nothing was sent then. Cancellation: safe anywhere; a cancelled publish may or may not have been sent.
    """

    @property
    def connected(self) -> bool:
        """Whether the bus answered lately."""
        ...

    def on_state(self, callback: Callable[[bool], None]) -> None:
        """Calls back with `connected` at each change. Called from the loop."""
        ...

    async def serve_edge(
        self,
        edge: str,
        on_batch: Callable[[list[EdgeMessage]], None],
        on_no_responders: Callable[[str], None],
    ) -> Subscription:
        """Delivers this gateway's batches. `on_no_responders(generation)`: no router could take that dispatch."""
        ...

    async def serve_turns(self, zone: str, pool: str, on_dispatch: Callable[[Dispatch], None]) -> Subscription:
        """Joins the queue group of routers: each dispatch reaches one member."""
        ...

    async def serve_router(self, router: str, on_grant: Callable[[GrantMessage], None]) -> Subscription:
        """Delivers the grants and refusals for this router."""
        ...

    async def serve_run(self, generation: str, on_message: Callable[[RunMessage], None]) -> Subscription:
        """Delivers what gateways say about one answer. Several processes may serve one generation; all are told.

        Once this returns, a message published afterwards by anyone is delivered.
        """
        ...

    async def dispatch(self, zone: str, pool: str, dispatch: Dispatch) -> None:
        """Sends work to one router of the pool; `on_no_responders` of `dispatch.edge` tells when there is none."""
        ...

    async def to_edge(self, edge: str, batch: Sequence[EdgeMessage]) -> None:
        """Sends one batch to a gateway. The batch must stay below 512 KiB encoded."""
        ...

    async def to_router(self, router: str, message: GrantMessage) -> None:
        """Sends a grant or refusal."""
        ...

    async def to_run(self, generation: str, message: RunMessage) -> None:
        """Tells every process that serves the generation."""
        ...

    async def round_trip(self, timeout_s: float) -> float:
        """Seconds to the bus and back; everything published before has reached it. `Unavailable` past the timeout."""
        ...

    async def close(self) -> None:
        """Sends what is buffered (bounded by 2 s), then ends all subscriptions. Idempotent."""
        ...


class UsageBatch(Protocol):
    """Usage records handed to one consumer; given to another when neither acknowledged nor refused within 30 s."""

    @property
    def entries(self) -> Sequence[Entry]: ...

    async def ack(self) -> None:
        """They are stored elsewhere; never delivered again (short of a lost acknowledgement)."""
        ...

    async def nak(self, delay_s: float) -> None:
        """Deliver them again after the delay."""
        ...


class UsageStream(Protocol):
    """The durable stream of usage records. At least once, so consumers are idempotent by (attempt, revision).

    Ordering: none is promised. Errors: `Unavailable` when not acknowledged within the timeout; the record may still
    be in the stream, and publishing it again is harmless.
    """

    async def publish(self, entry: Entry, timeout_s: float) -> None:
        """Returns once the stream has acknowledged the record."""
        ...

    async def pull(self, limit: int, wait_s: float) -> UsageBatch | None:
        """Up to `limit` records, or None when none came within the wait."""
        ...

    async def close(self) -> None: ...

"""A stateless call, without input or output: its attempts and their records, what follows a failure, what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from core import metering
from core.catalog.port import CatalogModel, Route
from core.errors import ParleyError
from core.ids import generation_id, new_run, uuid7
from core.ledger.port import REVISION_OPENED, REVISION_ROUTER, Entry, Payer
from core.model import Piece, TurnKey, Usage
from core.providers.port import (
    ErrorKind,
    Finished,
    FinishReason,
    ProviderError,
    ProviderEvent,
    ProviderMessage,
    TextDelta,
)
from gateway.patience import Patience

MAX_ATTEMPTS: Final = 3
MIN_WAIT_S: Final = 0.1
MAX_WAIT_S: Final = 2.0
MAX_ANSWER_CHARS: Final = 1 << 20

FINAL_KINDS: Final = frozenset({"bad_request", "auth"})
UNSERVED_KINDS: Final = frozenset({"connect", "rate_limited", "bad_request", "auth"})
REQUEST_STATUS: Final = frozenset({400, 413, 422})

Outcome = Literal["done", "cancelled", "interrupted", "error"]

_REASONS: Final[dict[ErrorKind, str]] = {
    "connect": "it cannot be reached",
    "timeout_first": "it did not begin in time",
    "timeout_idle": "it paused for too long",
    "rate_limited": "it takes no more calls for now",
    "server": "it reports an error of its own",
    "bad_request": "it refuses the request",
    "auth": "it refuses the platform's key",
    "cut": "the connection broke",
    "malformed": "what it sent cannot be read",
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, judged: `routes` in order; `prompt_tokens` estimated; `max_tokens` bounds the answer."""

    model: CatalogModel
    routes: tuple[Route, ...]
    messages: tuple[ProviderMessage, ...]
    params: dict[str, Any]
    prompt_tokens: int
    max_tokens: int


class Call:
    """One call. Its `key` names no turn of history; it is made so that the ledger settles the reservation by it.

    `patience` bounds all that the call waits for. `closing` is the task that records the end: once it is there the call
    has ended.
    """

    __slots__ = (
        "_opened_ms",
        "_route",
        "_run",
        "_size",
        "_text",
        "_told",
        "account",
        "answered",
        "attempting",
        "charged_tokens",
        "closing",
        "degraded",
        "failure",
        "finish_reason",
        "key",
        "number",
        "patience",
        "plan",
        "reservation",
    )

    def __init__(self, account: str, plan: Plan, now_ms: int, patience: Patience) -> None:
        self.account = account
        self.plan = plan
        self.key = TurnKey(uuid7(now_ms), uuid7(now_ms))
        self.reservation = generation_id(self.key.conversation_id, self.key.turn_id)
        self.number = 0
        self.attempting = False
        self.answered = False
        self.degraded = False
        self.patience = patience
        self.closing: asyncio.Task[None] | None = None
        self.failure: ProviderError | None = None
        self.finish_reason: FinishReason = "stop"
        self.charged_tokens = 0
        self._run = new_run()
        self._route = 0
        self._opened_ms = 0
        self._told: Usage | None = None
        self._text: list[str] = []
        self._size = 0

    @property
    def ended(self) -> bool:
        return self.closing is not None

    @property
    def shown(self) -> bool:
        """Whether the client was given text: then there is no other attempt, and it is paid for."""
        return bool(self._text)

    @property
    def full(self) -> bool:
        return self._size >= MAX_ANSWER_CHARS

    @property
    def broken(self) -> Outcome:
        """How a call ends that fails now."""
        return "interrupted" if self.shown else "error"

    @property
    def attempt(self) -> str:
        """The name of the current attempt."""
        return f"{self._run}.{self.number}"

    @property
    def current(self) -> Route:
        return self.plan.routes[self._route]

    @property
    def usage(self) -> Usage:
        """The provider's count or, where it gave none, an estimate that says so."""
        if self._told is not None:
            return self._told
        return Usage(self.plan.prompt_tokens, metering.estimate_tokens("".join(self._text)), estimated=True)

    def open(self, now_ms: int) -> Entry:
        """Begins the next attempt; its first record."""
        self.number += 1
        self.attempting = True
        self._opened_ms = now_ms
        self._told = None
        return self._entry(REVISION_OPENED, "opened", "platform", None)

    def take(self, events: Sequence[ProviderEvent]) -> list[Piece]:
        """The text of a batch, neighbours of one part joined."""
        pieces: list[Piece] = []
        for event in events:
            if isinstance(event, TextDelta):
                last = pieces[-1] if pieces else None
                if last is not None and (last.k, last.i) == (event.kind, event.part):
                    pieces[-1] = Piece(event.kind, event.part, last.d + event.text)
                else:
                    pieces.append(Piece(event.kind, event.part, event.text))
            elif isinstance(event, Finished):
                self.finish_reason = event.reason
            else:
                self._told = event
        return pieces

    def show(self, pieces: Sequence[Piece]) -> None:
        """The pieces are given to the client now."""
        for piece in pieces:
            self._text.append(piece.d)
            self._size += len(piece.d)
        if self.full:
            self.finish_reason = "length"

    def retry_in_s(self, error: ProviderError) -> float | None:
        """When the next attempt may begin; None: there is none. Another route is tried at once."""
        another = self._route + 1 < len(self.plan.routes)
        if self.shown or self.number >= MAX_ATTEMPTS or (error.kind in FINAL_KINDS and not another):
            return None
        return 0.0 if another else min(max((error.retry_after_ms or 0) / 1000, MIN_WAIT_S), MAX_WAIT_S)

    def next_route(self) -> None:
        """The next attempt goes to the next route, or to the last one again."""
        self._route = min(self._route + 1, len(self.plan.routes) - 1)

    def close(self, outcome: Outcome, failure: ProviderError | None = None) -> Entry:
        """Ends the current attempt; its last record. The user pays for an answer, and for text that was given."""
        self.attempting = False
        payer: Payer = "user" if outcome == "done" or (self.shown and outcome != "error") else "platform"
        unserved = failure is not None and failure.kind in UNSERVED_KINDS and not self.shown
        usage = None if unserved else self.usage
        if payer == "user" and usage is not None:
            self.charged_tokens = usage.prompt_tokens + usage.completion_tokens
        return self._entry(REVISION_ROUTER, outcome, payer, usage)

    def _entry(self, revision: int, outcome: str, payer: Payer, usage: Usage | None) -> Entry:
        price = self.plan.model.price
        return Entry(
            attempt=self.attempt,
            revision=revision,
            at_ms=self._opened_ms,
            key=self.key,
            account=self.account,
            epoch=0,
            purpose="answer",
            charged_to=payer,
            model=self.plan.model.alias,
            provider=self.current.provider,
            price_version=price.version,
            outcome=outcome,
            usage=usage,
            cost=metering.price(usage, price.input_nano, price.output_nano) if usage else 0,
        )


def refusal(error: ProviderError, shown: bool) -> ParleyError:
    """What the client is told of the last failure. A provider's own words stay in our log."""
    reason = _REASONS[error.kind]
    if shown:
        return ParleyError("provider_error", f"The answer broke off: the model's provider failed ({reason}).")
    if error.kind == "rate_limited":
        message = "The model's provider takes no more calls for now; try again a little later."
        return ParleyError("overloaded", message, retry_after_ms=error.retry_after_ms or 1000)
    if error.kind == "bad_request" and error.status in REQUEST_STATUS:
        message = "The model's provider refuses this request; change its messages or parameters, or the model."
        return ParleyError("invalid", message)
    message = f"The model's provider failed ({reason}) on every attempt; try again, or choose another model."
    return ParleyError("provider_error", message)

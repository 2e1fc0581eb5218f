"""Stateless completions over scripted providers, with limits, catalog and recorder that a test holds in its hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from core.catalog.port import CatalogModel, Price, Route
from core.clock import SystemClock
from core.config import Config, Limits, Model, Provider
from core.errors import ParleyError, Unavailable
from core.ledger.port import Entry
from core.limits.model import Account
from core.limits.port import Admission, UserLimits
from core.model import Piece
from core.providers.openai import OpenAIOptions, OpenAIProvider
from gateway.api.completions_port import ChatMessage, Completed, CompletionEvent, CompletionRequest
from gateway.completions import DirectCompletions
from gateway.identity import Identity
from tests.mockllm.server import MockLLM

ANN = Identity(user_id="ann", role="user", zone="eu", via="key")
LIMITS = Limits(requests_per_minute=10, turns_at_once=2, tokens_per_day=1000)
FIRST_TOKEN_S = 1.0


class FakeCatalog:
    """Models of this test only."""

    def __init__(self) -> None:
        self.found: dict[str, CatalogModel] = {}
        self.away = False

    def add(self, alias: str, *providers: str, window: int = 400, max_output: int = 100) -> None:
        self.found[alias] = CatalogModel(
            alias=alias,
            routes=tuple(Route(provider, "mock") for provider in providers),
            context_window=window,
            max_output=max_output,
            system_prompt="Never sent here.",
            capabilities=(),
            price=Price(7, 10, 30),
        )

    async def seed(self, models: Sequence[Model]) -> int:
        return 0

    async def models(self) -> tuple[CatalogModel, ...]:
        return tuple(self.found.values())

    async def model(self, alias: str) -> CatalogModel | None:
        if self.away:
            raise Unavailable("the store is away")
        return self.found.get(alias)

    async def price(self, alias: str, version: int) -> Price | None:
        return self.found[alias].price

    async def close(self) -> None:
        return None


class FakeLimits:
    """One account by the limits' own rules, and what was asked of it."""

    def __init__(self) -> None:
        self.account = Account()
        self.degraded = False
        self.away = False
        self.admitted: list[tuple[str, str, int]] = []
        self.renewed: list[tuple[str, str]] = []
        self.settled: list[tuple[str, str, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def admit(self, account: str, turn: str, tokens: int, limits: UserLimits) -> Admission:
        self.admitted.append((account, turn, tokens))
        await self.gate.wait()
        decision = self.account.admit(1_000_000_000, turn, tokens, limits)
        if decision.refusal:
            raise ParleyError(decision.refusal, "Refused.", retry_after_ms=decision.retry_after_ms)
        return Admission(self.degraded, decision.requests_remaining, decision.tokens_remaining, decision.reset_ms)

    async def renew(self, reservations: Sequence[tuple[str, str]]) -> None:
        self.renewed += reservations
        if self.away:
            raise Unavailable("the store is away")

    async def settle(self, account: str, turn: str, tokens: int) -> None:
        self.settled.append((account, turn, tokens))
        self.account.settle(1_000_000_000, turn, tokens)
        if self.away:
            raise Unavailable("the store is away")


class FakeRecorder:
    """Keeps what is recorded once `gate` is open; loses the revisions in `loses`."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.loses: set[int] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def record(self, entry: Entry) -> None:
        await self.gate.wait()
        if entry.revision in self.loses:
            raise Unavailable("neither stream nor disk")
        self.entries.append(entry)

    @property
    def last(self) -> list[Entry]:
        """The highest revision of every attempt, by number."""
        latest = {entry.attempt: entry for entry in sorted(self.entries, key=lambda entry: entry.revision)}
        return [latest[attempt] for attempt in sorted(latest)]


class Stand:
    """The completions and all that is around them."""

    def __init__(self, first: MockLLM, second: MockLLM) -> None:
        self.mocks = {"first": first, "second": second}
        self.catalog, self.limits, self.recorder = FakeCatalog(), FakeLimits(), FakeRecorder()
        self.catalog.add("small", "first")
        self.catalog.add("safe", "first", "second")
        settings = tuple(
            Provider(name=name, base_url=mock.base_url, first_token_s=FIRST_TOKEN_S)
            for name, mock in self.mocks.items()
        )
        options = [OpenAIOptions(name=entry.name, base_url=entry.base_url, send_tags=True) for entry in settings]
        self.providers = {entry.name: OpenAIProvider(entry) for entry in options}
        self.completions = DirectCompletions(
            self.catalog,
            {**self.providers},
            self.limits,
            self.recorder,
            SystemClock(),
            Config(providers=settings, limits=LIMITS),
        )

    @property
    def first(self) -> MockLLM:
        return self.mocks["first"]

    @property
    def second(self) -> MockLLM:
        return self.mocks["second"]

    def stream(
        self, model: str = "small", content: str = "Why?", **fields: Any
    ) -> AsyncGenerator[list[CompletionEvent], None]:
        request = CompletionRequest(
            call="chatcmpl-1",
            model=model,
            messages=(ChatMessage("system", "Be brief."), ChatMessage("user", content)),
            **{"params": {}, "max_tokens": None, **fields},
        )
        return cast(AsyncGenerator[list[CompletionEvent], None], self.completions.stream(ANN, request))

    async def answer(self, model: str = "small", content: str = "Why?", **fields: Any) -> list[CompletionEvent]:
        """All events of a call that must succeed."""
        return [event async for batch in self.stream(model, content, **fields) for event in batch]

    async def refused(self, model: str = "small", content: str = "Why?", **fields: Any) -> ParleyError:
        """The error of a call that must fail before its first piece."""
        seen: list[CompletionEvent] = []
        try:
            async for batch in self.stream(model, content, **fields):
                seen += batch
        except ParleyError as error:
            assert not any(isinstance(event, Piece | Completed) for event in seen)
            return error
        raise AssertionError(f"answered with {seen}")

    async def until_text(self, stream: AsyncGenerator[list[CompletionEvent], None]) -> str:
        """Reads until the first piece, which is returned."""
        async for batch in stream:
            if isinstance(batch[0], Piece):
                return str(batch[0].d)
        raise AssertionError("no text came")

    async def quiet(self) -> None:
        """All that the calls left behind is done; nobody's reservation or connection is kept."""
        await self.completions.stop()
        assert self.completions.running == 0


@asynccontextmanager
async def open_stand() -> AsyncIterator[Stand]:
    """A stand with two providers; whatever a test left running ends with it."""
    async with MockLLM() as first, MockLLM() as second:
        stand = Stand(first, second)
        try:
            yield stand
        finally:
            stand.recorder.gate.set()
            await stand.completions.stop()
            for provider in stand.providers.values():
                await provider.close()

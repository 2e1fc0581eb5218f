"""A simulated provider: answers whose every piece names its attempt, slow, failing, dying or endless as it is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from core.model import Usage
from core.providers.port import ErrorKind, Finished, ProviderError, ProviderEvent, ProviderRequest, TextDelta
from tests.simulation.faults import Faults
from tests.simulation.loop import Node, VirtualLoop, current_node

ENDLESS: Final = 60
KINDS: Final[tuple[ErrorKind, ...]] = ("server", "rate_limited", "connect", "bad_request")


class Attempt:
    """What the provider's own log says of one call."""

    __slots__ = ("at", "finished", "node", "open", "served", "usage")

    def __init__(self, at: float, node: Node | None) -> None:
        self.at = at
        self.node = node
        self.served: list[str] = []
        self.finished = False
        self.open = True
        self.usage: Usage | None = None


class SimProvider:
    """All providers of all routers."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, faults: Faults) -> None:
        self.loop = loop
        self.rng = rng
        self.faults = faults
        self.log: dict[str, Attempt] = {}
        self.twice: list[str] = []
        self.least = 0
        self.deltas = 3
        self.gap_s = 0.2
        self.endless = 0.0
        self.on_call: Callable[[str, Node | None], None] = lambda _attempt, _node: None

    @property
    def name(self) -> str:
        return "sim"

    async def close(self) -> None:
        return

    def stream(self, request: ProviderRequest) -> SimStream:
        return SimStream(self, request)


class SimStream:
    """One answer as it arrives."""

    def __init__(self, provider: SimProvider, request: ProviderRequest) -> None:
        self._provider = provider
        self._request = request
        self._name = request.tags["attempt"]
        self._attempt: Attempt | None = None
        self._count = 0
        self._dies = -1
        self._number = 0
        self._over = False

    def __aiter__(self) -> SimStream:
        return self

    async def __anext__(self) -> list[ProviderEvent]:
        provider, rng = self._provider, self._provider.rng
        attempt = self._attempt
        if attempt is None:
            attempt = self._begin()
            await self._first()
        elif self._over:
            raise StopAsyncIteration
        else:
            await asyncio.sleep(provider.gap_s * rng.random())
        if self._number == self._dies:
            raise ProviderError("cut", "the connection ended", before_text=False)
        if self._number < self._count:
            text = f"{self._name}:{self._number} "
            attempt.served.append(text)
            self._number += 1
            return [TextDelta(text)]
        self._over = attempt.finished = True
        if rng.random() < 0.3:
            return [Finished("stop")]
        attempt.usage = Usage(prompt_tokens=7, completion_tokens=self._count)
        return [Finished("stop"), attempt.usage]

    def _begin(self) -> Attempt:
        provider, rng = self._provider, self._provider.rng
        if self._name in provider.log:
            provider.twice.append(self._name)
        attempt = self._attempt = provider.log[self._name] = Attempt(provider.loop.time(), current_node())
        provider.on_call(self._name, attempt.node)
        endless = provider.endless and rng.random() < provider.endless
        self._count = ENDLESS if endless else rng.randint(provider.least, provider.deltas)
        if self._count and rng.random() < provider.faults.provider_die:
            self._dies = rng.randint(1, self._count)
        return attempt

    async def _first(self) -> None:
        provider, rng = self._provider, self._provider.rng
        wait = 0.002 + 0.03 * rng.random()
        if provider.faults.provider_slow and rng.random() < provider.faults.provider_slow:
            wait += 3.0 * rng.random()
        deadline = self._request.deadline_first_token_s
        await asyncio.sleep(min(wait, deadline))
        if wait > deadline:
            raise ProviderError("timeout_first", "no token in time", before_text=True)
        if rng.random() < provider.faults.provider_fail:
            kind = rng.choice(KINDS)
            raise ProviderError(kind, "failed", before_text=True, retry_after_ms=rng.choice((None, 300)))

    async def aclose(self) -> None:
        """Closes the connection; the provider stops."""
        self._over = True
        if self._attempt is not None:
            self._attempt.open = False

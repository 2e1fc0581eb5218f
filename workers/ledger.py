"""The ledger worker: usage records from the stream into the ledger, and what they say to the limits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, get_args

from core.errors import Unavailable, Unknown
from core.ids import generation_id
from core.ledger.port import REVISION_ESTIMATE, Entry, Ledger
from core.limits.port import Limits
from core.model import EndKind
from workers.runner import Batch, Pace, Postponed, consume

log = logging.getLogger(__name__)

MAX_BURIED: Final = 100
BURIED_WITHIN_S: Final = 60.0
# Each pull, append and settlement costs the same for one record as for many, and no answer waits for them.
PACE: Final = Pace(gather_s=0.05)
_ENDS: Final = frozenset(get_args(EndKind))


class UsageSource(Protocol):
    """A `UsageStream` as its consumer sees it, which keeps what the ledger will never take."""

    async def pull(self, limit: int, wait_s: float) -> Batch[Entry] | None: ...

    async def bury(self, entry: Entry, reason: str) -> None:
        """Sets a record aside, durably and bounded; `Unavailable` when that failed."""
        ...


class LedgerWorker:
    """Handles batches: append, then settle. Both are idempotent, so a batch may come any number of times.

    An entry that the ledger refuses for what it is, rather than because it is away, is found by halving the batch and
    buried. More than `MAX_BURIED` within `BURIED_WITHIN_S` seconds are no poison but a fault of ours (a migration that
    is missing, say): then the rest stays in the stream.
    """

    def __init__(
        self, source: UsageSource, ledger: Ledger, limits: Limits, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._limits = limits
        self._monotonic = monotonic
        self._buried: deque[float] = deque(maxlen=MAX_BURIED)
        self.stored = 0

    async def handle(self, entries: Sequence[Entry]) -> None:
        """Returns once all entries are in the ledger, or buried, and the limits know what users used.

        `Unavailable` or `Unknown`: the ledger is away. `Postponed`: only the limits are; the entries are stored.
        """
        await self._settle(settlements(await self._append(entries)))

    async def _append(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Stores what can be stored and returns it."""
        try:
            self.stored += await self._ledger.append(entries)
            return entries
        except (Unavailable, Unknown):
            raise
        except Exception as error:
            if len(entries) == 1:
                await self._bury(entries[0], error)
                return ()
        middle = len(entries) // 2
        return [*await self._append(entries[:middle]), *await self._append(entries[middle:])]

    async def _bury(self, entry: Entry, error: Exception) -> None:
        now = self._monotonic()
        if len(self._buried) == MAX_BURIED and now - self._buried[0] < BURIED_WITHIN_S:
            raise Unavailable(f"the ledger refuses too much to be the records' fault: {error!r}") from error
        self._buried.append(now)
        await self._source.bury(entry, repr(error))

    async def _settle(self, amounts: dict[tuple[str, str], int]) -> None:
        calls = [self._limits.settle(account, turn, tokens) for (account, turn), tokens in amounts.items()]
        results = await asyncio.gather(*calls, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not isinstance(failure, Unavailable):
                raise failure
        if failures:
            raise Postponed(f"{len(failures)} turns are not settled: {failures[0]}")


def settlements(entries: Sequence[Entry]) -> dict[tuple[str, str], int]:
    """(account, reservation) → tokens. What a user pays for settles its turn with prompt and completion tokens; an
    answer's attempt that ended the turn at the platform's cost releases it. Everything else says nothing: another
    attempt may still run.
    """
    amounts: dict[tuple[str, str], int] = {}
    for entry in entries:
        if entry.revision < REVISION_ESTIMATE:
            continue
        tokens = 0
        if entry.charged_to == "user":
            tokens = max(0, entry.usage.prompt_tokens + entry.usage.completion_tokens) if entry.usage else 0
        elif entry.purpose != "answer" or entry.outcome not in _ENDS:
            continue
        try:
            name = entry.account, generation_id(entry.key.conversation_id, entry.key.turn_id)
        except ValueError:
            log.warning("%s names no turn, so nothing is reserved for it", entry.attempt)
            continue
        amounts[name] = max(tokens, amounts.get(name, 0))
    return amounts


async def run_ledger(
    source: UsageSource,
    ledger: Ledger,
    limits: Limits,
    stop: asyncio.Event,
    pace: Pace = PACE,
) -> None:
    """Consumes until `stop` is set, then drains; see `workers.runner.consume`."""
    worker = LedgerWorker(source, ledger, limits)
    await consume(source, worker.handle, stop, pace)
    log.info("the ledger worker stopped after %d new entries", worker.stored)

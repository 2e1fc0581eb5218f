"""Usage records on their way to the ledger: the stream, or within its timeout a local spool that is replayed later."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from core.bus.port import UsageStream
from core.errors import Unavailable, Unknown
from core.ledger.port import Entry
from core.spool import Spool

log = logging.getLogger(__name__)

REPLAY_S: Final = 2.0
FIRST_WAIT_S: Final = 0.5
LAST_WAIT_S: Final = 5.0
TRIES: Final = 20
PAUSE_S: Final = 0.5


class Recorder:
    """One per process; closes neither the stream nor the spool.

    `record` returns once a record is acknowledged by the stream or on the local disk. A dead or slow stream costs at
    most `timeout_s` seconds of it. Delivery: at least once; consumers are idempotent by (attempt, revision).
    """

    def __init__(self, usage: UsageStream, spool: Spool[Entry], timeout_s: float) -> None:
        self._usage = usage
        self._spool = spool
        self._timeout_s = timeout_s
        self._replayer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to replay what the spool holds, from earlier processes too."""
        self._replayer = asyncio.create_task(self._replay_loop(), name="usage replay")

    async def stop(self) -> None:
        """Ends the replay; what is left is replayed by the next process. Idempotent."""
        replayer, self._replayer = self._replayer, None
        if replayer is not None:
            replayer.cancel()
            await asyncio.wait([replayer])

    @property
    def spooled(self) -> int:
        """Bytes that wait in the spool."""
        return self._spool.size

    async def record(self, entry: Entry) -> bool:
        """Whether the stream has it; else it is on the local disk only, and is replayed.

        Raises `Unavailable` where neither took it for ten seconds; repeat it then.
        """
        for _ in range(TRIES):
            try:
                await self._usage.publish(entry, self._timeout_s)
                return True
            except Unavailable as error:
                log.debug("%s:%d goes to the spool: %s", entry.attempt, entry.revision, error)
            try:
                await self._spool.append(entry)
                return False
            except (Unavailable, Unknown) as error:
                log.error("%s:%d is neither streamed nor spooled: %s", entry.attempt, entry.revision, error)
            await asyncio.sleep(PAUSE_S)
        raise Unavailable(f"the usage record {entry.attempt}:{entry.revision} could not be kept")

    async def _replay_loop(self) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            await asyncio.sleep(wait_s)
            if not self._spool.size:
                wait_s = FIRST_WAIT_S
                continue
            try:
                count = await self._spool.replay(self._publish)
                log.info("%d spooled usage records were streamed", count)
                wait_s = FIRST_WAIT_S
            except (Unavailable, OSError) as error:
                wait_s = min(wait_s * 2, LAST_WAIT_S)
                log.warning("spooled usage records wait for %.1f s more: %s", wait_s, error)
            except Exception:
                wait_s = LAST_WAIT_S
                log.exception("spooled usage records cannot be replayed; they are tried again")

    async def _publish(self, entry: Entry) -> None:
        await self._usage.publish(entry, REPLAY_S)

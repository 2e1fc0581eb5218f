"""What a router must not lose: usage records, and ends that history could not take (rule 11 of docs/turns.md)."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from core.errors import Unavailable, Unknown
from core.history.port import Applied, History
from core.ledger.port import Entry
from core.model import End, Increment, TurnKey
from core.recorder import Recorder
from core.spool import Spool
from workers.router.effects import SpoolEnd

log = logging.getLogger(__name__)

TRY_EVERY_S: Final = 2.0


class KeptEnd(msgspec.Struct, frozen=True, kw_only=True):
    """An end on disk, with the text that history misses and the usage record that belongs to it."""

    key: TurnKey
    end: End
    increments: tuple[Increment, ...]
    entry: Entry | None


class SpoolingRecorder:
    """Records usage through `recorder`, which it starts and stops, and keeps ends in `ends` until history takes them.

    A kept end that history refuses (somebody else ended the turn, or claimed it) charges nobody.
    """

    def __init__(self, recorder: Recorder, history: History, ends: Spool[KeptEnd]) -> None:
        self._recorder = recorder
        self._history = history
        self._ends = ends
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to write what earlier processes kept, and what this one will keep."""
        await self._recorder.start()
        self._writer = asyncio.create_task(self._write_loop(), name="kept ends")

    async def stop(self) -> None:
        """What is left is written by the next process. Idempotent."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
            await asyncio.wait([writer])
        await self._recorder.stop()

    @property
    def spooled(self) -> int:
        """Bytes that wait on disk, of either kind."""
        return self._recorder.spooled + self._ends.size

    async def record(self, entry: Entry) -> bool:
        """See `core.recorder.Recorder.record`."""
        return await self._recorder.record(entry)

    async def keep_end(self, key: TurnKey, effect: SpoolEnd) -> None:
        """On disk when it returns. Raises `Unavailable` or `Unknown` where the disk did not take it."""
        await self._ends.append(KeptEnd(key=key, end=effect.end, increments=effect.increments, entry=effect.entry))

    async def _write_loop(self) -> None:
        while True:
            await asyncio.sleep(TRY_EVERY_S)
            if not self._ends.size:
                continue
            try:
                count = await self._ends.replay(self._write)
                log.info("%d kept ends were written", count)
            except (Unavailable, Unknown, OSError) as error:
                log.warning("kept ends wait: %s", error)
            except Exception:
                log.exception("kept ends cannot be written; they are tried again")

    async def _write(self, kept: KeptEnd) -> None:
        """Idempotent, as a replay may hand it out again."""
        for increment in kept.increments:
            await self._history.append(kept.key, kept.end.epoch, increment)
        result = await self._history.end(kept.key, kept.end)
        applied = isinstance(result, Applied)
        acknowledged = True
        if kept.entry is not None:
            entry = kept.entry
            if not applied:
                entry = msgspec.structs.replace(entry, charged_to="platform", outcome="superseded")
            acknowledged = await self._recorder.record(entry)
        if applied and acknowledged:
            await self._history.close_listing([kept.key])

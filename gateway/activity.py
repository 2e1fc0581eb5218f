"""What the list of conversations shows: the latest activity, and a title where there is none yet."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from core.accounts.model import Touch
from core.accounts.port import Conversations
from core.errors import Unavailable, Unknown
from core.model import NewTurn

log = logging.getLogger(__name__)

MAX_WAITING: Final = 10_000
MOST_AT_ONCE: Final = 500
TITLE_CHARS: Final = 60
GATHER_S: Final = 0.05


class Activity:
    """Notes opened turns in the background: of a conversation the last one counts, and what does not fit is lost, as
    the list is metadata and no turn depends on it. Each batch gathers for `GATHER_S`: the answers whose turns were just
    opened need the database more.
    """

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations
        self._waiting: dict[str, NewTurn] = {}
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._note_loop(), name="activity")

    async def stop(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def opened(self, turn: NewTurn) -> None:
        """Never waits."""
        conversation = turn.key.conversation_id
        if conversation in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[conversation] = turn
            self._something.set()

    async def _note_loop(self) -> None:
        while True:
            await self._something.wait()
            await asyncio.sleep(GATHER_S)
            self._something.clear()
            while self._waiting:
                await self._note([self._waiting.pop(name) for name in list(self._waiting)[:MOST_AT_ONCE]])

    async def _note(self, turns: list[NewTurn]) -> None:
        touches = [Touch(turn.key.conversation_id, turn.owner, turn.since_ms, title_of(turn.content)) for turn in turns]
        try:
            await self._conversations.touch_conversations(touches)
        except (Unavailable, Unknown) as error:
            log.info("the activity of %d conversations is not noted: %s", len(touches), error)


def title_of(content: str) -> str:
    """The beginning of a message on one line, cut between words where that leaves most of it."""
    line = " ".join(content.split())
    if len(line) <= TITLE_CHARS:
        return line
    cut = line[:TITLE_CHARS]
    at = cut.rfind(" ")
    return (cut[:at] if at > TITLE_CHARS // 2 else cut) + "…"

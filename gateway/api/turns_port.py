"""What the HTTP resources need of turns; the WebSocket's sessions use the same machinery behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, Protocol

import msgspec

from core.model import Accepted, Continue, EndFrame, Part, Regenerate, Send, ServerFrame
from gateway.identity import Identity

GenerationStatus = Literal["running", "done", "cancelled", "interrupted", "failed"]


class GenerationView(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it stands. `seq` is the last delta in the text, -1 for none; `text` joins the parts."""

    id: str
    status: GenerationStatus
    epoch: int
    seq: int
    text: str
    parts: list[Part]
    end: EndFrame | None


class Turns(Protocol):
    """Every call checks that the caller owns the conversation: another's is `not_found`. Raises `ParleyError`.

    Idempotency: `send`, `regenerate` and `continue_` by the frame's id. Cancelling a call undoes nothing.
    """

    async def send(self, identity: Identity, frame: Send) -> Accepted:
        """Opens a turn; returns once it is durable."""
        ...

    async def regenerate(self, identity: Identity, frame: Regenerate) -> Accepted: ...

    async def continue_(self, identity: Identity, frame: Continue) -> Accepted: ...

    async def cancel(self, identity: Identity, generation_id: str) -> EndFrame:
        """The stored end, whichever it is; the wait for it is bounded (`unknown`)."""
        ...

    async def abandon(self, conversation_id: str) -> None:
        """Cancels what runs in a conversation that was deleted: the caller has checked whose it was. Idempotent."""
        ...

    async def generation(self, identity: Identity, generation_id: str) -> GenerationView: ...

    def watch(self, identity: Identity, generation_id: str, epoch: int, seq: int) -> AsyncIterator[ServerFrame]:
        """An async generator of what follows `(epoch, seq)` (-1, -1: everything), live, up to the end frame.

        `not_found` is raised by the first step. Closing it stops watching and nothing else.
        """
        ...

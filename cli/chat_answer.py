"""One answer as a terminal sees it, without any I/O: frames in; text to print and frames to send out."""

from __future__ import annotations

from typing import Literal

import msgspec

from core.model import (
    Accepted,
    Cancel,
    Cancelled,
    ClientFrame,
    Delta,
    Done,
    Drain,
    EndFrame,
    ErrorFrame,
    Event,
    Failed,
    Interrupted,
    Notice,
    Pong,
    Queued,
    Restart,
    Resume,
    Resumed,
    Send,
    Snapshot,
    Welcome,
)

Frame = (
    Welcome
    | Accepted
    | Queued
    | Resumed
    | Delta
    | Snapshot
    | Restart
    | Done
    | Cancelled
    | Interrupted
    | Failed
    | ErrorFrame
    | Notice
    | Event
    | Pong
    | Drain
)
Outcome = Literal["done", "cancelled", "interrupted", "failed", "refused"]

MAX_RESENDS = 5
DEFAULT_RETRY_MS = 1000


class Out(msgspec.Struct, frozen=True):
    """What a frame leads to: `text` continues the answer, `remark` is about it; `again_ms` asks to send `frames` only
    after so long.
    """

    text: str = ""
    remark: str = ""
    frames: tuple[ClientFrame, ...] = ()
    again_ms: int = 0


class Answer:
    """Follows one turn from its `send` to its end, over any number of connections."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._epoch = 0
        self._seq = -1
        self._parts: dict[tuple[str, int], str] = {}
        self._shown = ""
        self._whole = True
        self._cancelling = False
        self._resends = 0
        self.generation_id: str | None = None
        self.outcome: Outcome | None = None

    @property
    def ended(self) -> bool:
        return self.outcome is not None

    def connected(self) -> tuple[ClientFrame, ...]:
        """What a new connection begins with: the same message again, or where we were."""
        if self.generation_id is None:
            return (self._send,)
        self._whole = True
        return (Resume(generation_id=self.generation_id, epoch=self._epoch, seq=self._seq), *self._cancel())

    def cancel(self) -> tuple[ClientFrame, ...]:
        """The user wants it to stop. Told again on every connection until the end is seen."""
        self._cancelling = True
        return self._cancel()

    def _cancel(self) -> tuple[ClientFrame, ...]:
        if self._cancelling and self.generation_id is not None:
            return (Cancel(generation_id=self.generation_id),)
        return ()

    def take(self, frame: Frame) -> Out:
        match frame:
            case Accepted() if frame.message_id == self._send.message_id:
                self.generation_id = frame.generation_id
                return Out(frames=self._cancel())
            case Queued() if self._mine(frame.generation_id):
                return Out(remark=f"waiting for capacity: place {frame.position}, about {frame.eta_s:.0f} s")
            case Delta() if self._mine(frame.g):
                return self._delta(frame)
            case Restart() if self._mine(frame.generation_id) and frame.epoch > self._epoch:
                self._begin(frame.epoch)
                return Out()
            case Snapshot() if self._mine(frame.generation_id) and frame.epoch >= self._epoch:
                return self._snapshot(frame)
            case EndFrame() if self._mine(frame.generation_id):
                return self._end(frame)
            case ErrorFrame() if frame.message_id == self._send.message_id:
                return self._error(frame)
            case ErrorFrame() | Notice():
                return Out(remark=frame.message)
            case _:
                return Out()

    def _mine(self, generation_id: str) -> bool:
        return generation_id == self.generation_id

    def _begin(self, epoch: int) -> None:
        self._epoch, self._seq, self._parts = epoch, -1, {}

    def _delta(self, frame: Delta) -> Out:
        if frame.e < self._epoch or (frame.e == self._epoch and frame.n <= self._seq):
            return Out()
        if frame.e > self._epoch:
            self._begin(frame.e)
        self._append(frame.i, frame.k, frame.d)
        self._seq = frame.n
        return self._render()

    def _snapshot(self, frame: Snapshot) -> Out:
        if frame.at == 0:
            self._begin(frame.epoch)
        for part in frame.parts:
            self._append(part.i, part.k, part.d)
        self._seq = frame.seq
        self._whole = not frame.more
        return self._render()

    def _append(self, number: int, kind: str, text: str) -> None:
        self._parts[kind, number] = self._parts.get((kind, number), "") + text

    def _render(self) -> Out:
        if not self._whole:
            return Out()
        text = "".join(text for (kind, _), text in sorted(self._parts.items()) if kind == "text")
        shown, self._shown = self._shown, text
        if text.startswith(shown):
            return Out(text=text[len(shown) :])
        return Out(text=text, remark="the answer broke off and begins again")

    def _end(self, frame: EndFrame) -> Out:
        why = f": {frame.message}" if frame.message else ""
        match frame:
            case Done():
                self.outcome = "done"
                return Out(remark="cut at its longest" if frame.finish_reason == "length" else "")
            case Cancelled():
                self.outcome = "cancelled"
                return Out(remark="stopped")
            case Interrupted():
                self.outcome = "interrupted"
                return Out(remark=f"interrupted{why}")
            case _:
                self.outcome = "failed"
                return Out(remark=f"no answer{why}")

    def _error(self, frame: ErrorFrame) -> Out:
        self._resends += 1
        if not frame.retryable or self._resends > MAX_RESENDS or self._cancelling:
            self.outcome = "refused"
            return Out(remark=frame.message)
        wait = frame.retry_after_ms or DEFAULT_RETRY_MS
        return Out(remark=f"{frame.message}; again in {wait / 1000:.1f} s", frames=(self._send,), again_ms=wait)

"""One text per running answer, shared by all its viewers; a viewer holds only its place in it. Sans-IO.

`Answer` takes deltas, heartbeats and the end; `Place.frames` tells one viewer what it has not seen: the seam between
replay and live text (rule 6 of docs/turns.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

from core import turn as rules
from core.events import Text
from core.model import (
    MAX_PIECE_BYTES,
    Delta,
    End,
    Increment,
    Part,
    Piece,
    Restart,
    Resumed,
    ServerFrame,
    Snapshot,
    end_frame,
)

ASK_EVERY_S: Final = 0.25
MAX_READY: Final = 8

Need = Literal["tail", "stored"]


class Answer:
    """The text of a generation as this gateway knows it. `pieces[n]` is delta `n` while live; once `stored`, the pieces
    are history's and only the last seq has meaning. `version` changes whenever places in the text lose their meaning.

    `ready`: by index, what goes from there to the present end of the text, as the viewers' connections send it, and the
    index behind it. Viewers that keep up are all at the same place; at most `MAX_READY` places are remembered.
    """

    __slots__ = ("_asked_at", "end", "epoch", "generation", "heard", "last", "pieces", "ready", "stored", "version")

    def __init__(self, generation: str) -> None:
        self.generation = generation
        self.epoch = -1
        self.last = -1
        self.pieces: list[Piece] = []
        self.end: End | None = None
        self.stored = False
        self.heard = False
        self.version = 0
        self.ready: dict[int, tuple[bytes, int]] = {}
        self._asked_at = -ASK_EVERY_S

    def on_epoch(self, epoch: int) -> None:
        """A newer epoch is known: the older text is gone."""
        if epoch > self.epoch and not self.stored:
            self.epoch, self.last, self.pieces = epoch, -1, []
            self.heard = False
            self.version += 1
            self.ready = {}

    def on_text(self, now: float, text: Text) -> Need | None:
        """Takes a delta, live or of a resumed tail, only if it is the next one."""
        if text.seq == self.last + 1 and text.epoch == self.epoch and self.end is None:
            # The usual case; what follows would come to the same.
            self.pieces.append(text.piece)
            self.last = text.seq
            if self.ready:
                self.ready = {}
            return None
        if self.stored or rules.stale(text.epoch, self.epoch):
            return None
        if self.end is not None and text.seq > self.end.seq:
            return None  # of a run that does not know yet that its turn was ended without it
        self.on_epoch(text.epoch)
        if rules.next_delta(text.seq, self.last):
            self.pieces.append(text.piece)
            self.last = text.seq
            if self.ready:
                self.ready = {}
            return None
        return self._ask(now) if text.seq > self.last else None

    def on_life(self, now: float, epoch: int, seq: int) -> Need | None:
        """A heartbeat: shows a lost tail, and that everything before it has been heard."""
        if self.stored or rules.stale(epoch, self.epoch):
            return None
        self.on_epoch(epoch)
        if seq > self.last:
            return self._ask(now)
        self.heard = True
        return None

    def on_end(self, end: End) -> Need | None:
        """The stored end. Where the live text is not exactly what it ends, history's text is needed."""
        if self.end is None:
            self.end = end
        return None if self.finished else "stored"

    def on_stored(self, increments: Sequence[Increment]) -> None:
        """History's text of the ended epoch."""
        if self.end is None or self.finished:
            return
        self.pieces = [piece for increment in increments for piece in increment.pieces]
        self.epoch, self.last, self.stored = self.end.epoch, self.end.seq, True
        self.version += 1
        self.ready = {}

    @property
    def finished(self) -> bool:
        """Whether the end may be shown after this text."""
        return self.end is not None and (self.stored or rules.complete(self.epoch, self.last, self.end))

    def delta(self, index: int, bound: int = MAX_PIECE_BYTES) -> tuple[Delta, int]:
        """The delta that begins with piece `index`: at most `bound` bytes of one part's text, or one piece. And the
        index behind it.
        """
        pieces = self.pieces
        first = pieces[index]
        text, end = first.d, index + 1
        if end < len(pieces):
            end = _run_end(pieces, index, bound)
            text = "".join([piece.d for piece in pieces[index:end]])
        return Delta(g=self.generation, e=self.epoch, n=end - 1, d=text, k=first.k, i=first.i), end

    def _ask(self, now: float) -> Need | None:
        if now - self._asked_at < ASK_EVERY_S:
            return None
        self._asked_at = now
        return "tail"


class Place:
    """Where one viewer is in an answer: the last (epoch, seq) it was sent.

    `resuming`: it asked with an address of its own and has not been answered; until then nothing else is sent.
    """

    __slots__ = ("at", "done", "epoch", "index", "resuming", "seq", "snapshot", "version")

    def __init__(self, epoch: int = -1, seq: int = -1, resuming: bool = False) -> None:
        self.epoch = epoch
        self.seq = seq
        self.index = seq + 1
        self.at = 0
        self.version = -1
        self.snapshot = False
        self.resuming = resuming
        self.done = False

    def shows(self, epoch: int, seq: int) -> bool:
        """Whether its client, who said it shows this, shows it and perhaps more, all from one text."""
        settled = not (self.resuming or self.snapshot or self.done)
        return settled and epoch == self.epoch and 0 <= seq <= self.seq

    def ready(self, answer: Answer, encode: Callable[[Delta], bytes]) -> bytes | None:
        """The next delta, encoded once for all viewers that are at this place. None where it is not a delta that comes
        next, or nothing does: `frames` knows. `encode` must be the same for all viewers of an answer.
        """
        if self.version != answer.version or self.resuming or self.snapshot or self.done:
            return None
        found = answer.ready.get(self.index)
        if found is None:
            if self.index >= len(answer.pieces):
                return None
            delta, end = answer.delta(self.index)
            found = encode(delta), end
            if len(answer.ready) < MAX_READY:
                answer.ready[self.index] = found
        data, self.index = found
        self.seq = self.index - 1
        return data

    def level(self, answer: Answer) -> bool:
        """Whether a viewer that was sent the last delta has nothing else to be told."""
        return self.index == len(answer.pieces) and answer.end is None

    def frames(self, answer: Answer, bound: int = MAX_PIECE_BYTES) -> Iterator[ServerFrame]:
        """What this viewer has not seen, in frames of at most `bound` bytes of text. Take as many as it can hold; ask
        again for the rest.
        """
        while not self.done:
            frame = self._next(answer, bound)
            if frame is None:
                return
            yield frame

    def _next(self, answer: Answer, bound: int) -> ServerFrame | None:
        if self.resuming:
            return self._answer_resume(answer, bound)
        if self.version != answer.version:
            frame = self._follow(answer)
            if frame is not None:
                return frame
        if self.snapshot:
            return self._snapshot_piece(answer, bound)
        if self.index < len(answer.pieces):
            return self._delta(answer, bound)
        return self._end(answer, bound)

    def _answer_resume(self, answer: Answer, bound: int) -> ServerFrame | None:
        known = answer.finished or answer.heard or answer.last >= self.seq
        if answer.epoch < 0 or (not known and self.epoch == answer.epoch):
            return None
        self.resuming = False
        self.version = answer.version
        same = self.epoch == answer.epoch and self.seq >= -1
        on_boundary = self.seq == answer.last if answer.stored else self.seq <= answer.last
        if same and on_boundary:
            self.index = len(answer.pieces) if answer.stored else self.seq + 1
            return Resumed(generation_id=answer.generation, epoch=self.epoch, seq=self.seq)
        self._begin_snapshot(answer)
        return self._snapshot_piece(answer, bound)

    def _begin_snapshot(self, answer: Answer) -> None:
        self.epoch, self.seq, self.index, self.at, self.snapshot = answer.epoch, -1, 0, 0, True
        self.version = answer.version

    def _follow(self, answer: Answer) -> ServerFrame | None:
        """The text changed under this viewer: a newer epoch, or history's text in place of the live one."""
        self.version = answer.version
        if answer.stored:
            if (self.epoch, self.seq) == (answer.epoch, answer.last) and not self.snapshot:
                self.index = len(answer.pieces)
                return None
            self._begin_snapshot(answer)
            return None
        shown = self.seq >= 0 and self.epoch < answer.epoch
        if self.epoch == answer.epoch:
            return None
        self.epoch, self.seq, self.index, self.snapshot = answer.epoch, -1, 0, False
        if shown:
            return Restart(generation_id=answer.generation, epoch=answer.epoch, reason="attempt_lost")
        return None

    def _delta(self, answer: Answer, bound: int) -> ServerFrame:
        delta, self.index = answer.delta(self.index, bound)
        self.seq = self.index - 1
        return delta

    def _snapshot_piece(self, answer: Answer, bound: int) -> Snapshot:
        parts: list[Part] = []
        at = self.at
        for piece in _run(answer.pieces, self.index, bound):
            if parts and (parts[-1].k, parts[-1].i) == (piece.k, piece.i):
                parts[-1] = Part(piece.i, piece.k, parts[-1].d + piece.d)
            else:
                parts.append(Part(piece.i, piece.k, piece.d))
            self.index += 1
            self.at += len(piece.d)
        more = self.index < len(answer.pieces)
        self.seq = self.index - 1 if not answer.stored else -1 if more else answer.last
        self.snapshot = more
        return Snapshot(generation_id=answer.generation, epoch=self.epoch, seq=self.seq, at=at, parts=parts, more=more)

    def _end(self, answer: Answer, bound: int) -> ServerFrame | None:
        if answer.end is None or not answer.finished:
            return None
        if not rules.complete(self.epoch, self.seq, answer.end):
            self._begin_snapshot(answer)
            return self._snapshot_piece(answer, bound)
        self.done = True
        return end_frame(answer.generation, answer.end)


def _run_end(pieces: list[Piece], start: int, bound: int) -> int:
    """The index behind the pieces of one part from `start` that fit into `bound` bytes; at least one piece."""
    first = pieces[start]
    kind, part = first.k, first.i
    size = 0
    for index in range(start, len(pieces)):
        piece = pieces[index]
        if piece.i != part or piece.k != kind:
            return index
        text = piece.d
        size += len(text) if text.isascii() else len(text.encode())
        if size > bound and index > start:
            return index
    return len(pieces)


def _run(pieces: list[Piece], start: int, bound: int) -> Iterator[Piece]:
    """Pieces from `start` while they fit into `bound` bytes; always at least one where there is one."""
    size = 0
    for index in range(start, len(pieces)):
        text = pieces[index].d
        size += len(text) if text.isascii() else len(text.encode())
        if size > bound and index > start:
            return
        yield pieces[index]

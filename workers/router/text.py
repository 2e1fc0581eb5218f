"""The text of one running epoch: numbered deltas kept for resume, and the increments cut from them for history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from core.model import MAX_PIECE_BYTES, Increment, Piece
from core.providers.port import TextDelta

MAX_DELTA_CHARS: Final = 4_096
MAX_ANSWER_BYTES: Final = 1 << 20
INCREMENT_EVERY_S: Final = 2.0


class EpochText:
    """Deltas of one epoch from seq 0, and how much of them history has."""

    __slots__ = ("cut_at", "cut_seq", "increments", "pending_bytes", "pieces", "size")

    def __init__(self, now: float) -> None:
        self.pieces: list[Piece] = []
        self.increments: list[Increment] = []
        self.size = 0
        self.pending_bytes = 0
        self.cut_seq = -1
        self.cut_at = now

    @property
    def last_seq(self) -> int:
        return len(self.pieces) - 1

    @property
    def full(self) -> bool:
        return self.size >= MAX_ANSWER_BYTES

    def add(self, deltas: Iterable[TextDelta]) -> int:
        """Numbers the deltas, neighbours of one part joined; returns the first new seq."""
        first = len(self.pieces)
        kind, part, text = "", 0, ""
        for delta in deltas:
            if text and (delta.kind, delta.part) == (kind, part):
                text += delta.text
                continue
            self._push(kind, part, text)
            kind, part, text = delta.kind, delta.part, delta.text
        self._push(kind, part, text)
        return first

    def _push(self, kind: str, part: int, text: str) -> None:
        for start in range(0, len(text), MAX_DELTA_CHARS):
            piece = Piece(kind, part, text[start : start + MAX_DELTA_CHARS])  # type: ignore[arg-type]
            self.pieces.append(piece)
            size = len(piece.d.encode())
            self.size += size
            self.pending_bytes += size

    def due(self, now: float) -> bool:
        """Whether new text has waited for 2 s, or is worth an increment of its own."""
        if not self.pending_bytes:
            return False
        return now - self.cut_at >= INCREMENT_EVERY_S or self.pending_bytes >= MAX_PIECE_BYTES // 2

    def cut(self, now: float) -> list[Increment]:
        """Increments (each ≤ 32 KiB) of all text that none has yet."""
        made: list[Increment] = []
        group: list[Piece] = []
        size = 0
        for seq in range(self.cut_seq + 1, len(self.pieces)):
            piece = self.pieces[seq]
            cost = len(piece.d.encode()) + 16
            if group and size + cost > MAX_PIECE_BYTES:
                made.append(self._increment(len(made), seq - 1, group))
                group, size = [], 0
            group.append(piece)
            size += cost
        if group:
            made.append(self._increment(len(made), len(self.pieces) - 1, group))
        self.increments += made
        self.cut_seq, self.cut_at, self.pending_bytes = len(self.pieces) - 1, now, 0
        return made

    def _increment(self, ahead: int, seq: int, group: list[Piece]) -> Increment:
        return Increment(i=len(self.increments) + ahead, seq=seq, pieces=tuple(_joined(group)))

    def whole(self) -> str:
        """All text of all parts, for counting."""
        return "".join(piece.d for piece in self.pieces)


def _joined(pieces: list[Piece]) -> Iterator[Piece]:
    start = 0
    for at in range(1, len(pieces) + 1):
        if at == len(pieces) or (pieces[at].k, pieces[at].i) != (pieces[start].k, pieces[start].i):
            yield Piece(pieces[start].k, pieces[start].i, "".join(piece.d for piece in pieces[start:at]))
            start = at

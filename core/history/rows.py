"""Between the rows of core/schema/0001_history.sql and the structs of the port."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import asyncpg
import msgspec

from core.history.port import Applied, Home, Refused
from core.model import End, Increment, NewTurn, Piece, Turn, TurnKey

_PIECES = msgspec.msgpack.Decoder(tuple[Piece, ...])
_END = msgspec.msgpack.Decoder(End)
_PARAMS = msgspec.json.Decoder(dict[str, Any])


def open_arguments(turn: NewTurn) -> tuple[object, ...]:
    """The arguments of history_open_turn."""
    return (
        turn.key.conversation_id,
        turn.key.turn_id,
        turn.owner,
        turn.kind,
        turn.message_turn,
        turn.parent_turn,
        turn.source_turn,
        turn.content.encode(),
        len(turn.content),
        turn.model,
        turn.price_version,
        msgspec.json.encode(turn.params).decode(),
        turn.max_tokens,
        turn.body_hash,
        turn.run,
        turn.since_ms,
    )


def to_turn(row: asyncpg.Record) -> Turn:
    parent, source = row["parent_turn"], row["source_turn"]
    opened = NewTurn(
        key=TurnKey(str(row["conversation"]), str(row["turn"])),
        owner=row["owner"],
        kind=row["kind"],
        message_turn=str(row["message_turn"]),
        parent_turn=None if parent is None else str(parent),
        source_turn=None if source is None else str(source),
        content=row["content"].decode(),
        model=row["model"],
        price_version=row["price_version"],
        params=_PARAMS.decode(row["params"]),
        max_tokens=row["max_tokens"],
        body_hash=row["body_hash"],
        run=row["opened_run"],
        since_ms=row["opened_ms"],
    )
    return Turn(
        opened=opened,
        epoch=row["epoch"],
        run=row["run"],
        since_ms=row["since_ms"],
        cancelled=row["cancelled"],
        end=None if row["ended"] is None else _END.decode(row["ended"]),
    )


def to_home(row: asyncpg.Record, owner: str = "owner") -> Home:
    """`owner`: the name of that column."""
    return Home(owner=row[owner], zone=row["zone"], deleted_at_ms=row["deleted_at_ms"])


def encode_end(end: End) -> bytes:
    return msgspec.msgpack.encode(end)


def encode_pieces(pieces: tuple[Piece, ...]) -> bytes:
    return msgspec.msgpack.encode(pieces)


def text_chars(pieces: tuple[Piece, ...]) -> int:
    """Characters that these pieces add to the answer as a later turn reads it."""
    return sum(len(piece.d) for piece in pieces if piece.k == "text")


def to_increments(stored: Iterable[tuple[int, int, bytes]]) -> list[Increment]:
    """Increments from (i, seq, pieces) in order of i, up to the first gap."""
    found: list[Increment] = []
    for i, seq, pieces in stored:
        if i != len(found):
            break
        found.append(Increment(i, seq, _PIECES.decode(pieces)))
    return found


def columns(row: asyncpg.Record) -> list[tuple[int, int, bytes]]:
    """(i, seq, pieces) of a row that carries them as the arrays `i`, `seqs`, `texts`; each None where there is none."""
    return list(zip(row["i"] or (), row["seqs"] or (), row["texts"] or (), strict=True))


def to_text(increments: Iterable[Increment]) -> str:
    """The text of an answer: its parts of kind `text`, in order of their numbers."""
    parts: dict[int, list[str]] = {}
    for increment in increments:
        for piece in increment.pieces:
            if piece.k == "text":
                parts.setdefault(piece.i, []).append(piece.d)
    return "".join("".join(parts[i]) for i in sorted(parts))


# A conditional write returns the row as it stands. Whether it was applied is a question to that row alone: a run is
# one writer's, so its own name in the row says that this write, or an earlier try of it, took effect (rule 1).


def opened_or_claimed(row: asyncpg.Record | None, epoch: int, run: str) -> Applied | Refused:
    """Verdict on `open` (epoch 0) or a claim of `epoch`."""
    if row is None:
        return Refused(None)
    turn = to_turn(row)
    mine = turn.epoch == epoch and turn.run == run and turn.end is None and not turn.cancelled
    return Applied(turn) if mine else Refused(turn)


def cancelled(row: asyncpg.Record | None) -> Applied | Refused:
    """Verdict on `cancel`."""
    if row is None:
        return Refused(None)
    turn = to_turn(row)
    return Applied(turn) if turn.cancelled and turn.end is None else Refused(turn)


def ended(row: asyncpg.Record | None, end: End) -> Applied | Refused:
    """Verdict on `end`: a writer ends a run in one way only, whatever else a repetition of it may say."""
    if row is None:
        return Refused(None)
    turn = to_turn(row)
    stored = turn.end
    mine = stored is not None and (stored.writer, stored.run, stored.epoch) == (end.writer, end.run, end.epoch)
    return Applied(turn) if mine else Refused(turn)

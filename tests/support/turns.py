"""Turns, ends and increments for tests of anything that stores them."""

from __future__ import annotations

import itertools
import secrets
from typing import Any

from core.ids import new_run, uuid7
from core.model import End, Increment, NewTurn, Piece, Turn, TurnKey, Usage

_MS = itertools.count(1_700_000_000_000)


def new_id() -> str:
    """A UUIDv7 greater than all made before."""
    return uuid7(next(_MS), secrets.randbits(74))


def new_turn(conversation_id: str, **changes: Any) -> NewTurn:
    """A send at the root of a conversation, unless `changes` say otherwise (`turn_id` names it)."""
    turn_id = changes.pop("turn_id", None) or new_id()
    values: dict[str, Any] = {
        "key": TurnKey(conversation_id, turn_id),
        "owner": "owner",
        "kind": "send",
        "message_turn": turn_id,
        "parent_turn": None,
        "source_turn": None,
        "content": "a question",
        "model": "small",
        "price_version": 1,
        "params": {"temperature": 0.5},
        "max_tokens": 100,
        "body_hash": "hash",
        "run": new_run(),
        "since_ms": 1_700_000_000_000,
    }
    return NewTurn(**(values | changes))


def new_end(turn: Turn | NewTurn, **changes: Any) -> End:
    """An end `done` by the turn's router, without text, unless `changes` say otherwise."""
    epoch = turn.epoch if isinstance(turn, Turn) else 0
    values: dict[str, Any] = {
        "kind": "done",
        "epoch": epoch,
        "run": turn.run,
        "writer": turn.run,
        "chunks": 0,
        "seq": -1,
        "finish_reason": "stop",
        "model": "small",
        "provider": "scripted",
        "usage": Usage(prompt_tokens=3, completion_tokens=5),
        "cost": 1234,
        "attempt": f"{turn.run}.1",
    }
    return End(**(values | changes))


def text(i: int, d: str, seq: int | None = None) -> Increment:
    """Increment `i` with one piece of text."""
    return Increment(i, i if seq is None else seq, (Piece("text", 0, d),))

"""The gateway's session machine under changed messages, answers in any order and every way to end."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec

from core.errors import TABLE, ParleyError
from core.model import Accepted, Done, ErrorFrame, Notice, Queued, ServerFrame
from gateway.protocol import MAX_PENDING, MAX_VIEWS, Ask, Close, Effect, Leave, Session, Stop, Tell, View
from tests.fuzz.corpus import JSON_WORDS, MESSAGES
from tests.fuzz.mutations import mutate

CLOSES = frozenset({kind.close for kind in TABLE.values() if kind.close} | {1001})
MOST_ECHOED = 128
_encode = msgspec.json.Encoder().encode


def session(rng: random.Random) -> None:
    """One connection's life: up to 40 things happen to it."""
    _Life(rng).run()


class _Life:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._session = Session()
        self._asked: list[Ask | View | Stop] = []
        self._closed = False
        self._watched: set[str] = set()

    def run(self) -> None:
        for _ in range(self._rng.randrange(1, 40)):
            if self._rng.randrange(3):
                self._message()
            else:
                self._something_else()
            assert len(self._session.views) <= MAX_VIEWS
        left = self._session.gone()
        assert all(isinstance(effect, Leave) for effect in left)
        assert not self._session.views
        assert self._session.on_message(MESSAGES[-1]) == []

    def _message(self) -> None:
        data = mutate(self._rng, self._rng.choice(MESSAGES), JSON_WORDS, most=3)
        waiting = len(self._asked)
        effects = self._take(self._session.on_message(data), one=True)
        if not effects:
            return
        closes = isinstance(effects[-1], Close)
        if closes:
            assert [type(effect) for effect in effects] == [Tell, Close]
            assert effects[-1].code == TABLE["malformed"].close  # type: ignore[attr-defined]  # it is a Close
            assert not _plainly_fine(data), data
        else:
            assert len(effects) == 1, "a frame is answered once"
        if waiting >= MAX_PENDING:
            assert isinstance(effects[0], Tell)

    def _something_else(self) -> None:
        rng, session = self._rng, self._session
        kind = rng.randrange(10)
        number = rng.randrange(50)
        if self._asked and rng.randrange(4):
            number = self._asked.pop(rng.randrange(len(self._asked))).number
        generation = rng.choice(["c~t", "c~u", f"g{rng.randrange(80)}"])
        if kind < 3:
            duplicate = bool(rng.randrange(2))
            accepted = Accepted(message_id="m", generation_id=generation, duplicate=duplicate)
            self._take(session.accepted(number, accepted))
        elif kind == 3:
            self._take(session.watching(number))
        elif kind == 4:
            self._take(session.refused(number, ParleyError("rate_limited", "no", retry_after_ms=5)))
        elif kind == 5:
            self._take(session.ended(number, _end(generation)))
        elif kind == 6:
            self._take(session.queued(Queued(generation_id=generation, position=1, eta_s=1.0)))
            self._take(session.notice(Notice(code="degraded", message="m")))
        elif kind == 7 and rng.randrange(3) == 0:
            self._take(session.drain(100))
        elif kind == 8 and rng.randrange(4) == 0:
            self._take(rng.choice([session.on_binary, session.close])())
        elif kind == 9 and rng.randrange(6) == 0:
            self._take(session.overrun("too many", 100))

    def _take(self, effects: list[Effect], one: bool = False) -> list[Effect]:
        assert not (self._closed and effects), "something was told after the close"
        for effect in effects:
            if isinstance(effect, Tell):
                self._told(effect.frame)
            elif isinstance(effect, Close):
                assert effect.code in CLOSES
                assert len(effect.reason.encode()) <= 123
                self._closed = True
            elif isinstance(effect, Ask | View | Stop):
                self._asked.append(effect)
        return effects

    def _told(self, frame: ServerFrame) -> None:
        told: dict[str, Any] = json.loads(_encode(frame))
        assert isinstance(told["type"], str)
        if isinstance(frame, ErrorFrame):
            assert frame.code in TABLE
            assert frame.message
            for echoed in (frame.message_id, frame.turn_id, frame.generation_id):
                assert echoed is None or isinstance(echoed, str)


def _end(generation: str) -> Done:
    return Done(
        generation_id=generation, epoch=1, seq=1, finish_reason="stop", usage=None, cost=0, model="m", provider="p"
    )


def _plainly_fine(data: bytes) -> bool:
    """Whether it is a JSON object with a text as its type by Python's opinion, leaving out where JSON is in doubt."""
    if any(doubt in data for doubt in (b"NaN", b"Infinity", b"\\u", b"\xef\xbb\xbf", b"[[[[[[[[", b'{"a":{"a":')):
        return False
    try:
        message = json.loads(data.decode())
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and isinstance(message.get("type"), str) and data.count(b'"type"') == 1

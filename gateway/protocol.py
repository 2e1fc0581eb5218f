"""One client's session, sans-IO: frames in, effects out; no await, no clock (docs/protocol.md).

The shell carries the effects out and brings results back by `accepted`, `refused`, `watching`. What a viewer has not
seen of an answer is asked for by `frames`, so a slow client costs a place in a shared text and nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec

from core.errors import CLOSE_DRAINING, TABLE, ParleyError
from core.model import (
    Accepted,
    Cancel,
    ClientFrame,
    Continue,
    Drain,
    EndFrame,
    ErrorFrame,
    Event,
    Notice,
    Ping,
    Pong,
    Queued,
    Regenerate,
    Resume,
    Resumed,
    Send,
    ServerFrame,
    Welcome,
)
from gateway.hub import Answer, Place

MAX_PENDING: Final = 16
MAX_VIEWS: Final = 64
MAX_MESSAGE_CHARS: Final = 500
_NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})

Request: TypeAlias = Send | Regenerate | Continue
Frame: TypeAlias = Send | Regenerate | Continue | Resume | Cancel | Ping

_decode = msgspec.json.Decoder(Frame).decode
_TYPES: Final = frozenset({"send", "regenerate", "continue", "resume", "cancel", "ping"})


class _Envelope(msgspec.Struct):
    """What of a frame that is wrong is told back: its ids, where they are of the form of one."""

    type: str
    message_id: Any = None
    turn_id: Any = None
    generation_id: Any = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
# How msgspec names the field that is wrong, or missing.
_AT_FIELD: Final = re.compile(r"`\$\.(\w+)|field `(\w+)`")


# What may be told back of a frame: JSON needs one byte for each of these characters.
_ID: Final = re.compile(r"[0-9A-Za-z._:~+/=-]{1,128}")


def _id(value: Any) -> str | None:
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


class Effect(msgspec.Struct, frozen=True, gc=False):
    """Base of all effects."""


class Tell(Effect, frozen=True):
    """Send this frame to the client."""

    frame: ServerFrame


class Ask(Effect, frozen=True):
    """Open a turn; answered by `accepted` or `refused` with the same `number`."""

    number: int
    frame: Request


class View(Effect, frozen=True):
    """Begin to watch an answer at an address of the client's; answered by `watching` or `refused`."""

    number: int
    frame: Resume


class Stop(Effect, frozen=True):
    """Cancel an answer; answered by `ended` or `refused`."""

    number: int
    frame: Cancel


class Leave(Effect, frozen=True):
    """Nobody behind this connection watches the answer any more."""

    generation: str


class Close(Effect, frozen=True):
    """Close the connection."""

    code: int
    reason: str


class Session:
    """One connection of an authenticated user. While it is idle it holds no container of its own."""

    __slots__ = ("_next", "_pending", "_views", "closed", "draining")

    def __init__(self) -> None:
        self.closed = False
        self.draining = False
        self._views: dict[str, Place] | None = None
        self._pending: dict[int, ClientFrame] | None = None
        self._next = 0

    @property
    def views(self) -> Mapping[str, Place]:
        """The answers that are watched, by generation."""
        return self._views if self._views is not None else _NOTHING

    def open(
        self, connection_id: str, user: str, time_ms: int, heartbeat_s: float, limits: dict[str, int]
    ) -> list[Effect]:
        """The first frame. `time_ms` lets a client with a wrong clock make ids that are in order."""
        welcome = Welcome(connection_id=connection_id, user=user, time=time_ms, heartbeat_s=heartbeat_s, limits=limits)
        return [Tell(welcome)]

    def on_message(self, data: bytes | str) -> list[Effect]:
        """A complete text message of the client's."""
        if self.closed:
            return []
        try:
            frame = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return self._undecodable(data, str(error))
        if isinstance(frame, Ping):
            return [Tell(Pong(t=frame.t))]
        if self._pending is not None and len(self._pending) >= MAX_PENDING:
            message = f"At most {MAX_PENDING} frames may wait for an answer; wait for one."
            return [self._error(frame, ParleyError("rate_limited", message, retry_after_ms=200))]
        if self.draining and isinstance(frame, Send | Regenerate | Continue):
            message = "This gateway is going away; reconnect and send the same id again."
            return [self._error(frame, ParleyError("unavailable", message, retry_after_ms=100))]
        number = self._next
        self._next += 1
        if self._pending is None:
            self._pending = {}
        self._pending[number] = frame
        if isinstance(frame, Resume):
            return [View(number, frame)]
        if isinstance(frame, Cancel):
            return [Stop(number, frame)]
        return [Ask(number, frame)]

    def on_binary(self) -> list[Effect]:
        """Frames are text; a binary message is not one."""
        if self.closed:
            return []
        return self._malformed("Frames are JSON text messages; this one was binary.")

    def _undecodable(self, data: bytes | str, problem: str) -> list[Effect]:
        try:
            envelope = _decode_envelope(data)
        except msgspec.ValidationError:
            return self._malformed('A frame is a JSON object with a string field "type".')
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._malformed("The message is not valid JSON (or nested too deeply).")
        if envelope.type not in _TYPES:
            kind = (_id(envelope.type) or "?")[:40]
            problem = f"There is no frame of type {kind!r}; known are {', '.join(sorted(_TYPES))}."
            param: str | None = "type"
        else:
            at = _AT_FIELD.search(problem)
            param = at[1] or at[2] if at else None
        return [
            Tell(
                ErrorFrame(
                    code="invalid",
                    message=problem,
                    retryable=False,
                    message_id=_id(envelope.message_id),
                    turn_id=_id(envelope.turn_id),
                    generation_id=_id(envelope.generation_id),
                    param=param,
                )
            )
        ]

    def _malformed(self, message: str) -> list[Effect]:
        self.closed = True
        kind = TABLE["malformed"]
        assert kind.close is not None
        return [Tell(ErrorFrame(code=kind.code, message=message, retryable=False)), Close(kind.close, kind.code)]

    def _answered(self, number: int) -> ClientFrame | None:
        if self._pending is None:
            return None
        frame = self._pending.pop(number, None)
        if not self._pending:
            self._pending = None
        return frame

    def accepted(self, number: int, accepted: Accepted) -> list[Effect]:
        """The turn is durable. Its viewer begins with nothing shown; one that is here already goes on.

        Of a duplicate the client may show some text from an earlier connection: a snapshot replaces it.
        """
        if self._answered(number) is None or self.closed:
            return []
        told: list[Effect] = [Tell(accepted)]
        if accepted.generation_id in self.views:
            return told
        return told + self._view(accepted.generation_id, Place(resuming=accepted.duplicate))

    def watching(self, number: int) -> list[Effect]:
        """The answer is known to the hub; its viewer goes on from its own address."""
        frame = self._answered(number)
        if not isinstance(frame, Resume) or self.closed:
            return []
        seen = self.views.get(frame.generation_id)
        if seen is None:
            return self._view(frame.generation_id, Place(frame.epoch, frame.seq, resuming=True))
        # The address may have been passed on this very connection, by text that was on its way to the client.
        if seen.shows(frame.epoch, frame.seq):
            return [Tell(Resumed(generation_id=frame.generation_id, epoch=seen.epoch, seq=seen.seq))]
        return self._view(frame.generation_id, Place(resuming=True))

    def _view(self, generation: str, place: Place) -> list[Effect]:
        if generation not in self.views and len(self.views) >= MAX_VIEWS:
            message = f"At most {MAX_VIEWS} answers can be watched at once on one connection."
            error = ErrorFrame(code="rate_limited", message=message, retryable=True, generation_id=generation)
            return [Tell(error), Leave(generation)]
        if self._views is None:
            self._views = {}
        self._views[generation] = place
        return []

    def ended(self, number: int, frame: EndFrame) -> list[Effect]:
        """The reply to a cancel, where the answer is not watched here, or about to be: the stored end, whichever it is.

        A viewer tells the end itself, after the text that its client lacks (rule 6).
        """
        self._answered(number)
        if self.closed or frame.generation_id in self.views or self._resumes(frame.generation_id):
            return []
        return [Tell(frame)]

    def _resumes(self, generation: str) -> bool:
        pending = self._pending.values() if self._pending is not None else ()
        return any(isinstance(frame, Resume) and frame.generation_id == generation for frame in pending)

    def refused(self, number: int, error: ParleyError) -> list[Effect]:
        """The frame with this number was refused; never an end."""
        frame = self._answered(number)
        if frame is None or self.closed:
            return []
        return [self._error(frame, error)]

    def _error(self, frame: ClientFrame, error: ParleyError) -> Tell:
        message_id = frame.message_id if isinstance(frame, Send) else None
        turn_id = frame.turn_id if isinstance(frame, Regenerate | Continue) else None
        generation = None if isinstance(frame, Send) else getattr(frame, "generation_id", None)
        return Tell(
            ErrorFrame(
                code=error.code,
                message=error.message[:MAX_MESSAGE_CHARS],
                retryable=error.kind.retryable,
                message_id=_id(message_id),
                turn_id=_id(turn_id),
                generation_id=_id(generation),
                retry_after_ms=error.retry_after_ms,
                param=error.param,
            )
        )

    def place(self, generation: str) -> Place | None:
        """Where the client is in an answer that it watches."""
        return self._views.get(generation) if self._views is not None and not self.closed else None

    def frames(self, answer: Answer, bound: int) -> Iterator[ServerFrame]:
        """What the client has not seen of this answer; the view ends with the end frame."""
        place = self._views.get(answer.generation) if self._views is not None else None
        if place is None or self.closed:
            return
        yield from place.frames(answer, bound)
        if place.done and self._views is not None:
            self._views.pop(answer.generation, None)
            if not self._views:
                self._views = None

    def queued(self, frame: Queued) -> list[Effect]:
        return [Tell(frame)] if frame.generation_id in self.views and not self.closed else []

    def notice(self, frame: Notice) -> list[Effect]:
        return [] if self.closed else [Tell(frame)]

    def event(self, frame: Event) -> list[Effect]:
        """Something of the user's has changed elsewhere."""
        return [] if self.closed else [Tell(frame)]

    def overrun(self, message: str, retry_after_ms: int) -> list[Effect]:
        """Too many frames, or connections: says when to come back, then closes."""
        if self.closed:
            return []
        self.closed = True
        kind = TABLE["rate_limited"]
        assert kind.close is not None
        error = ErrorFrame(code=kind.code, message=message, retryable=True, retry_after_ms=retry_after_ms)
        return [Tell(error), Close(kind.close, f"{kind.code}; retry_after_ms={retry_after_ms}")]

    def drain(self, reconnect_after_ms: int) -> list[Effect]:
        """This gateway is going away."""
        if self.closed or self.draining:
            return []
        self.draining = True
        return [Tell(Drain(reconnect_after_ms=reconnect_after_ms))]

    def close(self, code: int = CLOSE_DRAINING, reason: str = "draining") -> list[Effect]:
        """Ends the session; nothing is told afterwards."""
        if self.closed:
            return []
        self.closed = True
        return [Close(code, reason)]

    def gone(self) -> list[Effect]:
        """The connection ended. Answers go on; only their viewers leave."""
        self.closed = True
        left = [Leave(generation) for generation in self.views]
        self._views = self._pending = None
        return list(left)

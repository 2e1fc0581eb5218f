"""One of the user's devices: sends, watches, loses its connection, comes back; checks every frame that it is told."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from core.ids import generation_id
from core.model import (
    Accepted,
    Cancel,
    Cancelled,
    Continue,
    Delta,
    Done,
    Drain,
    EndFrame,
    ErrorFrame,
    Failed,
    Interrupted,
    Notice,
    Pong,
    Queued,
    Regenerate,
    Restart,
    Resume,
    Resumed,
    Send,
    Snapshot,
    Turn,
    Welcome,
)
from gateway.connection import Client
from tests.simulation.loop import OUTSIDE, Node
from tests.support.websocket import payload_of

if TYPE_CHECKING:
    from tests.simulation.hosts import GatewayHost
    from tests.simulation.world import World

HIGH_BYTES: Final = 300
SILENT_S: Final = 4.0

_Server = (
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
    | Pong
    | Drain
)
_decode: Final[Callable[[bytes], Any]] = msgspec.json.Decoder(_Server).decode
_encode = msgspec.json.Encoder().encode
AGAIN: Final = frozenset({"unknown", "unavailable", "overloaded", "busy", "rate_limited", "internal"})


class Wire:
    """A socket: what `ext.ws.Connection` is to a gateway's session. Either end may vanish."""

    def __init__(self, world: World, device: Device, node: Node) -> None:
        self._world = world
        self._device = device
        self.node = node
        self.open = True
        self.buffered = 0
        self.client: Client | None = None
        self.watching: set[str] = set()
        self.resumed: set[str] = set()
        self._last = 0.0
        self._paused = False
        self._deaf = False
        self._unread: list[str] = []

    def send_text(self, message: str | bytes) -> None:
        """Gateway to device."""
        assert isinstance(message, bytes)
        if not self.open:
            return
        self.buffered += len(message)
        if self.buffered > HIGH_BYTES and not self._paused and self.client is not None:
            self._paused = True
            self.client.pause_writing()
        self._last = max(self._world.loop.time(), self._last) + self._device.frame_s
        self._world.loop.call_at(self._last, self._arrive, message, context=OUTSIDE)

    def send_encoded(self, frames: bytes) -> None:
        """Gateway to device: one text frame, as it is written."""
        self.send_text(payload_of(frames))

    def _arrive(self, message: bytes) -> None:
        if not self.open:
            return
        self.buffered -= len(message)
        if self._paused and self.buffered < HIGH_BYTES // 2:
            self._paused = False
            self._world.loop.call_soon(self._resume, context=self.node.context)
        self._device.on_frame(self, _decode(message))

    def _resume(self) -> None:
        if self.open and self.client is not None:
            self.client.resume_writing()

    def close(self, code: int, reason: str) -> None:
        """The gateway closes it."""
        self._world.loop.call_later(0.001, self._device.lost, self, context=OUTSIDE)

    def write(self, frame: Any) -> None:
        """Device to gateway."""
        if self.open:
            data = _encode(frame).decode()
            self._world.loop.call_later(0.001, self._hear, data, context=self.node.context)

    def _hear(self, data: str) -> None:
        if not self.open or self.client is None:
            return
        if self._deaf:
            self._unread.append(data)
        else:
            self.client.on_text(data)

    def pause_reading(self) -> None:
        """What the device says from now on waits, in order."""
        self._deaf = True

    def resume_reading(self) -> None:
        self._deaf = False
        unread, self._unread = self._unread, []
        for data in unread:
            self._world.loop.call_soon(self._hear, data, context=self.node.context)

    def cut(self) -> None:
        """The device goes away; the gateway sees it when it runs."""
        if self.open:
            self.open = False
            self._world.loop.call_later(0.001, self._gone, context=self.node.context)

    def _gone(self) -> None:
        if self.client is not None:
            self.client.on_close(1006, "gone")


class Shown:
    """What a device shows of one answer."""

    def __init__(self) -> None:
        self.epoch = -1
        self.seq = -1
        self.text = ""
        self.partial = False
        self.end: EndFrame | None = None
        self.told_again = False
        self.moved = 0.0


class Request:
    """A frame that opens a turn, and what became of it. `would_be`: the answer's id once it is stored."""

    def __init__(self, frame: Send | Regenerate | Continue, conversation: str) -> None:
        self.frame = frame
        self.would_be = generation_id(conversation, self.id)
        self.generation = ""
        self.given_up = False
        self.refused = ""
        self.moot = False
        self.unsure = False
        self.sent = 0
        self.asked_at = 0.0

    @property
    def id(self) -> str:
        name = self.frame.message_id if isinstance(self.frame, Send) else self.frame.turn_id
        assert name is not None
        return name

    @property
    def open(self) -> bool:
        return not (self.generation or self.given_up or self.refused or self.moot)


def asks_the_same(frame: Send | Regenerate | Continue, turn: Turn) -> bool:
    """Whether a stored turn is what the frame asks for."""
    opened = turn.opened
    if isinstance(frame, Send):
        return opened.kind == "send" and opened.content == frame.content
    source = generation_id(turn.key.conversation_id, opened.source_turn or turn.key.turn_id)
    return opened.kind == type(frame).__name__.lower() and source == frame.generation_id


class Device:
    """`frame_s`: seconds that one frame takes to arrive. It owns no task; the world calls `tick` now and then."""

    def __init__(self, world: World, name: str, rng: random.Random, frame_s: float) -> None:
        self.world = world
        self.name = name
        self.frame_s = frame_s
        self.shown: dict[str, Shown] = {}
        self.requests: dict[str, Request] = {}
        self.cancelling: set[str] = set()
        self.wire: Wire | None = None
        self.away = False
        self.patient = False
        self.reconnects = True
        self.prefers: GatewayHost | None = None
        self._rng = rng
        self._heard = 0.0

    # What the user does.

    def send(self, frame: Send | Regenerate | Continue) -> None:
        """Asks for a turn; repeats it until it is answered."""
        request = Request(frame, self.world.conversation)
        self.requests[request.id] = request
        self._write_request(request)

    def watch(self, generation: str) -> None:
        """Opens an answer that is known to be stored."""
        if generation in self.shown:
            return
        for request in self.requests.values():
            request.moot = request.moot or generation == request.would_be
        self.shown[generation] = Shown()
        self._resume(generation)

    def cancel(self, generation: str) -> None:
        """Presses stop; again after each reconnection until an end is told."""
        self.cancelling.add(generation)
        if self.wire is not None:
            self.wire.write(Cancel(generation_id=generation))

    def leave(self) -> None:
        """Closes the laptop."""
        self.away = True
        self._drop()

    def come_back(self) -> None:
        self.away = False
        self.tick()

    def reconnect(self) -> None:
        """The network blinks."""
        if self.reconnects:
            self._drop()

    # Its connection.

    def tick(self) -> None:
        """Reconnects, repeats what got no answer, gives up on a gateway that says nothing."""
        now = self.world.loop.time()
        if self.away:
            return
        if self.wire is None:
            self._connect()
            return
        waiting = any(self.lacks(name) for name in self.shown) or any(each.open for each in self.requests.values())
        if waiting and now - self._heard > SILENT_S:
            self._heard = now
            self._drop()
            return
        for request in self.requests.values():
            if request.open and now - request.asked_at > 1.0:
                self._write_request(request)

    def lacks(self, generation: str) -> bool:
        """Whether no end is shown yet."""
        return generation in self.shown and self.shown[generation].end is None

    def _connect(self) -> None:
        prefers = self.prefers
        gateway = prefers if prefers is not None and prefers.up else self.world.pick_gateway(self._rng)
        if gateway is None:
            return
        wire = self.wire = Wire(self.world, self, gateway.node)
        self._heard = self.world.loop.time()
        gateway.accept(wire)
        for generation in self.shown:
            if self.lacks(generation):
                self._resume(generation)
        for request in self.requests.values():
            if request.open:
                self._write_request(request)
        for generation in self.cancelling:
            if self.lacks(generation):
                wire.write(Cancel(generation_id=generation))

    def _drop(self) -> None:
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.cut()

    def lost(self, wire: Wire) -> None:
        """The gateway's end is gone."""
        wire.open = False
        if self.wire is wire:
            self.wire = None

    def _resume(self, generation: str) -> None:
        if self.wire is None or any(each.open and each.would_be == generation for each in self.requests.values()):
            return  # it is asked for by its own message
        if generation in self.wire.resumed:
            return  # once on each connection: what else is on its way might pass it
        self.wire.resumed.add(generation)
        shown = self.shown[generation]
        epoch, seq = (-1, -1) if shown.partial else (shown.epoch, shown.seq)
        self.wire.write(Resume(generation_id=generation, epoch=epoch, seq=seq))

    def _write_request(self, request: Request) -> None:
        if self.wire is not None:
            request.sent += 1
            request.asked_at = self.world.loop.time()
            self.wire.write(request.frame)

    # What it is told.

    def on_frame(self, wire: Wire, frame: Any) -> None:
        if self.wire is not wire:
            return
        self._heard = self.world.loop.time()
        self.world.note(f"{self.name} <- {frame!r}")
        if isinstance(frame, Delta):
            self._delta(frame)
        elif isinstance(frame, Accepted):
            self._accepted(wire, frame)
        elif isinstance(frame, Resumed):
            self._resumed(wire, frame)
        elif isinstance(frame, Snapshot):
            self._snapshot(wire, frame)
        elif isinstance(frame, Restart):
            self._restart(frame)
        elif isinstance(frame, EndFrame):
            self._end(wire, frame)
        elif isinstance(frame, ErrorFrame):
            self._error(frame)
        elif isinstance(frame, Drain):
            self._drop()

    def _fail(self, problem: str) -> None:
        self.world.fail(f"{self.name}: {problem}")

    def _accepted(self, wire: Wire, frame: Accepted) -> None:
        request = self.requests.get(frame.message_id)
        if request is None:
            self._fail(f"accepted what was never sent: {frame}")
            return
        if self.world.row(frame.generation_id) is None:
            self._fail(f"accepted, and history has no row: {frame}")
        if request.refused == "conflict":
            self._fail(f"accepted after {request.refused}: {frame}")
        request.generation = frame.generation_id
        shown = self.shown.setdefault(frame.generation_id, Shown())
        shown.told_again = shown.told_again or frame.duplicate
        wire.watching.add(frame.generation_id)
        self.world.on_accepted(self, request)

    def _delta(self, frame: Delta) -> None:
        shown = self.shown[frame.g]
        if frame.e < shown.epoch:
            self._fail(f"went back from epoch {shown.epoch} to {frame}")
            return
        if frame.e > shown.epoch:
            shown.epoch, shown.seq, shown.text = frame.e, -1, ""
        said = self.world.net.texts.get((frame.g, frame.e), [])
        meant = "".join(text.piece.d for text in said[shown.seq + 1 : frame.n + 1])
        if frame.n <= shown.seq or frame.n >= len(said) or frame.d != meant:
            self._fail(f"a hole or a repeat after seq {shown.seq}: {frame}, meant {meant!r}")
        if shown.partial or (shown.end is not None and not shown.told_again):
            self._fail(f"text after {shown.end or 'half a snapshot'}: {frame}")
        shown.seq, shown.moved = frame.n, self.world.loop.time()
        shown.text += frame.d

    def _resumed(self, wire: Wire, frame: Resumed) -> None:
        shown = self.shown[frame.generation_id]
        wire.watching.add(frame.generation_id)
        if (frame.epoch, frame.seq) != (shown.epoch, shown.seq):
            self._fail(f"resumed at {frame} and shows {shown.epoch}:{shown.seq}")

    def _snapshot(self, wire: Wire, frame: Snapshot) -> None:
        shown = self.shown[frame.generation_id]
        wire.watching.add(frame.generation_id)
        if frame.epoch < shown.epoch:
            self._fail(f"went back from epoch {shown.epoch} to {frame}")
        if not frame.at:
            shown.text, shown.end = "", None
        if frame.at != len(shown.text) or (frame.at and not shown.partial):
            self._fail(f"a piece of a snapshot at {frame.at} after {len(shown.text)} characters")
        shown.text += "".join(part.d for part in frame.parts)
        shown.epoch, shown.seq, shown.partial = frame.epoch, frame.seq, frame.more
        shown.moved = self.world.loop.time()

    def _restart(self, frame: Restart) -> None:
        shown = self.shown[frame.generation_id]
        if frame.epoch <= shown.epoch:
            self._fail(f"restart from {shown.epoch} to {frame}")
        if shown.seq < 0 and not shown.partial:
            self._fail(f"restart though nothing is shown: {frame}")
        shown.epoch, shown.seq, shown.text, shown.partial = frame.epoch, -1, "", False

    def _end(self, wire: Wire, frame: EndFrame) -> None:
        generation = frame.generation_id
        row = self.world.row(generation)
        stored = row.end if row is not None else None
        told = (type(frame).__name__.lower(), frame.epoch, frame.seq, frame.usage, frame.cost)
        if stored is None or told != (stored.kind, stored.epoch, stored.seq, stored.usage, stored.cost):
            self._fail(f"told {told}, stored is {stored}")
            return
        if generation in self.cancelling and generation not in wire.watching:
            return  # the reply to a cancel, where nothing is watched: it replaces nothing that is shown
        shown = self.shown[generation]
        if shown.seq == -1 and not shown.partial:
            shown.epoch, shown.text = max(shown.epoch, frame.epoch), ""  # nothing is shown, of whichever epoch
        if (shown.epoch, shown.seq) != (frame.epoch, frame.seq) or shown.partial:
            self._fail(f"an end on incomplete text, {shown.epoch}:{shown.seq}: {frame}")
        if shown.end is not None and type(shown.end) is not type(frame):
            self._fail(f"two ends: {shown.end}, {frame}")
        shown.end = frame
        shown.told_again = False

    def _error(self, frame: ErrorFrame) -> None:
        name = frame.message_id or frame.turn_id
        if name is None:
            self._refused_answer(frame)
            return
        request = self.requests.get(name)
        if request is None or not request.open:
            return
        self.world.on_error(self, request, frame)
        if frame.code in AGAIN:
            request.unsure = request.unsure or frame.code in ("unknown", "internal") or request.sent > 1
            if frame.code == "unavailable" and not request.unsure and not self.patient and self._rng.random() < 0.3:
                request.given_up = True
        else:
            request.refused = frame.code
        if not request.open and self.lacks(request.would_be):
            self._resume(request.would_be)

    def _refused_answer(self, frame: ErrorFrame) -> None:
        if frame.code not in AGAIN:
            self._fail(f"refused what was accepted: {frame}")
        elif frame.generation_id in self.shown and self.lacks(frame.generation_id):
            if self.wire is not None and frame.generation_id not in self.cancelling:
                self.wire.resumed.discard(frame.generation_id)
                self.world.loop.call_later(0.5, self._again, frame.generation_id, context=OUTSIDE)
            else:
                self._drop()  # which of the two was refused is not told; a new connection asks for both

    def _again(self, generation: str) -> None:
        if self.wire is not None and self.lacks(generation) and generation not in self.wire.watching:
            self._resume(generation)

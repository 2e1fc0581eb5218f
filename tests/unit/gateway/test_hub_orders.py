"""What clients of docs/protocol.md make of the frames of an answer, in whatever order the hub hears of it."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from core.events import Text
from core.model import (
    MAX_PIECE_BYTES,
    Delta,
    EndFrame,
    Increment,
    Piece,
    Restart,
    Resumed,
    ServerFrame,
    Snapshot,
)
from gateway.hub import MAX_READY, Answer, Place
from tests.support.turns import new_end, new_id, new_turn

G = "gen"
OPENED = new_turn(new_id())
Shown = dict[tuple[str, int], str]


def shown(pieces: Sequence[Piece]) -> Shown:
    """The parts of a text, by kind and number."""
    parts: Shown = {}
    for piece in pieces:
        parts[piece.k, piece.i] = parts.get((piece.k, piece.i), "") + piece.d
    return parts


def joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Neighbours of one part as one piece, as history stores them."""
    groups = itertools.groupby(pieces, lambda piece: (piece.k, piece.i))
    return tuple(Piece(k, i, "".join(piece.d for piece in group)) for (k, i), group in groups)


class Client:
    """What a client of docs/protocol.md shows after the frames it took."""

    def __init__(self) -> None:
        self.epoch, self.seq, self.parts = -1, -1, dict[tuple[str, int], str]()
        self.at = 0
        self.whole = True
        self.awaits = False
        self.end: EndFrame | None = None
        self.most = 0
        self.frames: Counter[str] = Counter()

    @classmethod
    def seen(cls, epoch: int, seq: int, parts: Shown) -> Client:
        """One that has seen `parts` at this address, and asks to go on from it."""
        client = cls()
        client.epoch, client.seq, client.parts, client.awaits = epoch, seq, dict(parts), True
        return client

    def take(self, frame: ServerFrame) -> None:
        assert self.end is None, "nothing follows an end"
        self.frames[type(frame).__name__] += 1
        if self.awaits:
            assert isinstance(frame, Resumed | Snapshot), "a resume is answered before anything else"
            self.awaits = False
        if isinstance(frame, Resumed):
            assert (frame.epoch, frame.seq) == (self.epoch, self.seq)
        elif isinstance(frame, Delta):
            self._delta(frame)
        elif isinstance(frame, Snapshot):
            self._snapshot(frame)
        elif isinstance(frame, Restart):
            assert frame.epoch > self.epoch
            self.epoch, self.seq, self.parts, self.whole = frame.epoch, -1, {}, True
        else:
            assert isinstance(frame, EndFrame)
            assert self.whole
            if frame.epoch > self.epoch:
                assert self.parts == {}, "text that was shown is dropped by a restart"
                self.epoch = frame.epoch
            assert (frame.epoch, frame.seq) == (self.epoch, self.seq)
            self.end = frame

    def _delta(self, frame: Delta) -> None:
        assert self.whole, "a snapshot is finished first"
        if frame.e > self.epoch:
            assert self.parts == {}, "text that was shown is dropped by a restart"
            self.epoch, self.seq = frame.e, -1
        assert frame.e == self.epoch
        assert frame.n > self.seq
        assert frame.d
        self._append(frame.k, frame.i, frame.d)
        self.seq = frame.n
        self.most = max(self.most, len(frame.d.encode()))

    def _snapshot(self, frame: Snapshot) -> None:
        if frame.at == 0:
            self.parts, self.at = {}, 0
        assert frame.at == self.at
        for part in frame.parts:
            self._append(part.k, part.i, part.d)
            self.at += len(part.d)
        self.epoch, self.seq, self.whole = frame.epoch, frame.seq, not frame.more
        self.most = max(self.most, sum(len(part.d.encode()) for part in frame.parts))

    def _append(self, k: str, i: int, d: str) -> None:
        self.parts[k, i] = self.parts.get((k, i), "") + d


# --- bounds -------------------------------------------------------------------------------------------------------


def test_a_stored_text_longer_than_a_frame_comes_in_pieces_of_at_most_32_kib() -> None:
    answer = Answer(G)
    answer.on_end(new_end(OPENED, epoch=0, seq=9))
    stored = [Increment(i, i, (Piece("text", 0, "é" * 8_000),)) for i in range(10)]
    answer.on_stored(stored)
    client = Client()
    for frame in Place(0, -1, resuming=True).frames(answer):
        client.take(frame)
    assert client.most <= MAX_PIECE_BYTES
    assert client.frames["Snapshot"] == 5
    assert client.parts == {("text", 0): "é" * 80_000}


def test_a_smaller_bound_holds_for_the_first_piece_of_a_snapshot_too() -> None:
    answer = Answer(G)
    for seq, d in enumerate(["ab", "cd", "ef"]):
        answer.on_text(0.0, Text(G, 1, "r", seq, Piece("text", 0, d)))
    client = Client()
    for frame in Place(0, 0, resuming=True).frames(answer, bound=2):
        client.take(frame)
    assert client.most == 2


# --- every interleaving -------------------------------------------------------------------------------------------


def state(place: Place) -> list[object]:
    return [getattr(place, name) for name in Place.__slots__]


class World:
    """A turn of several epochs, the hub's knowledge of it, and its viewers."""

    def __init__(self, epochs: list[list[Piece]], every: int) -> None:
        self.epochs = epochs
        self.answer = Answer(G)
        self.viewers: list[tuple[Place, Client]] = []
        self.now = 0.0
        last = len(epochs) - 1
        self.end = new_end(OPENED, epoch=last, seq=len(epochs[last]) - 1)
        starts = range(0, len(epochs[last]), every)
        cuts = [epochs[last][start : start + every] for start in starts]
        seqs = itertools.accumulate(map(len, cuts))
        self.increments = [
            Increment(i, seq - 1, joined(cut)) for i, (seq, cut) in enumerate(zip(seqs, cuts, strict=True))
        ]

    def text(self, epoch: int, seq: int) -> None:
        epoch %= len(self.epochs)
        pieces = self.epochs[epoch]
        if pieces:
            seq %= len(pieces)
            self.answer.on_text(self.now, Text(G, epoch, "run", seq, pieces[seq]))

    def tail(self, epoch: int, seq: int) -> None:
        epoch %= len(self.epochs)
        for at in range(seq, len(self.epochs[epoch])):
            self.text(epoch, at)

    def life(self, epoch: int, seq: int) -> None:
        epoch %= len(self.epochs)
        self.answer.on_life(self.now, epoch, min(seq, len(self.epochs[epoch])) - 1)

    def known_epoch(self, epoch: int, _: int) -> None:
        self.answer.on_epoch(epoch % len(self.epochs))

    def ended(self, _: int, __: int) -> None:
        self.answer.on_end(self.end)

    def stored(self, _: int, __: int) -> None:
        self.answer.on_stored(self.increments)

    def view(self, _: int, __: int) -> None:
        self.viewers.append((Place(), Client()))

    def resume(self, epoch: int, seq: int) -> None:
        """At an address that another gateway showed; the row that was read first knows its epoch at least."""
        epoch %= len(self.epochs)
        seq = min(seq, len(self.epochs[epoch])) - 1
        self.answer.on_epoch(epoch)
        client = Client.seen(epoch, seq, shown(self.epochs[epoch][: seq + 1]))
        self.viewers.append((Place(epoch, seq, resuming=True), client))

    def bogus(self, epoch: int, seq: int) -> None:
        """At an address that nobody ever showed."""
        epoch %= len(self.epochs)
        self.answer.on_epoch(epoch)
        seq += len(self.epochs[epoch])
        self.viewers.append((Place(epoch, seq, resuming=True), Client.seen(epoch, seq, {("text", 9): "wrong"})))

    def show(self, bound: int, frames: int) -> None:
        """A viewer takes some frames, as its socket allows."""
        for place, client in self.viewers[frames % 2 :: 2]:
            for frame in itertools.islice(place.frames(self.answer, bound + 1), frames):
                self.take(client, frame, bound + 1)

    def keep_up(self, _: int, frames: int) -> None:
        """Viewers whose socket takes everything share what is encoded; it is what each would be told by itself."""
        for place, client in self.viewers[frames % 2 :: 2]:
            alone = copy.copy(place)
            expected = next(alone.frames(self.answer), None)
            shared = place.ready(self.answer, msgspec.json.encode)
            if shared is not None:
                assert isinstance(expected, Delta)
                assert shared == msgspec.json.encode(expected)
                assert state(place) == state(alone)
                assert place.level(self.answer) == (next(alone.frames(self.answer), None) is None)
                self.take(client, expected, MAX_PIECE_BYTES)
            elif frames > 4:
                self.show(MAX_PIECE_BYTES - 1, frames)
        assert len(self.answer.ready) <= MAX_READY

    def take(self, client: Client, frame: ServerFrame, bound: int) -> None:
        client.most = 0
        client.take(frame)
        assert not (self.answer.stored and isinstance(frame, Delta)), "history's pieces have no seq of their own"
        longest = max((len(piece.d.encode()) for piece in self.answer.pieces), default=0)
        first = isinstance(frame, Snapshot) and frame.at == 0
        assert client.most <= max(bound, longest) or (first and client.most <= MAX_PIECE_BYTES)
        assert len(msgspec.json.encode(frame)) < 64 * 1024
        if client.whole and not self.answer.stored and client.epoch >= 0:
            assert client.parts == shown(self.epochs[client.epoch][: client.seq + 1])

    def finish(self, bound: int) -> None:
        """The end comes in the end, from wherever; so does the text that it ends."""
        if self.answer.on_end(self.end) == "stored":
            self.answer.on_stored(self.increments)
        for place, client in self.viewers:
            for frame in place.frames(self.answer, bound + 1):
                self.take(client, frame, bound + 1)
            assert place.done
            assert client.end is not None
            assert client.parts == shown(self.epochs[-1])


pieces = st.builds(
    Piece,
    st.sampled_from(["text", "text", "reasoning"]),
    st.sampled_from([0, 0, 1]),
    st.text("aé\U0001f600", min_size=1, max_size=4),
)
steps = st.sampled_from(
    [
        "text",
        "text",
        "text",
        "tail",
        "life",
        "known_epoch",
        "view",
        "resume",
        "resume",
        "bogus",
        "show",
        "show",
        "keep_up",
        "keep_up",
    ]
)
operations = st.lists(st.tuples(steps, st.integers(0, 8), st.integers(0, 8)), max_size=30)
endings = st.lists(
    st.tuples(st.sampled_from(["ended", "stored", "show", "keep_up", "text", "resume"]), st.integers(0, 8))
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(pieces, max_size=7), min_size=1, max_size=3),
    st.integers(1, 4),
    operations,
    endings,
    st.integers(0, 8),
)
def test_whatever_comes_in_whatever_order_every_viewer_ends_with_the_text(
    epochs: list[list[Piece]],
    every: int,
    operations: list[tuple[str, int, int]],
    endings: list[tuple[str, int]],
    bound: int,
) -> None:
    world = World(epochs, every)
    for name, one, other in operations:
        world.now += one / 16
        getattr(world, name)(one, other)
    for name, number in endings:
        getattr(world, name)(len(epochs) - 1, number)
    world.finish(bound)

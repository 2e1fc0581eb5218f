"""The shared text of an answer, and the place that each viewer has in it."""

from __future__ import annotations

import pytest

from core.events import Text
from core.model import (
    Delta,
    End,
    EndFrame,
    Increment,
    Piece,
    Restart,
    Resumed,
    Snapshot,
)
from gateway.hub import ASK_EVERY_S, MAX_READY, Answer, Place
from tests.support.turns import new_end, new_id, new_turn

G = "gen"
OPENED = new_turn(new_id())


def text(epoch: int, seq: int, d: str = "x") -> Text:
    return Text(G, epoch, f"run-{epoch}", seq, Piece("text", 0, d))


def live(*pieces: str, epoch: int = 0) -> Answer:
    """An answer that has heard these deltas."""
    answer = Answer(G)
    for seq, d in enumerate(pieces):
        answer.on_text(0.0, text(epoch, seq, d))
    return answer


def ending(epoch: int, seq: int) -> End:
    return new_end(OPENED, epoch=epoch, seq=seq)


def delta(n: int, d: str, e: int = 0) -> Delta:
    return Delta(g=G, e=e, n=n, d=d)


# --- an answer ----------------------------------------------------------------------------------------------------


def test_only_the_next_delta_is_taken_and_a_hole_is_asked_for() -> None:
    answer = live("a", "b")
    assert answer.on_text(0.0, text(0, 1, "again")) is None
    assert answer.on_text(0.0, text(0, 3, "d")) == "tail"
    assert [piece.d for piece in answer.pieces] == ["a", "b"]
    assert answer.on_text(0.0, text(0, 2, "c")) is None
    assert answer.last == 2


def test_a_hole_is_asked_for_once_in_a_while() -> None:
    answer = live("a")
    assert answer.on_text(1.0, text(0, 5)) == "tail"
    assert answer.on_text(1.0 + ASK_EVERY_S / 2, text(0, 6)) is None
    assert answer.on_text(1.0 + ASK_EVERY_S, text(0, 7)) == "tail"


def test_a_heartbeat_shows_a_lost_tail() -> None:
    answer = live("a")
    assert answer.on_life(0.0, 0, 0) is None
    assert answer.heard
    assert answer.on_life(1.0, 0, 1) == "tail"
    assert answer.on_life(2.0, 1, -1) is None
    assert (answer.epoch, answer.last) == (1, -1)


def test_older_epochs_are_nothing_and_newer_ones_drop_the_text() -> None:
    answer = live("a", epoch=1)
    assert answer.on_text(0.0, text(0, 1, "old")) is None
    assert answer.on_life(0.0, 0, 9) is None
    answer.on_epoch(0)
    answer.on_epoch(1)
    assert (answer.epoch, answer.last) == (1, 0)
    assert answer.on_text(0.0, text(2, 0, "new")) is None
    assert (answer.epoch, [piece.d for piece in answer.pieces]) == (2, ["new"])


@pytest.mark.parametrize(
    ("epoch", "seq", "finished"), [(0, 1, True), (0, 0, False), (0, 2, False), (1, 1, False), (1, -1, False)]
)
def test_an_end_needs_history_unless_the_live_text_is_exactly_its_own(epoch: int, seq: int, finished: bool) -> None:
    answer = live("a", "b")
    assert answer.on_end(ending(epoch, seq)) == (None if finished else "stored")
    assert answer.finished is finished


def test_text_that_comes_after_the_end_may_complete_it() -> None:
    answer = live("a")
    assert answer.on_end(ending(0, 1)) == "stored"
    answer.on_text(0.0, text(0, 1, "b"))
    assert answer.finished
    answer.on_stored([Increment(0, 1, (Piece("text", 0, "ab"),))])
    assert not answer.stored


def test_the_first_end_stays_and_stored_text_is_final() -> None:
    answer = live("a")
    first = ending(1, 0)
    answer.on_end(first)
    answer.on_end(ending(1, 5))
    assert answer.end is first
    answer.on_stored([Increment(0, 0, (Piece("text", 0, "b"),))])
    assert answer.finished
    assert answer.on_text(9.0, text(2, 0)) is None
    assert answer.on_life(9.0, 2, 5) is None
    answer.on_epoch(3)
    assert (answer.epoch, [piece.d for piece in answer.pieces]) == (1, ["b"])


def test_stored_text_without_an_end_means_nothing() -> None:
    answer = live("a")
    answer.on_stored([Increment(0, 3, (Piece("text", 0, "abcd"),))])
    assert [piece.d for piece in answer.pieces] == ["a"]


# --- a place ------------------------------------------------------------------------------------------------------


def test_a_slow_reader_gets_fewer_and_longer_deltas() -> None:
    answer = live("ab", "cd", "ef")
    assert list(Place().frames(answer)) == [delta(2, "abcdef")]
    assert list(Place().frames(answer, bound=4)) == [delta(1, "abcd"), delta(2, "ef")]
    assert list(Place().frames(answer, bound=1)) == [delta(0, "ab"), delta(1, "cd"), delta(2, "ef")]


def test_the_bound_counts_bytes() -> None:
    answer = live("ää", "ö", "u")
    assert list(Place().frames(answer, bound=5)) == [delta(0, "ää"), delta(2, "öu")]


def test_a_delta_is_of_one_part() -> None:
    answer = Answer(G)
    pieces = [Piece("reasoning", 0, "hm"), Piece("text", 0, "a"), Piece("text", 1, "b"), Piece("text", 0, "c")]
    for seq, piece in enumerate(pieces):
        answer.on_text(0.0, Text(G, 0, "r", seq, piece))
    frames = [frame for frame in Place().frames(answer) if isinstance(frame, Delta)]
    assert [(frame.n, frame.k, frame.i, frame.d) for frame in frames] == [
        (seq, piece.k, piece.i, piece.d) for seq, piece in enumerate(pieces)
    ]


def test_each_frame_is_told_once() -> None:
    answer, place = live("a"), Place()
    assert list(place.frames(answer)) == [delta(0, "a")]
    assert list(place.frames(answer)) == []
    answer.on_text(0.0, text(0, 1, "b"))
    assert list(place.frames(answer)) == [delta(1, "b")]


def test_what_many_viewers_are_told_is_encoded_once() -> None:
    answer, encoded = Answer(G), list[Delta]()
    answer.on_epoch(0)
    viewers = [Place() for _ in range(5)]
    for place in viewers:
        assert list(place.frames(answer)) == []

    def encode(delta: Delta) -> bytes:
        encoded.append(delta)
        return delta.d.encode()

    answer.on_text(0.0, text(0, 0, "a"))
    answer.on_text(0.0, text(0, 1, "b"))
    assert [place.ready(answer, encode) for place in viewers] == [b"ab"] * 5
    assert [place.ready(answer, encode) for place in viewers] == [None] * 5
    answer.on_text(0.0, text(0, 2, "c"))
    assert viewers[0].ready(answer, encode) == b"c"
    answer.on_text(0.0, text(0, 3, "d"))
    assert [place.ready(answer, encode) for place in viewers] == [b"d", *[b"cd"] * 4]
    assert encoded == [delta(1, "ab"), delta(2, "c"), delta(3, "d"), delta(3, "cd")]


def test_places_that_are_behind_share_within_a_bound() -> None:
    answer = live(*"abcdefghijklmnop")
    for seq in range(16):
        place = Place(0, seq - 1)
        place.version = answer.version
        assert place.ready(answer, lambda delta: delta.d.encode()) == b"abcdefghijklmnop"[seq:]
    assert len(answer.ready) == MAX_READY


def test_text_that_was_shown_is_dropped_by_a_restart() -> None:
    answer, place = live("a"), Place()
    assert list(place.frames(answer)) == [delta(0, "a")]
    answer.on_text(0.0, text(2, 0, "b"))
    assert list(place.frames(answer)) == [Restart(generation_id=G, epoch=2, reason="attempt_lost"), delta(0, "b", e=2)]


def test_a_viewer_that_comes_late_sees_no_restart() -> None:
    answer = live("a")
    answer.on_text(0.0, text(1, 0, "b"))
    assert list(Place().frames(answer)) == [delta(0, "b", e=1)]


def test_an_epoch_that_died_before_its_first_text_is_not_seen() -> None:
    answer, place = Answer(G), Place()
    answer.on_epoch(0)
    assert list(place.frames(answer)) == []
    answer.on_text(0.0, text(1, 0, "b"))
    assert list(place.frames(answer)) == [delta(0, "b", e=1)]


def test_the_end_follows_the_text_and_nothing_follows_the_end() -> None:
    answer, place = live("a"), Place()
    answer.on_end(ending(0, 0))
    first, last = place.frames(answer)
    assert first == delta(0, "a")
    assert isinstance(last, EndFrame)
    assert list(place.frames(answer)) == []


def test_an_end_waits_for_its_text() -> None:
    answer, place = live("a"), Place()
    answer.on_end(ending(0, 1))
    assert list(place.frames(answer)) == [delta(0, "a")]
    answer.on_stored([Increment(0, 1, (Piece("text", 0, "ab"),))])
    snapshot, end = place.frames(answer)
    assert isinstance(snapshot, Snapshot)
    assert (snapshot.at, snapshot.seq, snapshot.more, snapshot.parts[0].d) == (0, 1, False, "ab")
    assert isinstance(end, EndFrame)


def test_stored_text_replaces_what_was_shown_and_is_never_added_to_it() -> None:
    """Its pieces are not the live ones: who has seen one delta has not seen the first of them."""
    answer, place = live("a"), Place()
    assert list(place.frames(answer)) == [delta(0, "a")]
    answer.on_end(ending(0, 4))
    answer.on_stored([Increment(0, 2, (Piece("text", 0, "abc"),)), Increment(1, 4, (Piece("text", 0, "de"),))])
    snapshot, end = place.frames(answer)
    assert isinstance(snapshot, Snapshot)
    assert (snapshot.at, snapshot.parts[0].d, snapshot.seq) == (0, "abcde", 4)
    assert isinstance(end, EndFrame)


def test_an_answer_without_text_ends_at_once() -> None:
    answer, place = Answer(G), Place()
    answer.on_epoch(0)
    answer.on_end(ending(0, -1))
    frames = list(place.frames(answer))
    assert [type(frame).__name__ for frame in frames] == ["Done"]


def test_text_that_never_was_is_replaced_by_nothing() -> None:
    """A later epoch ended without text: an empty snapshot says so to who was shown an older one."""
    answer, place = live("a"), Place()
    assert list(place.frames(answer)) == [delta(0, "a")]
    answer.on_end(ending(1, -1))
    answer.on_stored([])
    snapshot, end = place.frames(answer)
    assert snapshot == Snapshot(generation_id=G, epoch=1, seq=-1, at=0, parts=[], more=False)
    assert isinstance(end, EndFrame)


# --- resuming -----------------------------------------------------------------------------------------------------


def test_a_known_address_goes_on_from_there() -> None:
    frames = list(Place(0, 0, resuming=True).frames(live("a", "b", "c")))
    assert frames == [Resumed(generation_id=G, epoch=0, seq=0), delta(2, "bc")]


@pytest.mark.parametrize(("epoch", "seq"), [(0, 0), (-1, -1), (2, 0), (1, 7), (1, -2)])
def test_an_address_that_is_unknown_older_or_ahead_is_answered_by_a_snapshot(epoch: int, seq: int) -> None:
    answer = live("a", "b", epoch=1)
    answer.on_life(0.0, 1, 1)
    first, *rest = Place(epoch, seq, resuming=True).frames(answer)
    assert isinstance(first, Snapshot)
    assert (first.epoch, first.seq, first.at, first.more, first.parts[0].d) == (1, 1, 0, False, "ab")
    assert rest == []


def test_who_may_know_more_than_the_hub_waits_until_everything_was_heard() -> None:
    """A hub that has just attached has no text yet: the client's address may still turn out to be good."""
    answer, place = Answer(G), Place(0, 1, resuming=True)
    assert list(place.frames(answer)) == []
    answer.on_epoch(0)
    assert list(place.frames(answer)) == []
    answer.on_text(0.0, text(0, 0, "a"))
    assert list(place.frames(answer)) == []
    answer.on_text(0.0, text(0, 1, "b"))
    answer.on_text(0.0, text(0, 2, "c"))
    assert list(place.frames(answer)) == [Resumed(generation_id=G, epoch=0, seq=1), delta(2, "c")]


def test_an_ended_answer_is_resumed_from_history() -> None:
    answer = Answer(G)
    answer.on_end(ending(0, 4))
    answer.on_stored([Increment(0, 2, (Piece("text", 0, "abc"),)), Increment(1, 4, (Piece("text", 0, "de"),))])
    at_the_end = list(Place(0, 4, resuming=True).frames(answer))
    assert [type(frame).__name__ for frame in at_the_end] == ["Resumed", "Done"]
    for seq in (-1, 2, 3, 5):
        first, *rest = Place(0, seq, resuming=True).frames(answer)
        assert isinstance(first, Snapshot)
        assert (first.at, first.parts[0].d, first.seq) == (0, "abcde", 4)
        assert [type(frame).__name__ for frame in rest] == ["Done"]

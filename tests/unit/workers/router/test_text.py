"""Numbered deltas and the increments cut from them: nothing lost, nothing twice, everything within its bound."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from core.model import MAX_PIECE_BYTES, Increment, Piece
from core.providers.port import PartKind, TextDelta
from workers.router.text import INCREMENT_EVERY_S, MAX_ANSWER_BYTES, MAX_DELTA_CHARS, EpochText

START = 10.0


def epoch_text(*texts: str) -> EpochText:
    """Each text a batch of its own, and so a delta."""
    found = EpochText(START)
    for text in texts:
        found.add([TextDelta(text)])
    return found


def parts(pieces: list[Piece] | tuple[Piece, ...]) -> dict[tuple[str, int], str]:
    found: dict[tuple[str, int], str] = {}
    for piece in pieces:
        found[piece.k, piece.i] = found.get((piece.k, piece.i), "") + piece.d
    return found


def stored(increments: list[Increment]) -> list[Piece]:
    return [piece for increment in increments for piece in increment.pieces]


def test_neighbours_of_one_part_become_one_delta() -> None:
    found = EpochText(START)
    first = found.add([TextDelta("hm", "reasoning"), TextDelta("a"), TextDelta("b"), TextDelta("c", "text", 1)])
    assert first == 0
    assert found.pieces == [Piece("reasoning", 0, "hm"), Piece("text", 0, "ab"), Piece("text", 1, "c")]
    assert found.add([TextDelta("d", "text", 1)]) == 3
    assert found.last_seq == 3
    assert found.add([]) == 4
    assert found.whole() == "hmabcd"


def test_a_long_delta_is_cut() -> None:
    found = epoch_text("x" * (2 * MAX_DELTA_CHARS + 1))
    assert [len(piece.d) for piece in found.pieces] == [MAX_DELTA_CHARS, MAX_DELTA_CHARS, 1]


def test_sizes_are_bytes() -> None:
    found = epoch_text("é" * 10, "\U0001f600")
    assert (found.size, found.pending_bytes) == (24, 24)
    found.cut(START)
    assert (found.size, found.pending_bytes) == (24, 0)


def test_an_answer_is_full_at_its_bound() -> None:
    assert not epoch_text("x" * (MAX_ANSWER_BYTES - 1)).full
    assert epoch_text("x" * MAX_ANSWER_BYTES).full


def test_an_increment_is_due_after_two_seconds_of_new_text_or_half_of_its_size() -> None:
    assert not EpochText(START).due(START + 60)
    assert not epoch_text("a").due(START + INCREMENT_EVERY_S - 0.1)
    assert epoch_text("a").due(START + INCREMENT_EVERY_S)
    assert epoch_text("x" * (MAX_PIECE_BYTES // 2)).due(START)
    found = epoch_text("a")
    found.cut(START + 5)
    assert not found.due(START + 60)
    found.add([TextDelta("b")])
    assert not found.due(START + 6)
    assert found.due(START + 7)


def test_a_cut_takes_what_is_new() -> None:
    found = epoch_text("a", "b")
    assert found.cut(START) == [Increment(0, 1, (Piece("text", 0, "ab"),))]
    assert found.cut(START) == []
    found.add([TextDelta("c")])
    assert found.cut(START) == [Increment(1, 2, (Piece("text", 0, "c"),))]
    assert [increment.i for increment in found.increments] == [0, 1]


KINDS: list[PartKind] = ["text", "text", "reasoning", "tool_call"]
LONG = st.sampled_from(["x" * 9_000, "é" * 20_000, "\U0001f600" * 5_000])
deltas = st.builds(
    TextDelta,
    st.text("aé\U0001f600", min_size=1, max_size=4)
    | st.sampled_from(["x" * 9_000, "é" * 20_000, "\U0001f600" * 5_000]),
    st.sampled_from(KINDS),
    st.sampled_from([0, 0, 1]),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.lists(deltas, max_size=4), st.booleans()), max_size=10))
def test_increments_hold_the_text_of_their_deltas(batches: list[tuple[list[TextDelta], bool]]) -> None:
    found, made, everything = EpochText(START), list[Increment](), list[Piece]()
    for batch, cut in batches:
        first = found.add(batch)
        assert first == len(found.pieces) - len(found.pieces[first:])
        everything += [Piece(delta.kind, delta.part, delta.text) for delta in batch]
        if cut:
            made += found.cut(START)
    made += found.cut(START)
    assert found.increments == made
    assert found.last_seq == len(found.pieces) - 1
    assert parts(found.pieces) == parts(everything) == parts(stored(made))
    assert found.whole() == "".join(piece.d for piece in everything)
    assert found.size == len(found.whole().encode())
    assert all(piece.d and len(piece.d) <= MAX_DELTA_CHARS for piece in found.pieces)
    reached = -1
    for i, increment in enumerate(made):
        assert increment.i == i
        assert parts(increment.pieces) == parts(found.pieces[reached + 1 : increment.seq + 1])
        assert sum(len(piece.d.encode()) for piece in increment.pieces) <= MAX_PIECE_BYTES
        reached = increment.seq
    assert reached == found.last_seq

"""Identifiers: what a UUIDv7 and a generation id hold, and what is none."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import ids
from tests.support.turns import new_id

MILLISECONDS = st.integers(0, 2**48 - 1)
ENTROPY = st.integers(0, 2**74 - 1)
UUIDS = st.builds(ids.uuid7, MILLISECONDS, ENTROPY)


@given(MILLISECONDS, ENTROPY)
def test_a_uuid7_is_one_and_carries_its_time(wall_ms: int, entropy: int) -> None:
    made = ids.uuid7(wall_ms, entropy)
    parsed = uuid.UUID(made)
    assert (str(parsed), parsed.version, parsed.variant) == (made, 7, uuid.RFC_4122)
    assert ids.is_uuid7(made)
    assert ids.uuid7_ms(made) == wall_ms


@given(MILLISECONDS, ENTROPY, MILLISECONDS, ENTROPY)
def test_uuids_sort_as_text_by_time_then_entropy(ms: int, entropy: int, other_ms: int, other_entropy: int) -> None:
    one, other = ids.uuid7(ms, entropy), ids.uuid7(other_ms, other_entropy)
    assert (one < other) == ((ms, entropy) < (other_ms, other_entropy))


GOOD = "018bcfe5-6804-7e18-a8b9-5f361f5eecbb"


def test_uuids_of_one_millisecond_differ() -> None:
    assert len({ids.uuid7(1) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "other",
    [
        "",
        "x",
        "7f4b1c52-9c0f-4d4b-9a52-0f6a6f0c1d2e",
        "95f4d704-e84f-11f1-8dea-02fc00000001",
        GOOD.upper(),
        GOOD.replace("-", ""),
        "{" + GOOD + "}",
        "urn:uuid:" + GOOD,
        GOOD + "0",
        " " + GOOD,
        "018f0000-0000-7000-0000-000000000000",
        "0" * 100_000,
        "\ud800" * 36,
        "\N{ARABIC-INDIC DIGIT ONE}" * 36,
    ],
)
def test_what_is_no_canonical_uuid7(other: str) -> None:
    assert ids.is_uuid7(GOOD)
    assert not ids.is_uuid7(other)


@given(UUIDS, UUIDS)
def test_a_generation_id_holds_conversation_and_turn(conversation: str, turn: str) -> None:
    generation = ids.generation_id(conversation, turn)
    assert ids.parse_generation_id(generation) == (conversation, turn)
    assert re.fullmatch(r"gen_[A-Za-z0-9_-]{43}", generation)


@given(UUIDS, UUIDS, st.integers(0, 46), st.characters().filter(lambda other: other != "="))
def test_one_other_character_makes_another_id_or_none(conversation: str, turn: str, at: int, other: str) -> None:
    """Two texts never stand for one answer."""
    generation = ids.generation_id(conversation, turn)
    changed = generation[:at] + other + generation[at + 1 :]
    parsed = ids.parse_generation_id(changed)
    assert parsed is None or (parsed == (conversation, turn)) == (changed == generation)


UNPADDED = st.text(max_size=60).filter(lambda text: not text.endswith("="))


@given(UNPADDED | st.text("gen_-AZaz09+/", min_size=43, max_size=43).map(lambda text: "gen_" + text))
def test_any_text_is_parsed_or_is_none(text: str) -> None:
    parsed = ids.parse_generation_id(text)
    assert parsed is None or ids.generation_id(*parsed) == text


def test_a_text_that_ends_in_padding_is_no_generation() -> None:
    assert ids.parse_generation_id("gen_" + "0" * 42 + "=") is None


def test_ids_of_other_versions_are_no_generation() -> None:
    assert ids.parse_generation_id(ids.generation_id(str(uuid.uuid4()), new_id())) is None
    assert ids.parse_generation_id(ids.generation_id(new_id(), str(uuid.uuid4()))) is None


def test_runs_and_processes_have_names_of_their_own() -> None:
    runs = {ids.new_run() for _ in range(1000)}
    assert len(runs) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{16}", run) for run in runs)
    first, second = ids.new_process_id("gw"), ids.new_process_id("gw")
    assert first != second
    assert re.fullmatch(r"gw-[0-9a-f]{12}", first)

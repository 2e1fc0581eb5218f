"""Which messages fit: the system prompt and the newest message always, then the newest of the others, without holes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.context import PER_MESSAGE_TOKENS, ContextTooLong, assemble
from core.history.port import PathTurn
from core.model import Turn
from core.providers.port import ProviderMessage
from tests.support.turns import new_id, new_turn

OPENED = new_turn(new_id())
TURN = Turn(opened=OPENED, epoch=0, run=OPENED.run, since_ms=0)


def step(content: str, answer: str = "") -> PathTurn:
    return PathTurn(TURN, content, answer)


def roles(messages: tuple[ProviderMessage, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def test_oldest_first_with_the_system_prompt_before_all() -> None:
    path = [step("third"), step("second", "2nd answer"), step("first", "1st answer")]
    context = assemble(path, "be brief", 1000, 100, len)
    assert roles(context.messages) == [
        ("system", "be brief"),
        ("user", "first"),
        ("assistant", "1st answer"),
        ("user", "second"),
        ("assistant", "2nd answer"),
        ("user", "third"),
    ]
    assert context.continue_from is None
    assert context.dropped == 0


def test_an_answer_that_has_no_text_is_no_message() -> None:
    context = assemble([step("again"), step("first", "")], "", 1000, 100, len)
    assert roles(context.messages) == [("user", "first"), ("user", "again")]


def test_a_continuation_goes_on_from_its_text_which_is_counted() -> None:
    plain = assemble([step("tell")], "", 1000, 100, len)
    context = assemble([step("tell", "once upon")], "", 1000, 100, len)
    assert context.continue_from == "once upon"
    assert roles(context.messages) == [("user", "tell")]
    assert context.prompt_tokens == plain.prompt_tokens + len("once upon")


def test_what_is_older_than_the_first_that_does_not_fit_is_dropped_too() -> None:
    path = [step("new"), step("x" * 500, "y"), step("s", "t")]
    context = assemble(path, "", 200, 100, len)
    assert roles(context.messages) == [("user", "new")]
    assert context.dropped == 2


def test_the_newest_message_must_fit_to_the_token() -> None:
    room = 200 - 50
    fits = room - 2 * PER_MESSAGE_TOKENS
    assert assemble([step("x" * fits)], "", 200, 50, len).prompt_tokens == room
    with pytest.raises(ContextTooLong, match=f"needs {room + 1} tokens .* room for {room}"):
        assemble([step("x" * (fits + 1))], "", 200, 50, len)


def test_an_answer_larger_than_the_window_leaves_room_for_a_message() -> None:
    context = assemble([step("x" * 40)], "", 200, 4096, len)
    assert roles(context.messages) == [("user", "x" * 40)]


texts = st.text("ab", max_size=30)
steps = st.lists(st.builds(step, texts, texts), min_size=1, max_size=8)


@given(steps, texts, st.integers(8, 400), st.integers(1, 400))
def test_what_fits_is_kept_and_nothing_more(path: list[PathTurn], system: str, window: int, answer: int) -> None:
    room = window - min(answer, window * 3 // 4)
    head = [("system", system)] if system else []
    cost = [len(at.content) + len(at.answer) + 2 * PER_MESSAGE_TOKENS for at in path]
    fixed = len(system) + PER_MESSAGE_TOKENS if system else 0
    if fixed + cost[0] > room:
        with pytest.raises(ContextTooLong):
            assemble(path, system, window, answer, len)
        return
    context = assemble(path, system, window, answer, len)
    kept = len(path) - context.dropped
    assert context.prompt_tokens == fixed + sum(cost[:kept]) <= room
    assert kept == len(path) or context.prompt_tokens + cost[kept] > room
    expected = [("user", path[0].content)]
    for at in path[1:kept]:
        expected += [("assistant", at.answer)] * bool(at.answer) + [("user", at.content)]
    assert roles(context.messages) == head + expected[::-1]
    assert context.continue_from == (path[0].answer or None)

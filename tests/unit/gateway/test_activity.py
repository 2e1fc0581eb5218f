from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from core.accounts.model import Conversation, Touch
from core.errors import Unavailable
from gateway.activity import MOST_AT_ONCE, Activity, title_of
from tests.support.polling import eventually
from tests.support.turns import new_id, new_turn


class Store:
    """Takes one batch at a time, when it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.batches: list[list[Touch]] = []
        self.failures = 0
        self.asked = 0

    async def touch_conversations(self, touches: Sequence[Touch]) -> None:
        self.asked += 1
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        self.batches.append(list(touches))

    async def conversation(self, conversation_id: str, owner: str) -> Conversation | None:
        raise AssertionError("not asked for")


async def started(store: Store) -> Activity:
    activity = Activity(store)  # type: ignore[arg-type]
    await activity.start()
    return activity


async def test_what_comes_while_the_store_is_busy_goes_in_one_batch_the_last_of_each_conversation() -> None:
    store = Store()
    activity = await started(store)
    first, conversations = new_turn(new_id()), [new_id() for _ in range(3)]
    activity.opened(first)
    await eventually(lambda: store.asked == 1)
    for content in ("one", "two"):
        for conversation in conversations:
            activity.opened(new_turn(conversation, content=content))
    store.open.set()
    await eventually(lambda: sum(map(len, store.batches)) == 4)
    await activity.stop()
    assert [len(batch) for batch in store.batches] == [1, 3]
    assert {touch.title for touch in store.batches[1]} == {"two"}


async def test_a_batch_is_bounded_and_a_store_that_is_away_loses_only_its_batch() -> None:
    store = Store()
    activity = await started(store)
    store.failures = 1
    activity.opened(new_turn(new_id()))
    await eventually(lambda: store.asked == 1)
    for _ in range(MOST_AT_ONCE + 1):
        activity.opened(new_turn(new_id()))
    store.open.set()
    await eventually(lambda: len(store.batches) == 2)
    await activity.stop()
    await activity.stop()
    assert [len(batch) for batch in store.batches] == [MOST_AT_ONCE, 1]


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("  Why is\n the sky\tblue? ", "Why is the sky blue?"),
        ("word " * 30, "word word word word word word word word word word word word…"),
        ("x" * 100, "x" * 60 + "…"),
    ],
)
def test_a_title_is_the_beginning_on_one_line(content: str, title: str) -> None:
    assert title_of(content) == title

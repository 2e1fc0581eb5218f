"""The history port's contract, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from core.history.port import Applied, History, Home, Look, Refused
from core.history.postgres import PostgresHistory
from core.ids import new_run
from core.model import Increment, NewTurn, Piece, Turn
from core.postgres import Statements, open_pool
from tests.support.polling import eventually
from tests.support.turns import new_end, new_id, new_turn, text


@pytest.fixture
async def history(dsn: str) -> AsyncIterator[History]:
    adapter = PostgresHistory(Statements(await open_pool(dsn, 8)))
    yield adapter
    await adapter.close()


@pytest.fixture
async def conversation(history: History) -> str:
    conversation_id = new_id()
    await history.create_conversation(conversation_id, "owner", "eu")
    return conversation_id


async def opened(history: History, turn: NewTurn) -> Turn:
    result = await history.open(turn)
    assert isinstance(result, Applied)
    return result.turn


async def answered(history: History, turn: NewTurn, *texts: str) -> Turn:
    """Opens a turn and ends it with these increments."""
    row = await opened(history, turn)
    for i, d in enumerate(texts):
        await history.append(turn.key, 0, text(i, d))
    result = await history.end(turn.key, new_end(row, chunks=len(texts), seq=len(texts) - 1))
    assert isinstance(result, Applied)
    return result.turn


class TestConversations:
    async def test_creating_returns_what_is_stored_first(self, history: History) -> None:
        conversation_id = new_id()
        assert await history.home(conversation_id) is None
        assert await history.create_conversation(conversation_id, "first", "eu") == Home("first", "eu")
        assert await history.create_conversation(conversation_id, "second", "us") == Home("first", "eu")
        assert await history.home(conversation_id) == Home("first", "eu")

    async def test_deleting_and_restoring_are_conditional(self, history: History, conversation: str) -> None:
        assert not await history.set_deleted(conversation, None)
        assert await history.set_deleted(conversation, 17)
        assert not await history.set_deleted(conversation, 18)
        assert await history.home(conversation) == Home("owner", "eu", 17)
        assert await history.set_deleted(conversation, None)
        assert await history.home(conversation) == Home("owner", "eu")
        assert not await history.set_deleted(new_id(), 17)


class TestOpen:
    async def test_stores_every_field(self, history: History, conversation: str) -> None:
        turn = new_turn(
            conversation,
            kind="continue",
            message_turn=new_id(),
            parent_turn=new_id(),
            source_turn=new_id(),
            content="nul \x00, quotes '\" and 😀",
            params={"stop": ["\x00", "\\"], "deep": {"n": 2**53, "f": 0.1, "none": None}, "last": True},
        )
        row = await opened(history, turn)
        assert row == Turn(opened=turn, epoch=0, run=turn.run, since_ms=turn.since_ms)
        assert await history.read(turn.key) == row

    async def test_again_by_the_same_writer_counts_as_applied(self, history: History, conversation: str) -> None:
        turn = new_turn(conversation)
        assert await history.open(turn) == await history.open(turn)

    async def test_by_another_writer_is_refused_with_the_row(self, history: History, conversation: str) -> None:
        turn = new_turn(conversation)
        row = await opened(history, turn)
        other = msgspec.structs.replace(turn, run=new_run(), content="something else")
        assert await history.open(other) == Refused(row)

    async def test_of_many_at_once_exactly_one_is_applied(self, history: History, conversation: str) -> None:
        turn = new_turn(conversation)
        racers = [msgspec.structs.replace(turn, run=new_run()) for _ in range(30)]
        results = await asyncio.gather(*(history.open(racer) for racer in racers))
        applied = [result.turn for result in results if isinstance(result, Applied)]
        assert len(applied) == 1
        assert [result.turn for result in results] == applied * 30

    async def test_again_after_a_cancel_is_refused(self, history: History, conversation: str) -> None:
        turn = new_turn(conversation)
        await opened(history, turn)
        cancelled = (await history.cancel(turn.key)).turn
        assert await history.open(turn) == Refused(cancelled)

    async def test_without_a_conversation_is_refused(self, history: History) -> None:
        turn = new_turn(new_id())
        assert await history.open(turn) == Refused(None)
        assert await history.read(turn.key) is None

    async def test_in_a_deleted_conversation_is_refused_and_lists_nothing(
        self, history: History, conversation: str
    ) -> None:
        stored = await opened(history, new_turn(conversation))
        await history.set_deleted(conversation, 17)
        assert await history.open(new_turn(conversation)) == Refused(None)
        assert await history.open_turns(0, 10) == [stored]
        again = await history.open(stored.opened)
        assert again == Applied(stored), "what is stored answers a resend, whatever became of the conversation"

    async def test_racing_a_deletion_comes_before_or_after_it(
        self, history: History, conversation: str, dsn: str
    ) -> None:
        deletion = await asyncpg.connect(dsn)
        transaction = deletion.transaction()
        await transaction.start()
        await deletion.execute(
            "UPDATE history_conversations SET deleted_at_ms = 1 WHERE conversation = $1", conversation
        )
        opening = asyncio.create_task(history.open(new_turn(conversation)))
        await eventually(lambda: deletion.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        await transaction.commit()
        await deletion.close()
        assert await opening == Refused(None)

    async def test_an_id_that_is_none_is_the_callers_mistake(self, history: History) -> None:
        with pytest.raises(ValueError, match="invalid UUID"):
            await history.open(new_turn("nonsense"))


class TestClaim:
    async def test_moves_the_epoch(self, history: History, conversation: str) -> None:
        turn = await opened(history, new_turn(conversation))
        claimed = await history.claim(turn.key, 0, "run-b", 42)
        assert claimed == Applied(msgspec.structs.replace(turn, epoch=1, run="run-b", since_ms=42))
        assert await history.claim(turn.key, 0, "run-b", 42) == claimed, "my own run in the row counts as applied"
        assert await history.claim(turn.key, 0, "run-c", 43) == Refused(claimed.turn)
        assert isinstance(await history.claim(turn.key, 1, "run-c", 43), Applied)

    async def test_refused_once_cancelled_or_ended(self, history: History, conversation: str) -> None:
        cancelled, ended = [await opened(history, new_turn(conversation)) for _ in range(2)]
        await history.claim(cancelled.key, 0, "mine", 1)
        row = (await history.cancel(cancelled.key)).turn
        assert await history.claim(cancelled.key, 1, "run", 1) == Refused(row)
        assert await history.claim(cancelled.key, 0, "mine", 1) == Refused(row), "mine, but cancelled since"
        row = (await history.end(ended.key, new_end(ended))).turn
        assert await history.claim(ended.key, 0, "run", 1) == Refused(row)

    async def test_of_an_absent_turn_is_refused(self, history: History, conversation: str) -> None:
        assert await history.claim(new_turn(conversation).key, 0, "run", 1) == Refused(None)

    async def test_of_many_at_once_exactly_one_is_applied(self, history: History, conversation: str) -> None:
        turn = await opened(history, new_turn(conversation))
        results = await asyncio.gather(*(history.claim(turn.key, 0, f"run-{n}", n) for n in range(30)))
        assert sum(isinstance(result, Applied) for result in results) == 1
        assert {result.turn.run for result in results if result.turn} == {(await history.read(turn.key) or turn).run}


class TestCancelAndEnd:
    async def test_a_cancel_sets_the_flag_once(self, history: History, conversation: str) -> None:
        turn = await opened(history, new_turn(conversation))
        expected = Applied(msgspec.structs.replace(turn, cancelled=True))
        assert await history.cancel(turn.key) == expected
        assert await history.cancel(turn.key) == expected
        assert await history.cancel(new_turn(conversation).key) == Refused(None)

    async def test_an_end_is_stored_whole(self, history: History, conversation: str) -> None:
        turn = await opened(history, new_turn(conversation))
        end = new_end(turn, kind="failed", code="provider_error", message="it said \x00", hash="h", usage=None)
        assert await history.end(turn.key, end) == Applied(msgspec.structs.replace(turn, end=end))
        assert await history.read(turn.key) == msgspec.structs.replace(turn, end=end)

    async def test_a_cancelled_turn_may_still_be_done(self, history: History, conversation: str) -> None:
        turn = await opened(history, new_turn(conversation))
        await history.cancel(turn.key)
        result = await history.end(turn.key, new_end(turn))
        assert isinstance(result, Applied)
        assert await history.cancel(turn.key) == Refused(result.turn)

    async def test_the_first_end_stands(self, history: History, conversation: str) -> None:
        turn = await opened(history, new_turn(conversation))
        first = await history.end(turn.key, new_end(turn, writer="router"))
        assert await history.end(turn.key, new_end(turn, writer="router")) == first, "my own stored end"
        assert await history.end(turn.key, new_end(turn, writer="janitor", kind="interrupted")) == Refused(first.turn)

    async def test_an_end_of_an_older_epoch_is_refused(self, history: History, conversation: str) -> None:
        turn = await opened(history, new_turn(conversation))
        row = (await history.claim(turn.key, 0, "run-b", 1)).turn
        assert await history.end(turn.key, new_end(turn)) == Refused(row)
        assert await history.end(new_turn(conversation).key, new_end(turn)) == Refused(None)

    async def test_of_cancels_ends_and_claims_at_once_one_end_is_stored(
        self, history: History, conversation: str
    ) -> None:
        turn = await opened(history, new_turn(conversation))
        ends = [history.end(turn.key, new_end(turn, writer=f"w{n}")) for n in range(10)]
        results = await asyncio.gather(*ends, *(history.cancel(turn.key) for _ in range(5)))
        stored = await history.read(turn.key)
        assert stored is not None
        assert stored.end is not None
        assert [result.turn.end for result in results[:10] if result.turn] == [stored.end] * 10
        assert sum(isinstance(result, Applied) for result in results[:10]) == 1


class TestText:
    async def test_is_read_in_order_up_to_the_first_gap(self, history: History, conversation: str) -> None:
        turn = await opened(history, new_turn(conversation))
        pieces = (Piece("reasoning", 0, "hm\x00"), Piece("text", 1, "so 😀"), Piece("tool_call", 2, "{}"))
        increments = [Increment(0, 3, pieces), text(1, "b", 4), text(3, "d", 9)]
        for increment in reversed(increments):
            await history.append(turn.key, 0, increment)
        assert await history.read_text(turn.key, 0) == increments[:2]
        assert await history.read_text(turn.key, 0, 1) == increments[:1]
        assert await history.read_text(turn.key, 1) == []

    async def test_a_repeated_increment_changes_nothing(self, history: History, conversation: str) -> None:
        turn = await opened(history, new_turn(conversation))
        for _ in range(2):
            await history.append(turn.key, 0, text(0, "once"))
        assert await history.read_text(turn.key, 0) == [text(0, "once")]
        assert await history.read(turn.key) == turn


class TestPath:
    async def test_leads_from_a_turn_to_the_root(self, history: History, conversation: str) -> None:
        first = await answered(history, new_turn(conversation, content="q1"), "a", "1")
        second = await answered(history, new_turn(conversation, content="q2", parent_turn=first.key.turn_id), "a2")
        await answered(history, new_turn(conversation, content="a branch", parent_turn=first.key.turn_id), "x")
        third = await opened(history, new_turn(conversation, content="q3", parent_turn=second.key.turn_id))
        await history.append(third.key, 0, text(0, "its own text is not context"))
        found = await history.path(third.key, 1_000)
        assert found is not None
        row, path = found
        assert row == third
        assert [(step.turn, step.content, step.answer) for step in path] == [
            (third, "q3", ""),
            (second, "q2", "a2"),
            (first, "q1", "a1"),
        ]

    async def test_a_regeneration_has_the_message_of_what_it_regenerates(
        self, history: History, conversation: str
    ) -> None:
        root = await answered(history, new_turn(conversation, content="q1"), "a1")
        asked = await answered(history, new_turn(conversation, content="q2", parent_turn=root.key.turn_id), "a2")
        again = await answered(
            history,
            new_turn(
                conversation,
                kind="regenerate",
                content="",
                message_turn=asked.key.turn_id,
                parent_turn=root.key.turn_id,
                source_turn=asked.key.turn_id,
            ),
            "better",
        )
        after = await opened(history, new_turn(conversation, content="q3", parent_turn=again.key.turn_id))
        found = await history.path(after.key, 1_000)
        assert found is not None
        assert [(step.content, step.answer) for step in found[1]] == [("q3", ""), ("q2", "better"), ("q1", "a1")]

    async def test_continuations_are_joined(self, history: History, conversation: str) -> None:
        def continuing(source: Turn) -> NewTurn:
            return new_turn(
                conversation,
                kind="continue",
                content="",
                message_turn=source.opened.message_turn,
                parent_turn=source.opened.parent_turn,
                source_turn=source.key.turn_id,
            )

        root = await answered(history, new_turn(conversation, content="q1"), "a1")
        asked = await answered(
            history, new_turn(conversation, content="q2", parent_turn=root.key.turn_id), "one ", "two "
        )
        more = await answered(history, continuing(asked), "three ")
        rest = await opened(history, continuing(more))
        found = await history.path(rest.key, 1_000)
        assert found is not None
        assert [(step.content, step.answer) for step in found[1]] == [("q2", "one two three "), ("q1", "a1")]
        await history.append(rest.key, 0, text(0, "four"))
        await history.end(rest.key, new_end(rest, chunks=1, seq=0))
        after = await opened(history, new_turn(conversation, content="q3", parent_turn=rest.key.turn_id))
        found = await history.path(after.key, 1_000)
        assert found is not None
        assert [step.answer for step in found[1]] == ["", "one two three four", "a1"]
        short = await history.path(after.key, 3)
        assert short is not None
        assert [step.answer for step in short[1]] == ["", "one two three four"], "whole steps only"

    async def test_has_only_the_text_that_an_end_counts(self, history: History, conversation: str) -> None:
        turn = await opened(history, new_turn(conversation, content="q"))
        await history.append(turn.key, 0, text(0, "an epoch that died"))
        row = (await history.claim(turn.key, 0, "run-b", 1)).turn
        assert row is not None
        reasoning = Increment(0, 0, (Piece("reasoning", 0, "thinks"), Piece("text", 2, "B"), Piece("text", 1, "A")))
        await history.append(turn.key, 1, reasoning)
        await history.append(turn.key, 1, text(1, "never counted"))
        await history.end(turn.key, new_end(row, chunks=1, seq=0))
        after = await opened(history, new_turn(conversation, parent_turn=turn.key.turn_id))
        found = await history.path(after.key, 1_000)
        assert found is not None
        assert [step.answer for step in found[1]] == ["", "AB"]

    async def test_stops_when_enough_was_gathered(self, history: History, conversation: str) -> None:
        parent = None
        for _ in range(12):
            row = await answered(history, new_turn(conversation, content="q" * 10, parent_turn=parent), "a" * 10)
            parent = row.key.turn_id
        leaf = await opened(history, new_turn(conversation, content="q" * 10, parent_turn=parent))
        lengths = []
        for bound in (0, 10, 11, 30, 31, 10_000):
            found = await history.path(leaf.key, bound)
            assert found is not None
            lengths.append(len(found[1]))
        assert lengths == [1, 1, 2, 2, 3, 13]

    async def test_of_an_absent_turn_is_none(self, history: History, conversation: str) -> None:
        assert await history.path(new_turn(conversation).key, 100) is None


class TestLook:
    async def test_what_opening_a_turn_asks(self, history: History, conversation: str) -> None:
        home = Home("owner", "eu")
        assert await history.look(new_id(), new_id(), None) == Look(None, None, None)
        assert await history.look(conversation, new_id(), None) == Look(home, None, None)
        first = await answered(history, new_turn(conversation), "one")
        second = await opened(history, new_turn(conversation))
        await history.create_conversation(other := new_id(), "another", "eu")
        await opened(history, new_turn(other))
        one, two = first.key.turn_id, second.key.turn_id
        assert await history.look(conversation, one, None) == Look(home, first, second)
        assert await history.look(conversation, two, one) == Look(home, second, first)
        assert await history.look(conversation, None, new_id()) == Look(home, None, None), "no such parent"
        await history.set_deleted(conversation, 17)
        assert await history.look(conversation, two, None) == Look(Home("owner", "eu", 17), second, second)


class TestListings:
    async def test_pages_are_newest_first_and_join_without_overlap(self, history: History, conversation: str) -> None:
        rows = [await answered(history, new_turn(conversation), f"a{n}") for n in range(5)]
        running = await opened(history, new_turn(conversation))
        await history.append(running.key, 0, text(0, "so far"))
        await history.create_conversation(other := new_id(), "owner", "eu")
        await answered(history, new_turn(other))
        assert await history.look(conversation, None, None) == Look(Home("owner", "eu"), None, running)
        seen, before = [], None
        while True:
            page = await history.page(conversation, before, 4)
            seen += [(stored.turn, stored.increments) for stored in page.turns]
            if page.before is None:
                break
            before = page.before
        expected = [(row, (text(0, f"a{n}"),)) for n, row in enumerate(rows)] + [(running, (text(0, "so far"),))]
        assert seen == expected[::-1]

    async def test_a_page_is_bounded(self, history: History, conversation: str) -> None:
        for limit in (0, 101):
            with pytest.raises(ValueError, match="1 to 100"):
                await history.page(conversation, None, limit)

    async def test_open_turns_are_listed_until_ended_and_closed(self, history: History, conversation: str) -> None:
        first, second = [await opened(history, new_turn(conversation)) for _ in range(2)]
        assert await history.open_turns(0, 10) == [first, second]
        assert await history.open_turns(0, 1) == [first]
        await history.close_listing([first.key])
        assert await history.open_turns(0, 10) == [first, second], "one that has not ended stays"
        row = (await history.end(first.key, new_end(first))).turn
        assert await history.open_turns(0, 10) == [row, second], "an end alone closes nothing"
        await history.close_listing([first.key, second.key])
        await history.close_listing([])
        assert await history.open_turns(0, 10) == [second]

    async def test_age_is_that_of_the_newest_of_open_claim_and_increment(
        self, history: History, conversation: str, dsn: str
    ) -> None:
        still, claimed, writing, old = [await opened(history, new_turn(conversation)) for _ in range(4)]
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute("UPDATE history_turns SET moved_at = moved_at - interval '1 hour'")
            await history.append(old.key, 0, text(0, "an hour ago"))
            await connection.execute("UPDATE history_increments SET written_at = written_at - interval '1 hour'")
            row = (await history.claim(claimed.key, 0, "run", 0)).turn
            await history.append(writing.key, 0, text(0, "now"))
        finally:
            await connection.close()
        assert await history.open_turns(600_000, 10) == [still, old]
        assert {turn.key for turn in await history.open_turns(0, 10)} == {t.key for t in (still, claimed, writing, old)}
        assert row is not None

"""Opening a turn: what a request must satisfy, what a resend gets, and what happens to its reservation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from core import metering
from core import turn as rules
from core.accounts.model import Conversation
from core.accounts.port import Conversations
from core.catalog.port import Catalog, CatalogModel, Price
from core.errors import ParleyError, Unavailable, Unknown
from core.history.port import Applied, History, Home, Look, Refused
from core.ids import generation_id, is_uuid7, uuid7, uuid7_ms
from core.limits.port import Admission, Limits, UserLimits
from core.model import MAX_CONTENT_BYTES, Continue, EndKind, NewTurn, Regenerate, Send, Turn, TurnKey
from gateway.opening import (
    MAX_AHEAD_MS,
    Opener,
    answer_bound,
    body_hash,
    check_continuable,
    check_order,
    check_owner,
    check_params,
    check_send,
)
from tests.support.clock import ManualClock
from tests.support.turns import new_end, new_id, new_turn

C = new_id()
USER_LIMITS = UserLimits(60, 4, 1_000_000)


def model(alias: str = "small", max_output: int = 200, version: int = 3) -> CatalogModel:
    return CatalogModel(
        alias=alias,
        routes=(),
        context_window=1_000,
        max_output=max_output,
        system_prompt="",
        capabilities=(),
        price=Price(version, 1, 1),
    )


class MemoryHistory:
    """One conversation, its rows moved by `core.turn`. `fails` is raised by the next `open`, applied or not."""

    def __init__(self) -> None:
        self.rows: dict[TurnKey, Turn] = {}
        self.home_: Home | None = Home("u", "eu")
        self.deleted_meanwhile = False
        self.away = False
        self.fails: Exception | None = None

    async def home(self, conversation_id: str) -> Home | None:
        return self.home_ if conversation_id == C else None

    async def read(self, key: TurnKey) -> Turn | None:
        if self.away:
            raise Unavailable("history is away")
        return self.rows.get(key)

    async def look(self, conversation_id: str, turn_id: str | None, parent_id: str | None) -> Look:
        turn = await self.read(TurnKey(conversation_id, turn_id or ""))
        newest = max(self.rows.values(), key=lambda row: row.key.turn_id, default=None)
        parent = self.rows.get(TurnKey(conversation_id, parent_id)) if parent_id else newest
        return Look(await self.home(conversation_id), turn, parent)

    async def open(self, turn: NewTurn) -> Applied | Refused:
        if self.fails is not None:
            raise self.fails
        result = rules.open_turn(self.rows.get(turn.key), self.deleted_meanwhile, turn)
        if isinstance(result, Applied):
            self.rows[turn.key] = result.turn
        return result


class MemoryLimits:
    def __init__(self) -> None:
        self.admitted: list[tuple[str, str, int]] = []
        self.settled: list[tuple[str, str, int]] = []
        self.refuses: ParleyError | None = None
        self.away = False

    async def admit(self, account: str, turn: str, tokens: int, limits: UserLimits) -> Admission:
        assert limits == USER_LIMITS
        if self.refuses is not None:
            raise self.refuses
        self.admitted.append((account, turn, tokens))
        return Admission(False, 1, 1, 0)

    async def settle(self, account: str, turn: str, tokens: int) -> None:
        if self.away:
            raise Unavailable("limits are away")
        self.settled.append((account, turn, tokens))


class MemoryCatalog:
    def __init__(self) -> None:
        self.models = {alias: model(alias) for alias in ("small", "large", "chosen")}

    async def model(self, alias: str) -> CatalogModel | None:
        return self.models.get(alias)


class MemoryConversations:
    def __init__(self) -> None:
        self.model: str | None = None
        self.away = False

    async def conversation(self, conversation_id: str, owner: str) -> Conversation | None:
        if self.away:
            raise Unavailable("accounts are away")
        plain: dict[str, Any] = dict.fromkeys(("pinned", "starred", "archived"), False)
        plain |= {"title": "", "leaf": None, "created_at_ms": 0, "active_at_ms": 0}
        return Conversation(id=C, owner=owner, model=self.model, **plain)


class Bench:
    def __init__(self) -> None:
        self.history, self.limits, self.catalog = MemoryHistory(), MemoryLimits(), MemoryCatalog()
        self.conversations, self.clock = MemoryConversations(), ManualClock()
        self.made: list[NewTurn] = []
        self.opener = Opener(
            cast(History, self.history),
            cast(Conversations, self.conversations),
            cast(Catalog, self.catalog),
            cast(Limits, self.limits),
            self.clock,
            USER_LIMITS,
            "small",
            self.made.append,
        )

    def new_id(self) -> str:
        """One that is in order: later than all before."""
        self.clock.advance(0.001)
        return uuid7(self.clock.wall_ms())

    def stored(self, kind: EndKind | None = "done", **changes: Any) -> Turn:
        """A turn of the conversation, ended unless `kind` is None."""
        opened = new_turn(C, turn_id=self.new_id(), owner="u", **changes)
        row = Turn(opened=opened, epoch=0, run=opened.run, since_ms=0)
        if kind is not None:
            row = Turn(opened=opened, epoch=0, run=opened.run, since_ms=0, end=new_end(row, kind=kind))
        self.history.rows[row.key] = row
        return row


@pytest.fixture
def bench() -> Bench:
    return Bench()


def name(turn: Turn) -> str:
    return generation_id(turn.key.conversation_id, turn.key.turn_id)


def send(**changes: Any) -> Send:
    values: dict[str, Any] = {"conversation_id": C, "content": "hello"}
    return Send(**(values | changes))


def code(caught: pytest.ExceptionInfo[ParleyError]) -> tuple[str, str | None]:
    return caught.value.code, caught.value.param


# --- what can be judged from the frame alone ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"conversation_id": "c"}, ("not_found", "conversation_id")),
        ({"message_id": "m"}, ("invalid", "message_id")),
        ({"message_id": new_id().upper()}, ("invalid", "message_id")),
        ({"content": ""}, ("invalid", "content")),
        ({"content": " \n\t"}, ("invalid", "content")),
        ({"content": "a\0b"}, ("invalid", "content")),
        ({"content": "\ud83d"}, ("invalid", "content")),
        ({"content": "é" * (MAX_CONTENT_BYTES // 2) + "x"}, ("invalid", "content")),
        ({"files": ["f"]}, ("invalid", "files")),
        ({"params": {"tools": []}}, ("invalid", "params")),
    ],
)
def test_a_send_is_refused_for_a_field_that_is_named(changes: dict[str, Any], refused: tuple[str, str]) -> None:
    with pytest.raises(ParleyError) as caught:
        check_send(send(**changes))
    assert code(caught) == refused


def test_a_message_may_fill_its_bound_in_bytes() -> None:
    check_send(send(content="é" * (MAX_CONTENT_BYTES // 2), message_id=new_id()))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("temperature", [0, 2, 0.5], [-0.1, 2.1, "1", None, True]),
        ("top_p", [0, 1, 0.5], [-0.1, 1.1, [], False]),
        ("presence_penalty", [-2, 2], [-2.1, 2.1, {}]),
        ("frequency_penalty", [-2, 2], [-2.1, 2.1]),
        ("max_tokens", [1, 2**31 - 1], [0, -1, 2**31, 1.0, "1", True]),
        ("seed", [-(2**31), 0, 2**31 - 1], [-(2**31) - 1, 2**31, 0.5]),
        ("stop", ["x", ["a"], ["a", "b", "c", "d"], "x" * 256], [[], ["a"] * 5, 5, [5], "x" * 257, None]),
    ],
)
def test_parameters_have_their_ranges(name: str, good: Sequence[object], bad: Sequence[object]) -> None:
    for value in good:
        check_params({name: value})
    for value in bad:
        with pytest.raises(ParleyError) as caught:
            check_params({name: value})
        assert code(caught) == ("invalid", f"params.{name}"), value


def test_ids_are_in_order_and_not_far_ahead() -> None:
    now_ms, parent = 1_000_000, uuid7(999_999, 5)
    check_order(uuid7(now_ms + MAX_AHEAD_MS), parent, now_ms, "message_id")
    check_order(uuid7(0), None, now_ms, "message_id")
    check_order(uuid7(999_999, 6), parent, now_ms, "message_id")
    for bad in (uuid7(now_ms + MAX_AHEAD_MS + 1), parent, uuid7(999_999, 4), uuid7(5)):
        with pytest.raises(ParleyError, match="make it again by the server's time 1000000") as caught:
            check_order(bad, parent, now_ms, "turn_id")
        assert code(caught) == ("id_out_of_order", "turn_id")


@pytest.mark.parametrize(
    ("kind", "reason", "good"),
    [
        ("interrupted", "interrupted", True),
        ("cancelled", "cancelled", True),
        ("done", "length", True),
        ("done", "stop", False),
        ("failed", "failed", False),
        (None, "", False),
    ],
)
def test_only_an_answer_that_broke_off_is_continued(kind: EndKind | None, reason: str, good: bool) -> None:
    opened = new_turn(C)
    end = new_end(opened, kind=kind, finish_reason=reason) if kind else None
    source = Turn(opened=opened, epoch=0, run=opened.run, since_ms=0, end=end)
    if good:
        check_continuable(source)
        return
    with pytest.raises(ParleyError) as caught:
        check_continuable(source)
    assert code(caught) == ("invalid", "generation_id")


def test_an_answer_is_bounded_by_the_request_and_the_model() -> None:
    bounds = [answer_bound(params, model(max_output=200)) for params in ({}, {"max_tokens": 5}, {"max_tokens": 900})]
    assert bounds == [200, 5, 200]


@pytest.mark.parametrize("home", [None, Home("another", "eu"), Home("u", "eu", deleted_at_ms=5)])
def test_what_is_not_the_users_is_not_there(home: Home | None) -> None:
    with pytest.raises(ParleyError) as caught:
        check_owner(home, "u", "conversation_id")
    assert code(caught) == ("not_found", "conversation_id")


def test_the_hash_is_of_the_whole_body_whatever_its_order() -> None:
    one = send(message_id="m", params={"seed": 1, "top_p": 1})
    assert body_hash(one) == body_hash(send(message_id="m", params={"top_p": 1, "seed": 1}))
    others: list[Send | Regenerate | Continue] = [one, send(), send(content="hi"), send(model="m")]
    others += [send(params={"seed": 1}), send(parent_id="p"), Continue(generation_id="g")]
    others += [Regenerate(generation_id="g"), Regenerate(generation_id="g", turn_id="t")]
    assert len({body_hash(frame) for frame in others}) == len(others)


# --- send ---------------------------------------------------------------------------------------------------------


async def test_a_send_opens_a_turn_below_the_latest_answer(bench: Bench) -> None:
    before = bench.stored()
    message_id = bench.new_id()
    opened = await bench.opener.send("u", send(message_id=message_id, params={"max_tokens": 50}))
    turn = opened.turn.opened
    assert (opened.duplicate, opened.generation) == (False, generation_id(C, message_id))
    assert (turn.key, turn.owner, turn.kind) == (TurnKey(C, message_id), "u", "send")
    assert (turn.message_turn, turn.parent_turn, turn.source_turn) == (message_id, before.key.turn_id, None)
    assert (turn.content, turn.model, turn.price_version, turn.max_tokens) == ("hello", "small", 3, 50)
    assert opened.asked_at == bench.clock.monotonic()
    assert bench.made == [turn]
    assert bench.limits.admitted == [("u", opened.generation, 50 + metering.estimate_tokens("hello"))]
    assert bench.limits.settled == []


async def test_a_send_may_name_its_parent(bench: Bench) -> None:
    first, _ = bench.stored(), bench.stored()
    opened = await bench.opener.send("u", send(parent_id=name(first)))
    assert opened.turn.opened.parent_turn == first.key.turn_id


async def test_ids_that_the_gateway_makes_are_in_order_even_after_a_clock_that_was_ahead(bench: Bench) -> None:
    before = bench.stored()
    bench.clock.advance(-30)
    opened = await bench.opener.send("u", send())
    made = opened.turn.key.turn_id
    assert is_uuid7(made)
    assert uuid7_ms(made) == uuid7_ms(before.key.turn_id) + 1


async def test_a_resend_is_answered_by_what_is_stored_whatever_has_changed_since(bench: Bench) -> None:
    """Rule 2: before order, clock, quota and parent are judged."""
    frame = send(message_id=bench.new_id())
    first = await bench.opener.send("u", frame)
    bench.stored(None)
    bench.clock.advance(-3600)
    bench.limits.refuses = ParleyError("quota", "spent")
    bench.catalog.models.clear()
    again = await bench.opener.send("u", frame)
    assert (again.turn, again.duplicate) == (first.turn, True)
    assert len(bench.limits.admitted) == 1
    assert len(bench.made) == 1


async def test_another_body_under_the_same_id_is_a_conflict(bench: Bench) -> None:
    message_id = bench.new_id()
    await bench.opener.send("u", send(message_id=message_id))
    with pytest.raises(ParleyError) as caught:
        await bench.opener.send("u", send(message_id=message_id, content="another"))
    assert code(caught) == ("conflict", "message_id")


async def test_a_send_that_lost_a_race_gets_the_winners_turn(bench: Bench) -> None:
    frame = send(message_id=bench.new_id())
    await bench.opener.send("u", frame)
    (row,) = bench.history.rows.values()
    read, bench.history.rows = bench.history.read, {}

    async def too_early(key: TurnKey) -> Turn | None:
        found = await read(key)
        bench.history.rows[row.key] = row
        return found

    bench.history.read = too_early  # type: ignore[method-assign]
    again = await bench.opener.send("u", frame)
    assert (again.turn, again.duplicate) == (row, True)
    assert bench.limits.settled == [], "a duplicate neither takes nor releases a reservation"


async def test_a_send_below_an_answer_that_runs_is_refused_for_now(bench: Bench) -> None:
    bench.stored(None)
    with pytest.raises(ParleyError) as caught:
        await bench.opener.send("u", send(message_id=bench.new_id()))
    assert code(caught) == ("busy", "parent_id")
    assert caught.value.kind.retryable
    assert caught.value.retry_after_ms


ABSENT = ("nonsense", "another turn", "another conversation")


@pytest.mark.parametrize(
    "parent", ["nonsense", generation_id(C, new_id()), generation_id(new_id(), new_id())], ids=ABSENT
)
async def test_a_parent_that_is_not_in_the_conversation(bench: Bench, parent: str) -> None:
    with pytest.raises(ParleyError) as caught:
        await bench.opener.send("u", send(parent_id=parent))
    assert code(caught) == ("not_found", "parent_id")


async def test_an_id_older_than_its_parent_is_out_of_order(bench: Bench) -> None:
    message_id = bench.new_id()
    bench.stored()
    with pytest.raises(ParleyError) as caught:
        await bench.opener.send("u", send(message_id=message_id))
    assert code(caught) == ("id_out_of_order", "message_id")
    assert bench.limits.admitted == []


async def test_a_conversation_of_another_is_not_there(bench: Bench) -> None:
    for user, frame in (("v", send()), ("u", send(conversation_id=new_id()))):
        with pytest.raises(ParleyError) as caught:
            await bench.opener.send(user, frame)
        assert code(caught) == ("not_found", "conversation_id")


async def test_the_model_is_the_frames_then_the_conversations_then_the_default(bench: Bench) -> None:
    bench.conversations.model = "chosen"
    for wanted, found in (("large", "large"), (None, "chosen")):
        opened = await bench.opener.send("u", send(model=wanted, parent_id=name(bench.stored())))
        assert opened.turn.opened.model == found
    bench.conversations.away = True
    opened = await bench.opener.send("u", send(parent_id=name(bench.stored())))
    assert opened.turn.opened.model == "small"
    with pytest.raises(ParleyError) as caught:
        await bench.opener.send("u", send(model="none", parent_id=name(bench.stored())))
    assert code(caught) == ("invalid", "model")


# --- what is not known or not possible ----------------------------------------------------------------------------


async def test_a_refusal_by_the_limits_opens_nothing(bench: Bench) -> None:
    bench.limits.refuses = ParleyError("rate_limited", "slow down", retry_after_ms=900)
    with pytest.raises(ParleyError) as caught:
        await bench.opener.send("u", send())
    assert caught.value is bench.limits.refuses
    assert bench.history.rows == {}


async def test_an_open_that_changed_nothing_releases_its_reservation(bench: Bench) -> None:
    for limits_away in (False, True):
        bench.history.fails, bench.limits.away = Unavailable("away"), limits_away
        with pytest.raises(ParleyError) as caught:
            await bench.opener.send("u", send(message_id=bench.new_id()))
        assert (caught.value.code, caught.value.kind.retryable) == ("unavailable", True)
    assert [(account, tokens) for account, _, tokens in bench.limits.settled] == [("u", 0)]


async def test_an_open_whose_result_is_unknown_keeps_its_reservation_and_says_so(bench: Bench) -> None:
    """Rule 1."""
    bench.history.fails = Unknown("no answer")
    with pytest.raises(ParleyError, match="send the same id again") as caught:
        await bench.opener.send("u", send(message_id=bench.new_id()))
    assert caught.value.code == "unknown"
    assert bench.limits.settled == []
    assert bench.made == []


async def test_a_conversation_that_is_deleted_meanwhile(bench: Bench) -> None:
    bench.history.deleted_meanwhile = True
    with pytest.raises(ParleyError) as caught:
        await bench.opener.send("u", send())
    assert code(caught) == ("not_found", "conversation_id")
    assert len(bench.limits.settled) == 1


async def test_a_history_that_is_away_is_told(bench: Bench) -> None:
    bench.history.away = True
    with pytest.raises(ParleyError) as caught:
        await bench.opener.send("u", send(message_id=bench.new_id()))
    assert (caught.value.code, caught.value.kind.retryable) == ("unavailable", True)


# --- branches -----------------------------------------------------------------------------------------------------


async def test_a_regenerate_answers_the_same_message_again(bench: Bench) -> None:
    source = bench.stored(content="the question", parent_turn=new_id(), params={"seed": 7, "max_tokens": 9})
    turn_id = bench.new_id()
    opened = await bench.opener.branch("u", Regenerate(generation_id=name(source), turn_id=turn_id, model="large"))
    turn = opened.turn.opened
    assert (turn.kind, turn.key) == ("regenerate", TurnKey(C, turn_id))
    assert (turn.message_turn, turn.parent_turn) == (source.opened.message_turn, source.opened.parent_turn)
    assert (turn.source_turn, turn.content) == (source.key.turn_id, "the question")
    assert (turn.model, turn.params, turn.max_tokens) == ("large", {"seed": 7, "max_tokens": 9}, 9)


async def test_a_continue_is_a_new_turn_of_the_same_model(bench: Bench) -> None:
    source = bench.stored("interrupted", model="large")
    opened = await bench.opener.branch("u", Continue(generation_id=name(source)))
    turn = opened.turn.opened
    assert (turn.kind, turn.model, turn.source_turn) == ("continue", "large", source.key.turn_id)
    assert turn.key.turn_id > source.key.turn_id
    with pytest.raises(ParleyError) as caught:
        await bench.opener.branch("u", Continue(generation_id=name(bench.stored())))
    assert code(caught) == ("invalid", "generation_id")


@pytest.mark.parametrize("kind", ["regenerate", "continue"])
async def test_a_branch_sent_twice_is_one_turn_and_another_body_a_conflict(bench: Bench, kind: str) -> None:
    source, other = bench.stored("interrupted"), bench.stored("interrupted")
    frame = Regenerate if kind == "regenerate" else Continue
    turn_id = bench.new_id()
    first = await bench.opener.branch("u", frame(generation_id=name(source), turn_id=turn_id))
    again = await bench.opener.branch("u", frame(generation_id=name(source), turn_id=turn_id))
    assert (again.turn, again.duplicate) == (first.turn, True)
    with pytest.raises(ParleyError) as caught:
        await bench.opener.branch("u", frame(generation_id=name(other), turn_id=turn_id))
    assert code(caught) == ("conflict", "turn_id")


@pytest.mark.parametrize(
    "generation", ["nonsense", generation_id(C, new_id()), generation_id(new_id(), new_id())], ids=ABSENT
)
async def test_a_branch_of_what_is_not_there(bench: Bench, generation: str) -> None:
    for user in ("u", "v"):
        with pytest.raises(ParleyError) as caught:
            await bench.opener.branch(user, Regenerate(generation_id=generation))
        assert code(caught) == ("not_found", "generation_id")


async def test_a_branch_whose_id_is_none_or_older_than_its_source(bench: Bench) -> None:
    old = bench.new_id()
    source = name(bench.stored())
    for turn_id, refused in (("t", "invalid"), (old, "id_out_of_order")):
        with pytest.raises(ParleyError) as caught:
            await bench.opener.branch("u", Regenerate(generation_id=source, turn_id=turn_id))
        assert code(caught) == (refused, "turn_id")

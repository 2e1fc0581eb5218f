"""Stateless answers: admission, the record of every attempt, other routes, who pays, clients that leave, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from core.books import Served, compare
from core.errors import ParleyError
from core.ids import generation_id
from core.ledger.port import Entry
from core.model import Piece, Usage
from core.providers.port import ProviderError, ProviderEvent, ProviderRequest
from gateway import calls, completions
from gateway.api.completions_port import Admitted, Completed, CompletionEvent
from tests.mockllm.script import Script
from tests.mockllm.server import MockLLM
from tests.support.completions import Stand, open_stand
from tests.support.polling import eventually
from workers.ledger import settlements

SAYS = Script(text="Because it is.", chunks=3)


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with open_stand() as stand:
        yield stand


def text_of(events: Sequence[CompletionEvent]) -> str:
    return "".join(event.d for event in events if isinstance(event, Piece))


def facts(entries: Sequence[Entry]) -> list[tuple[int, str, str, str]]:
    return [(entry.revision, entry.outcome, entry.charged_to, entry.provider) for entry in entries]


class TestAnswer:
    async def test_limits_then_text_then_usage(self, stand: Stand) -> None:
        stand.first.script(SAYS)
        events = await stand.answer()
        admitted, end = events[0], events[-1]
        assert isinstance(admitted, Admitted)
        assert (admitted.requests_limit, admitted.requests_remaining, admitted.tokens_limit) == (10, 9, 1000)
        assert text_of(events) == "Because it is."
        (call,) = stand.first.calls()
        usage = Usage(call.prompt_tokens, call.completion_tokens)
        assert end == Completed(finish_reason="stop", usage=usage)
        assert [message["content"] for message in call.messages] == ["Be brief.", "Why?"]

    async def test_it_is_on_record_and_settled_by_the_ledger(self, stand: Stand) -> None:
        stand.first.script(SAYS)
        await stand.answer()
        opened, closed = stand.recorder.entries
        assert facts([opened, closed]) == [(0, "opened", "platform", "first"), (2, "done", "user", "first")]
        (call,) = stand.first.calls()
        assert call.headers["x-parley-attempt"] == opened.attempt == closed.attempt
        assert closed.usage is not None
        assert closed.cost == 10 * call.prompt_tokens + 30 * call.completion_tokens > 0
        assert (closed.account, closed.model, closed.price_version, closed.epoch) == ("ann", "small", 7, 0)
        ((account, reservation, reserved),) = stand.limits.admitted
        assert generation_id(closed.key.conversation_id, closed.key.turn_id) == reservation
        tokens = call.prompt_tokens + call.completion_tokens
        assert settlements([opened, closed]) == {(account, reservation): tokens}
        assert reserved >= 100
        await stand.quiet()
        assert stand.limits.settled == []

    async def test_the_books_agree(self, stand: Stand) -> None:
        stand.first.script(Script(status=500), Script(fail="cut", after=2, text="Because"))
        stand.second.script(SAYS)
        await stand.answer("safe")
        with pytest.raises(ParleyError):
            await stand.answer("small")
        await stand.quiet()
        served = [
            Served(
                attempt=call.headers["x-parley-attempt"],
                prompt_tokens=call.prompt_tokens,
                completion_tokens=call.completion_tokens,
                ended=call.end == "done",
            )
            for mock in stand.mocks.values()
            for call in mock.calls()
        ]
        report = compare([], stand.recorder.last, served)
        assert report.balanced
        assert (report.attempts, report.unstored) == (3, 3)
        assert report.users_unstored == sum(e.cost for e in stand.recorder.last if e.charged_to == "user") > 0

    async def test_what_a_provider_does_not_count_is_estimated(self, stand: Stand) -> None:
        stand.first.script(Script(text="x" * 40, usage=False))
        (*_, end) = await stand.answer()
        assert isinstance(end, Completed)
        assert end.usage.estimated
        assert end.usage.completion_tokens == 10
        assert stand.recorder.last[0].usage == end.usage

    async def test_an_empty_answer_is_an_answer(self, stand: Stand) -> None:
        stand.first.script(Script(text=""))
        events = await stand.answer()
        assert [type(event) for event in events] == [Admitted, Completed]
        assert facts(stand.recorder.last) == [(2, "done", "user", "first")]

    @pytest.mark.parametrize(("asked", "window", "given"), [(None, 400, 100), (7, 400, 7), (900, 400, 100)])
    async def test_an_answer_is_bounded(self, stand: Stand, asked: int | None, window: int, given: int) -> None:
        stand.catalog.add("small", "first", window=window)
        stand.first.script(Script(endless=True))
        (*_, end) = await stand.answer(max_tokens=asked)
        assert isinstance(end, Completed)
        assert end.finish_reason == "length"
        assert end.usage.completion_tokens == given

    async def test_a_long_prompt_leaves_what_is_left(self, stand: Stand) -> None:
        stand.first.script(Script(endless=True))
        (*_, end) = await stand.answer(content="y" * 4 * 350)
        assert isinstance(end, Completed)
        assert 0 < end.usage.completion_tokens < 50
        assert stand.limits.admitted[0][2] == 400

    async def test_the_text_of_one_call_has_a_limit(self, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calls, "MAX_ANSWER_CHARS", 10)
        stand.first.script(Script(endless=True, delay_ms=1))
        events = await stand.answer()
        assert isinstance(events[-1], Completed)
        assert events[-1].finish_reason == "length"
        assert events[-1].usage.estimated
        assert (await stand.first.ended(1)).end == "client_closed"


class TestRefusals:
    """Nothing is called, nothing is recorded, nothing stays reserved."""

    async def check(self, stand: Stand, error: ParleyError, code: str, param: str | None) -> None:
        assert (error.code, error.param) == (code, param)
        await stand.quiet()
        assert stand.recorder.entries == []
        assert [call for mock in stand.mocks.values() for call in mock.calls()] == []

    async def test_an_unknown_model(self, stand: Stand) -> None:
        await self.check(stand, await stand.refused("large"), "invalid", "model")
        assert stand.limits.admitted == []

    async def test_a_prompt_that_does_not_fit(self, stand: Stand) -> None:
        await self.check(stand, await stand.refused(content="y" * 1600), "context_too_long", "messages")
        assert stand.limits.admitted == []

    async def test_a_model_without_a_provider_here(self, stand: Stand) -> None:
        stand.catalog.add("elsewhere", "third")
        await self.check(stand, await stand.refused("elsewhere"), "unavailable", "model")

    async def test_a_catalog_that_is_away(self, stand: Stand) -> None:
        stand.catalog.away = True
        await self.check(stand, await stand.refused(), "unavailable", None)

    async def test_a_spent_budget(self, stand: Stand) -> None:
        stand.catalog.add("small", "first", window=9000, max_output=5000)
        await self.check(stand, await stand.refused(), "quota", None)
        assert stand.limits.settled == []


class TestRecord:
    async def test_text_waits_until_the_attempt_is_on_record(self, stand: Stand) -> None:
        stand.first.script(SAYS)
        stand.recorder.gate.clear()
        async with aclosing(stand.stream()) as stream:
            assert isinstance((await anext(stream))[0], Admitted)
            step = asyncio.ensure_future(anext(stream))
            assert (await stand.first.ended(await first_call(stand.first))).end == "done"
            assert not step.done()
            assert stand.recorder.entries == []
            stand.recorder.gate.set()
            assert isinstance((await step)[0], Piece)

    async def test_what_cannot_be_recorded_is_not_told(self, stand: Stand) -> None:
        stand.recorder.loses = {0}
        stand.first.script(Script(endless=True, delay_ms=1))
        error = await stand.refused()
        assert error.code == "unavailable"
        assert error.retry_after_ms
        assert (await stand.first.ended(1)).end == "client_closed"
        await stand.quiet()
        assert facts(stand.recorder.last) == [(2, "error", "platform", "first")]
        assert [tokens for _, _, tokens in stand.limits.settled] == [0]

    async def test_an_end_that_is_lost_is_settled_here(self, stand: Stand) -> None:
        stand.recorder.loses = {2}
        stand.first.script(SAYS)
        events = await stand.answer()
        assert isinstance(events[-1], Completed)
        usage = events[-1].usage
        assert [tokens for _, _, tokens in stand.limits.settled] == [usage.prompt_tokens + usage.completion_tokens]

    async def test_a_place_taken_here_is_given_back_here(self, stand: Stand) -> None:
        stand.limits.degraded = stand.limits.away = True
        stand.first.script(SAYS)
        events = await stand.answer()
        assert isinstance(events[-1], Completed)
        assert len(stand.limits.settled) == 1
        assert stand.limits.settled[0][2] == events[-1].usage.prompt_tokens + events[-1].usage.completion_tokens


class TestFailures:
    @pytest.mark.parametrize(
        "script",
        [
            Script(status=500),
            Script(status=429, retry_after_s=60),
            Script(status=401),
            Script(status=400),
            Script(fail="cut", after=-1),
            Script(fail="error", after=0),
            Script(fail="malformed", after=0),
        ],
    )
    async def test_another_route_takes_over_unseen(self, stand: Stand, script: Script) -> None:
        stand.first.script(script)
        stand.second.script(SAYS)
        assert text_of(await stand.answer("safe")) == "Because it is."
        await stand.quiet()
        failed, answered = stand.recorder.last
        assert facts([failed, answered]) == [(2, "error", "platform", "first"), (2, "done", "user", "second")]
        assert (failed.attempt[:-2], failed.attempt[-2:]) == (answered.attempt[:-2], ".1")
        assert answered.attempt.endswith(".2")
        assert sum(settlements(stand.recorder.entries).values()) == sum(
            call.prompt_tokens + call.completion_tokens for call in stand.second.calls()
        )

    async def test_a_route_that_is_silent_is_left(self, stand: Stand) -> None:
        stand.first.script(Script(fail="hang", after=-1))
        stand.second.script(SAYS)
        assert text_of(await stand.answer("safe")) == "Because it is."
        assert (await stand.first.ended(1)).end == "client_closed"

    async def test_a_route_that_cannot_be_reached_served_nothing(self, stand: Stand) -> None:
        await stand.providers["first"].close()
        stand.second.script(SAYS)
        await stand.answer("safe")
        await stand.quiet()
        refused, answered = stand.recorder.last
        assert (refused.usage, refused.cost) == (None, 0)
        assert answered.cost > 0

    async def test_a_lone_route_is_asked_again_when_it_wishes(self, stand: Stand) -> None:
        stand.first.script(Script(status=429, retry_after_s=0.3), Script(status=503), SAYS)
        assert text_of(await stand.answer()) == "Because it is."
        first, second, _ = stand.first.calls()
        assert second.opened - first.opened >= 0.3
        assert [entry.outcome for entry in stand.recorder.last] == ["error", "error", "done"]

    async def test_after_three_attempts_it_is_told(self, stand: Stand) -> None:
        stand.first.script(*[Script(status=500)] * 4)
        error = await stand.refused()
        assert error.code == "provider_error"
        assert "an error of its own" in error.message
        await stand.quiet()
        assert len(stand.first.calls()) == 3
        assert facts(stand.recorder.last) == [(2, "error", "platform", "first")] * 3
        assert [tokens for _, _, tokens in stand.limits.settled] == [0]
        assert settlements(stand.recorder.entries) == {}

    async def test_a_provider_at_its_limit_is_no_limit_of_the_users(self, stand: Stand) -> None:
        stand.first.script(*[Script(status=429, retry_after_s=0.1)] * 3)
        error = await stand.refused()
        assert (error.code, error.retry_after_ms) == ("overloaded", 100)

    async def test_a_request_that_is_refused_is_not_repeated(self, stand: Stand) -> None:
        stand.first.script(Script(status=400, message="secret words of the provider"))
        error = await stand.refused()
        assert error.code == "invalid"
        assert "secret" not in error.message
        assert len(stand.first.calls()) == 1

    async def test_what_one_attempt_used_says_nothing_of_the_next(self, stand: Stand) -> None:
        stand.first.script(Script(text="", fail="no_done"))
        stand.second.script(Script(text="Because", usage=False))
        await stand.answer("safe")
        await stand.quiet()
        assert [entry.usage.estimated for entry in stand.recorder.last if entry.usage] == [False, True]

    @pytest.mark.parametrize("status", [401, 404])
    async def test_our_own_settings_are_not_the_clients_fault(self, stand: Stand, status: int) -> None:
        stand.first.script(Script(status=status))
        assert (await stand.refused()).code == "provider_error"
        assert len(stand.first.calls()) == 1

    @pytest.mark.parametrize("fail", ["cut", "rst", "error", "malformed"])
    async def test_after_text_there_is_no_second_call(self, stand: Stand, fail: Any) -> None:
        stand.first.script(Script(text="Because it is.", fail=fail, after=2, delay_ms=1))
        stream = stand.stream("safe")
        assert await stand.until_text(stream)
        with pytest.raises(ParleyError, match="broke off") as raised:
            _ = [batch async for batch in stream]
        assert raised.value.code == "provider_error"
        await stand.quiet()
        (entry,) = stand.recorder.last
        assert facts([entry]) == [(2, "interrupted", "user", "first")]
        assert entry.usage is not None
        assert entry.usage.estimated
        assert entry.usage.completion_tokens in (1, 2)
        assert stand.second.calls() == []
        assert stand.limits.settled == []

    async def test_a_call_has_an_end(self, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(completions, "MAX_CALL_S", 1.5)
        stand.first.script(Script(text="Because it is.", fail="hang", after=1))
        stream = stand.stream()
        assert await stand.until_text(stream)
        with pytest.raises(ParleyError, match="longer than"):
            await anext(stream)
        assert (await stand.first.ended(1)).end == "client_closed"
        await stand.quiet()
        assert facts(stand.recorder.last) == [(2, "interrupted", "user", "first")]


class TestWhoLeaves:
    async def test_text_that_was_given_is_paid_for(self, stand: Stand) -> None:
        stand.first.script(Script(endless=True, delay_ms=1))
        stream = stand.stream()
        text = await stand.until_text(stream)
        await stream.aclose()
        assert (await stand.first.ended(1)).end == "client_closed"
        await eventually(lambda: len(stand.recorder.entries) == 2)
        (entry,) = stand.recorder.last
        assert facts([entry]) == [(2, "cancelled", "user", "first")]
        assert entry.usage is not None
        assert entry.usage.estimated
        assert entry.usage.completion_tokens == -(-len(text.encode()) // 4)
        assert stand.limits.settled == []

    async def test_a_cancelled_step_costs_the_platform(self, stand: Stand) -> None:
        stand.first.script(Script(fail="hang", after=-1))
        stream = stand.stream()
        await anext(stream)
        step = asyncio.ensure_future(anext(stream))
        call = await first_call(stand.first)
        step.cancel()
        await asyncio.wait([step])
        assert (await stand.first.ended(call)).end == "client_closed"
        await eventually(lambda: stand.limits.settled)
        assert facts(stand.recorder.last) == [(2, "cancelled", "platform", "first")]
        assert [tokens for _, _, tokens in stand.limits.settled] == [0]
        assert list(settlements(stand.recorder.entries).values()) == [0]

    async def test_text_held_back_was_not_given(self, stand: Stand) -> None:
        stand.first.script(SAYS)
        stand.recorder.gate.clear()
        stream = stand.stream()
        await anext(stream)
        step = asyncio.ensure_future(anext(stream))
        await stand.first.ended(await first_call(stand.first))
        step.cancel()
        await asyncio.wait([step])
        stand.recorder.gate.set()
        await stand.quiet()
        assert {entry.revision for entry in stand.recorder.entries} == {0, 2}
        assert facts(stand.recorder.last) == [(2, "cancelled", "platform", "first")]

    async def test_who_only_wanted_to_be_admitted(self, stand: Stand) -> None:
        stream = stand.stream()
        await anext(stream)
        await stream.aclose()
        await eventually(lambda: stand.limits.settled)
        assert stand.first.calls() == []
        assert stand.recorder.entries == []

    async def test_between_two_attempts(self, stand: Stand) -> None:
        stand.first.script(Script(status=429, retry_after_s=2), SAYS)
        stream = stand.stream()
        await anext(stream)
        step = asyncio.ensure_future(anext(stream))
        await eventually(lambda: stand.recorder.last and stand.recorder.last[0].revision == 2)
        step.cancel()
        await asyncio.wait([step])
        await eventually(lambda: stand.limits.settled)
        assert len(stand.first.calls()) == 1
        assert facts(stand.recorder.last) == [(2, "error", "platform", "first")]

    async def test_while_being_admitted(self, stand: Stand) -> None:
        stand.limits.gate.clear()
        step = asyncio.ensure_future(anext(stand.stream()))
        await eventually(lambda: stand.limits.admitted)
        step.cancel()
        await asyncio.wait([step])
        await eventually(lambda: stand.limits.settled)

    async def test_places_are_given_back(self, stand: Stand) -> None:
        stand.first.script(*[Script(status=400)] * 5)
        for _ in range(5):
            assert (await stand.refused()).code == "invalid"
            await eventually(lambda: len(stand.limits.settled) == len(stand.limits.admitted))


class TestLongCalls:
    async def test_reservations_are_renewed(self, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(completions, "RENEW_EVERY_S", 0.01)
        stand.limits.away = True
        stand.first.script(Script(fail="hang", after=-1))
        stream = stand.stream()
        await anext(stream)
        ((account, reservation, _),) = stand.limits.admitted
        await eventually(lambda: stand.limits.renewed.count((account, reservation)) >= 2)
        await stream.aclose()
        assert stand.completions.running == 0


class TestStop:
    async def test_what_runs_is_broken_off_and_recorded(self, stand: Stand) -> None:
        stand.first.script(Script(text="Because", fail="hang", after=1), Script(fail="hang", after=-1))
        shown, silent = stand.stream(), stand.stream()
        assert await stand.until_text(shown)
        await anext(silent)
        steps = [asyncio.ensure_future(anext(stream)) for stream in (shown, silent)]
        await eventually(lambda: len(stand.first.calls()) == 2)
        await stand.completions.stop()
        for step in steps:
            with pytest.raises(ParleyError) as raised:
                await step
            assert raised.value.code == "overloaded"
        outcomes = {(entry.outcome, entry.charged_to) for entry in stand.recorder.last}
        assert outcomes == {("interrupted", "user"), ("error", "platform")}
        assert [tokens for _, _, tokens in stand.limits.settled] == [0]
        for call in stand.first.calls():
            assert (await stand.first.ended(call.id)).end == "client_closed"
        assert (await stand.refused()).code == "overloaded"
        assert len(stand.limits.admitted) == 2

    async def test_a_provider_that_fails_meanwhile_changes_nothing(
        self, stand: Stand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waiting = asyncio.Event()

        async def failing(request: ProviderRequest) -> AsyncIterator[list[ProviderEvent]]:
            try:
                waiting.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ProviderError("cut", "closed", before_text=True) from None
            yield []

        monkeypatch.setattr(stand.providers["first"], "stream", failing)
        refused = asyncio.ensure_future(stand.refused())
        await waiting.wait()
        await stand.completions.stop()
        assert (await refused).code == "overloaded"
        assert [entry.revision for entry in stand.recorder.entries] == [0, 2]

    async def test_a_reader_that_is_away_learns_it_later(self, stand: Stand) -> None:
        stand.first.script(Script(endless=True, delay_ms=1))
        stream = stand.stream()
        assert await stand.until_text(stream)
        await stand.completions.stop()
        assert facts(stand.recorder.last) == [(2, "interrupted", "user", "first")]
        with pytest.raises(ParleyError):
            await anext(stream)
        assert len(stand.recorder.entries) == 2

    async def test_it_waits_for_records_under_way(self, stand: Stand) -> None:
        stand.first.script(Script(endless=True, delay_ms=1))
        stream = stand.stream()
        assert await stand.until_text(stream)
        stand.recorder.gate.clear()
        await stream.aclose()
        stopping = asyncio.ensure_future(stand.completions.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        stand.recorder.gate.set()
        await stopping
        assert facts(stand.recorder.last) == [(2, "cancelled", "user", "first")]

    async def test_it_does_not_wait_for_ever(self, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(completions, "STOP_S", 0.05)
        stream = stand.stream()
        stand.first.script(Script(endless=True, delay_ms=1))
        assert await stand.until_text(stream)
        stand.recorder.gate.clear()
        await stream.aclose()
        await stand.completions.stop()
        await stand.completions.stop()
        assert len(stand.recorder.entries) == 1


async def first_call(mock: MockLLM) -> int:
    """The number of the first call, once it has arrived."""
    await eventually(mock.calls)
    return mock.calls()[0].id

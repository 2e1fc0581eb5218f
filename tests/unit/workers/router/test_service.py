"""The router's shell: what it does on the bus, in history and at providers, with all of them in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from core.errors import ParleyError, Unavailable
from core.events import (
    Attach,
    Beat,
    CancelRun,
    Ended,
    Finishing,
    Go,
    No,
    Superseded,
    Taken,
    Text,
)
from core.history.port import Applied
from core.model import Usage
from core.providers.port import (
    ErrorKind,
    ProviderMessage,
    ProviderRequest,
)
from tests.support.polling import eventually
from tests.support.router_service import Bench, name, started
from workers.router import service as shell
from workers.router.attempts import RouteRef
from workers.router.planner import NotAnswerable


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with started(Bench()) as found:
        yield found


# --- one turn -----------------------------------------------------------------------------------------------------


async def test_a_turn_from_its_dispatch_to_its_end(bench: Bench) -> None:
    turn = await bench.streaming()
    bench.near.gate.set()
    end = await bench.end()
    assert (end.kind, end.attempt, end.usage, end.cost) == ("done", f"{turn.run}.1", Usage(3, 5), 5)
    assert bench.history.rows[turn.key].end == end
    assert [piece.d for increment in bench.history.increments for piece in increment.pieces] == ["hello"]
    assert [(entry.revision, entry.outcome) for entry in bench.recorder.entries] == [(0, "opened"), (2, "done")]
    await eventually(lambda: bench.history.closed == [turn.key])
    assert bench.limits.settled == [], "what is charged is settled by the ledger worker"


async def test_a_turn_whose_record_waits_in_the_spool_stays_listed(bench: Bench) -> None:
    """Rule 10: the entry goes when the record is acknowledged by the stream; till then the janitor looks after it."""
    bench.recorder.streams = False
    await bench.streaming()
    bench.near.gate.set()
    await bench.end()
    await bench.service.drain(5.0)
    assert bench.history.closed == []


async def test_what_the_provider_is_asked(bench: Bench) -> None:
    turn = await bench.streaming()
    (request,) = bench.near.requests
    assert request == ProviderRequest(
        model="tiny",
        messages=(ProviderMessage("user", "hi"),),
        max_tokens=64,
        params={"temperature": 0.5},
        deadline_first_token_s=3.0,
        deadline_idle_s=4.0,
        continue_from="so far",
        tags={"attempt": f"{turn.run}.1"},
    )


async def test_a_dispatch_and_a_go_that_come_twice_start_one_run(bench: Bench) -> None:
    """Rule 4."""
    bench.bus.grants = False
    turn = bench.open()
    bench.dispatch(turn)
    bench.dispatch(turn)
    await eventually(lambda: len(bench.bus.heard(Taken)) == 2)
    for _ in range(2):
        bench.bus.grant(Go(name(turn), 0, turn.run))
    await eventually(lambda: bench.bus.heard(Text))
    bench.dispatch(turn)
    bench.near.gate.set()
    await bench.end()
    bench.dispatch(turn)
    assert len(bench.near.requests) == 1
    assert len(bench.bus.heard(Taken)) == 2


@pytest.mark.parametrize(("offers", "reads"), [(1, 1), (2, 2)])
async def test_the_path_is_read_while_the_offer_is_on_its_way_and_again_where_it_was_offered_since(
    bench: Bench, offers: int, reads: int
) -> None:
    """Rule 4: what is known was read after `taken`."""
    bench.bus.grants = False
    turn = bench.open()
    for number in range(offers):
        bench.dispatch(turn)
        await eventually(lambda number=number: len(bench.bus.heard(Taken)) == number + 1)  # type: ignore[misc]
        assert bench.planner.asked == 1
    bench.bus.grant(Go(name(turn), 0, turn.run))
    await eventually(lambda: bench.bus.heard(Text))
    assert bench.planner.asked == reads


async def test_of_a_later_epoch_nothing_is_read_before_its_go(bench: Bench) -> None:
    bench.bus.grants = False
    turn = bench.open()
    bench.dispatch(turn, epoch=1)
    await eventually(lambda: bench.bus.heard(Taken))
    assert bench.planner.asked == 0


async def test_who_is_told_no_does_nothing_and_may_be_asked_again(bench: Bench) -> None:
    bench.bus.grants = False
    turn = bench.open()
    bench.dispatch(turn)
    for grant in (No(name(turn), 0, turn.run), Go(name(turn), 0, turn.run)):
        bench.bus.grant(grant)
        assert bench.service.busy == 0
    bench.dispatch(turn)
    assert bench.service.busy == 1
    bench.bus.grant(No(name(turn), 0, turn.run))
    assert bench.near.requests == []


async def test_a_newer_epoch_ends_the_older_run(bench: Bench) -> None:
    turn = await bench.streaming()
    result = await bench.history.claim(turn.key, 0, "run-1", 0)
    assert isinstance(result, Applied)
    bench.dispatch(turn, 1, "run-1")
    await eventually(lambda: bench.bus.heard(Superseded) and len(bench.near.requests) == 2)
    bench.dispatch(turn)
    bench.near.gate.set()
    end = await bench.end()
    assert (end.epoch, end.run, end.attempt) == (1, "run-1", "run-1.1")


async def test_a_new_epoch_reserves_again_or_ends_as_quota(bench: Bench) -> None:
    turn = await bench.streaming()
    bench.limits.refuses = ParleyError("quota", "nothing is left")
    assert isinstance(await bench.history.claim(turn.key, 0, "run-1", 0), Applied)
    bench.dispatch(turn, 1, "run-1")
    end = await bench.end()
    assert (end.kind, end.code, end.attempt) == ("failed", "quota", None)
    assert len(bench.near.requests) == 1
    assert [taken[:2] for taken in bench.limits.admitted] == [(turn.owner, name(turn))]


async def test_over_the_byte_budget_ended_texts_go_first() -> None:
    async with started(Bench(text_bytes=4)) as bench:
        turn = await bench.streaming()
        await eventually(lambda: bench.bus.takers == [], 2.0)
        bench.near.gate.set()
        await bench.end()
        await eventually(lambda: len(bench.bus.takers) == 1, 2.0)
        assert bench.service.text_bytes == 0
        assert bench.history.rows[turn.key].end is not None


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["connect", "timeout_first", "rate_limited", "server", "bad_request", "auth"])
async def test_the_next_route_takes_over_before_the_first_text(bench: Bench, kind: ErrorKind) -> None:
    bench.near.silent, bench.near.fails = True, kind
    bench.near.gate.set()
    bench.far.gate.set()
    bench.dispatch(bench.open())
    end = await bench.end()
    assert (end.kind, end.epoch, end.provider) == ("done", 0, "far")
    assert bench.far.requests[0].model == "huge"


@pytest.mark.parametrize("kind", ["bad_request", "auth"])
async def test_what_will_be_refused_again_is_not_asked_again(bench: Bench, kind: ErrorKind) -> None:
    bench.planner.routes = bench.planner.routes[:1]
    bench.near.silent, bench.near.fails = True, kind
    bench.near.gate.set()
    turn = bench.open()
    bench.dispatch(turn)
    end = await bench.end()
    assert (end.kind, end.code, end.attempt) == ("failed", "provider_error", None)
    assert len(bench.near.requests) == 1
    await eventually(lambda: bench.limits.settled == [("u", name(turn), 0)])


async def test_a_provider_that_dies_under_its_text_is_followed_by_the_next_epoch(bench: Bench) -> None:
    turn = await bench.streaming()
    bench.near.fails = "cut"
    bench.near.gate.set()
    bench.far.gate.set()
    end = await bench.end()
    assert (end.epoch, end.provider) == (1, "far")
    assert bench.history.rows[turn.key].run == end.run != turn.run


async def test_a_route_without_a_provider_fails_like_a_provider(bench: Bench) -> None:
    bench.planner.routes = (RouteRef("unknown", "x"),)
    bench.dispatch(bench.open())
    assert (await bench.end()).kind == "failed"


async def test_a_turn_that_cannot_be_answered_fails_and_frees_its_reservation(bench: Bench) -> None:
    turn = bench.open()
    bench.planner.fails = NotAnswerable(bench.history.rows[turn.key], "context_too_long", "too long")
    bench.dispatch(turn)
    end = await bench.end()
    assert (end.kind, end.code, end.message) == ("failed", "context_too_long", "too long")
    await eventually(lambda: bench.limits.settled == [("u", name(turn), 0)])


async def test_without_a_context_the_turn_is_left_to_its_gateways(bench: Bench) -> None:
    bench.planner.fails = Unavailable("history is away")
    turn = bench.open()
    bench.dispatch(turn)
    await eventually(lambda: bench.bus.heard(Taken) and bench.service.busy == 0)
    assert bench.near.requests == []
    assert bench.bus.heard(Ended) == []
    bench.planner.fails = None
    bench.dispatch(turn)
    assert bench.service.busy == 0, "a router starts a run once"


async def test_an_end_that_history_cannot_take_is_written_when_it_is_back(bench: Bench) -> None:
    await bench.streaming()
    bench.history.away = True
    bench.near.gate.set()
    await eventually(lambda: bench.bus.heard(Finishing))
    bench.history.away = False
    assert (await bench.end()).kind == "done"


# --- watchers and cancel ------------------------------------------------------------------------------------------


async def test_a_cancel_closes_the_providers_connection_and_keeps_the_text(bench: Bench) -> None:
    turn = await bench.streaming()
    bench.bus.runs[name(turn)](CancelRun(name(turn)))
    await eventually(lambda: bench.near.open == 0)
    end = await bench.end()
    assert (end.kind, end.seq, end.usage) == ("cancelled", 0, Usage(7, 5, estimated=True))


async def test_who_attaches_gets_the_tail_heartbeats_and_the_end(bench: Bench) -> None:
    turn = await bench.streaming()
    bench.bus.runs[name(turn)](Attach(name(turn), "gw-2", -1, -1))
    await eventually(lambda: bench.bus.heard(Text, "gw-2"))
    beats = len(bench.bus.heard(Beat, "gw-2"))
    await eventually(lambda: len(bench.bus.heard(Beat, "gw-2")) > beats)
    assert bench.bus.heard(Beat, "gw-2")[-1].lives[0].generation == name(turn)
    bench.near.gate.set()
    await eventually(lambda: bench.bus.heard(Ended, "gw-2") and bench.bus.heard(Ended))


# --- the process --------------------------------------------------------------------------------------------------


async def test_reservations_of_running_turns_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "RENEW_EVERY_S", 0.02)
    async with started(Bench()) as bench:
        turn = await bench.streaming()
        await eventually(lambda: ("u", name(turn)) in bench.limits.renewed)
        bench.near.gate.set()
        await bench.end()
        bench.limits.renewed.clear()
        assert bench.service.busy == 0
        await asyncio.sleep(0.1)  # several periods of the renewal: an ended turn is not among them
        assert bench.limits.renewed == []


@pytest.mark.parametrize("settings", [{"max_turns": 1}, {"text_bytes": 5}])
async def test_a_full_router_leaves_the_queue_group_until_there_is_room(settings: dict[str, int]) -> None:
    """Rule 11: it takes no new turn, and drops no text."""
    async with started(Bench(**settings)) as bench:
        await bench.streaming()
        await eventually(lambda: bench.bus.takers == [])
        if "max_turns" in settings:
            bench.near.gate.set()
            await eventually(lambda: bench.bus.takers)


async def test_a_drain_lets_what_runs_end() -> None:
    bench = Bench()
    await bench.service.start()
    await bench.streaming()
    draining = asyncio.create_task(bench.service.drain(30.0))
    await eventually(lambda: bench.bus.takers == [])
    bench.near.gate.set()
    await draining
    assert (await bench.end()).kind == "done"
    assert bench.recorder.entries[-1].outcome == "done"


async def test_what_a_drain_cuts_off_is_told_to_its_gateways() -> None:
    bench = Bench()
    await bench.service.start()
    turn = await bench.streaming()
    await bench.service.drain(0.05)
    assert bench.bus.heard(Superseded) == [Superseded(name(turn), 0, turn.run)]
    assert (bench.near.open, bench.service.busy) == (0, 0)
    assert bench.history.rows[turn.key].end is None
    assert bench.recorder.entries[-1].charged_to == "platform"

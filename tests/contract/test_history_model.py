"""The PostgreSQL history agrees with the pure state machine of core/turn.py, step by step.

Hypothesis chooses transitions of a few turns, and which of their requests or answers the network loses. A write whose
answer was lost is repeated by the adapter; so the model makes the transition once for the lost try, then whatever a
competitor does meanwhile, then the transition again. The last result is what the adapter must return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from core import postgres
from core import turn as machine
from core.history.port import Applied, Refused
from core.history.postgres import PostgresHistory
from core.model import EndKind, Increment, NewTurn, Turn, TurnKey
from core.postgres import Statements, open_pool
from tests.support.pgproxy import Fault, PostgresProxy
from tests.support.postgres import PostgresServer
from tests.support.turns import new_end, new_id, new_turn, text

Verdict = Applied | Refused
Transition = Callable[[Turn | None], Verdict]
Write = Callable[[PostgresHistory], Awaitable[Verdict]]

which = st.sampled_from([0, 0, 0, 1])
runs = st.sampled_from(["run-a", "run-b"])
FAULTS: list[Fault | None] = [None, None, "lose request", "lose reply", "lose reply"]
faults = st.sampled_from(FAULTS)
rivals = st.sampled_from(["nobody", "cancel", "claim", "end"])


class World:
    """One event loop, a database, an adapter behind a faulty network and a competitor's adapter without one."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        self.runner = asyncio.Runner()
        self.proxy = PostgresProxy(server.port)
        self.server = server
        self.runner.run(self._open(template))

    async def _open(self, template: str) -> None:
        self.database = await self.server.create_database(template)
        await self.proxy.start()
        dsn = self.server.dsn(self.database)
        faulty = await open_pool(dsn.replace(str(self.server.port), str(self.proxy.port)), 2)
        self.history = PostgresHistory(Statements(faulty))
        self.rival = PostgresHistory(Statements(await open_pool(dsn, 2)))

    def close(self) -> None:
        self.runner.run(self._close())
        self.runner.close()

    async def _close(self) -> None:
        await self.history.close()
        await self.rival.close()
        await self.proxy.stop()
        await self.server.drop_database(self.database)


class HistoryMachine(RuleBasedStateMachine):
    """The rows as the pure functions have them, and the same writes on the adapter."""

    world: World

    @initialize()
    def begin(self) -> None:
        self.conversation = new_id()
        self.keys = [TurnKey(self.conversation, new_id()) for _ in range(2)]
        self.rows: dict[TurnKey, Turn | None] = dict.fromkeys(self.keys)
        self.text: dict[tuple[TurnKey, int], dict[int, Increment]] = {}
        self.deleted = False
        self.listed: set[TurnKey] = set()
        self.run_async(self.world.rival.create_conversation(self.conversation, "owner", "eu"))

    def run_async(self, coroutine: Awaitable[object]) -> object:
        async def bounded() -> object:
            async with asyncio.timeout(20):
                return await coroutine

        return self.world.runner.run(bounded())

    def opening(self, key: TurnKey, run: str) -> NewTurn:
        return new_turn(self.conversation, turn_id=key.turn_id, run=run)

    def transit(self, key: TurnKey, transition: Transition) -> Verdict:
        verdict = transition(self.rows[key])
        if isinstance(verdict, Applied):
            self.rows[key] = verdict.turn
        return verdict

    def write(self, key: TurnKey, transition: Transition, write: Write, fault: Fault | None, rival: str) -> None:
        """Does a write on both sides and compares what it returns."""
        proxy = self.world.proxy
        if fault == "lose reply":
            self.transit(key, transition)
            proxy.between = self.rivalry(key, rival)
        if fault is not None:
            proxy.faults.append(fault)
        result = self.run_async(write(self.world.history))
        assert not proxy.faults
        proxy.between = None
        assert result == self.transit(key, transition)

    def rivalry(self, key: TurnKey, rival: str) -> Callable[[], Awaitable[object]] | None:
        """What a competitor does between a lost answer and the repetition; done to the model at once."""
        row, history = self.rows[key], self.world.rival
        if row is None or rival == "nobody":
            return None
        if rival == "cancel":
            self.transit(key, machine.cancel)
            return lambda: history.cancel(key)
        if rival == "claim":
            self.transit(key, lambda stands: machine.claim(stands, row.epoch, "rival", 7))
            return lambda: history.claim(key, row.epoch, "rival", 7)
        ending = new_end(row, writer="rival", kind="interrupted")
        self.transit(key, lambda stands: machine.end(stands, ending))
        return lambda: history.end(key, ending)

    @rule(n=which, run=runs, fault=faults, rival=rivals)
    def open(self, n: int, run: str, fault: Fault | None, rival: str) -> None:
        key = self.keys[n]
        turn = self.opening(key, run)
        absent = self.rows[key] is None
        self.write(
            key,
            lambda row: machine.open_turn(row, self.deleted, turn),
            lambda history: history.open(turn),
            fault,
            rival,
        )
        if absent and self.rows[key] is not None:
            self.listed.add(key)

    @rule(n=which, epoch=st.integers(0, 3), run=runs, fault=faults, rival=rivals)
    def claim(self, n: int, epoch: int, run: str, fault: Fault | None, rival: str) -> None:
        key = self.keys[n]
        self.write(
            key,
            lambda row: machine.claim(row, epoch, f"{run}-{epoch}", epoch),
            lambda history: history.claim(key, epoch, f"{run}-{epoch}", epoch),
            fault,
            rival,
        )

    @rule(n=which, run=runs, fault=faults, rival=rivals)
    def claim_the_current_epoch(self, n: int, run: str, fault: Fault | None, rival: str) -> None:
        row = self.rows[self.keys[n]]
        if row is not None:
            self.claim(n, row.epoch, run, fault, rival)

    @rule(n=which, fault=faults, rival=rivals)
    def cancel(self, n: int, fault: Fault | None, rival: str) -> None:
        key = self.keys[n]
        self.write(key, machine.cancel, lambda history: history.cancel(key), fault, rival)

    @rule(
        n=which,
        epoch=st.integers(0, 2),
        writer=runs,
        kind=st.sampled_from(["done", "failed"]),
        fault=faults,
        rival=rivals,
    )
    def end(self, n: int, epoch: int, writer: str, kind: EndKind, fault: Fault | None, rival: str) -> None:
        key = self.keys[n]
        ending = new_end(self.opening(key, "run-a"), epoch=epoch, writer=writer, kind=kind, chunks=epoch)
        self.write(key, lambda row: machine.end(row, ending), lambda history: history.end(key, ending), fault, rival)

    @rule(at=st.sampled_from([None, 5]), fault=faults)
    def set_deleted(self, at: int | None, fault: Fault | None) -> None:
        wanted = at is not None
        if fault is not None:
            self.world.proxy.faults.append(fault)
        told = self.run_async(self.world.history.set_deleted(self.conversation, at))
        # A repeated write takes the state that it finds as its own work.
        assert told == (wanted != self.deleted or fault is not None)
        self.deleted = wanted

    @rule(n=which, epoch=st.integers(0, 2), i=st.integers(0, 3), fault=faults)
    def append(self, n: int, epoch: int, i: int, fault: Fault | None) -> None:
        key, increment = self.keys[n], text(i, f"{epoch}-{i}")
        if fault is not None:
            self.world.proxy.faults.append(fault)
        self.run_async(self.world.history.append(key, epoch, increment))
        self.text.setdefault((key, epoch), {})[i] = increment

    @rule(fault=faults)
    def close_listings(self, fault: Fault | None) -> None:
        if fault is not None:
            self.world.proxy.faults.append(fault)
        self.run_async(self.world.history.close_listing(self.keys))
        self.listed = {key for key in self.listed if (row := self.rows[key]) is not None and row.end is None}

    @rule(n=which, epoch=st.integers(0, 2), limit=st.sampled_from([None, 0, 1, 3]))
    def read_text(self, n: int, epoch: int, limit: int | None) -> None:
        stored = self.text.get((self.keys[n], epoch), {})
        whole = [stored[i] for i in range(next(i for i in range(5) if i not in stored))]
        found = self.run_async(self.world.history.read_text(self.keys[n], epoch, limit))
        assert found == whole[:limit]

    @invariant()
    def rows_agree(self) -> None:
        for key, row in self.rows.items():
            assert self.run_async(self.world.rival.read(key)) == row

    @invariant()
    def listings_agree(self) -> None:
        found = self.run_async(self.world.rival.open_turns(0, 1_000))
        assert isinstance(found, list)
        assert {turn.key for turn in found if turn.key in self.keys} == self.listed


@pytest.fixture
def world(postgres_server: PostgresServer, postgres_template: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(postgres, "PAUSE_S", 0.001)
    world = World(postgres_server, postgres_template)
    yield world
    world.close()


def test_the_adapter_agrees_with_the_state_machine(world: World) -> None:
    class Machine(HistoryMachine):
        pass

    Machine.world = world
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_pages_are_the_rows_and_their_text(world: World) -> None:
    """What the listing shows of a turn is what `read` and `read_text` show, whatever its epoch and end."""

    async def scenario() -> None:
        history, conversation = world.history, new_id()
        await history.create_conversation(conversation, "owner", "eu")
        for epochs in range(3):
            turn = (await history.open(new_turn(conversation))).turn
            assert turn is not None
            for epoch in range(epochs + 1):
                for i in range(3):
                    await history.append(turn.key, epoch, text(i, f"{epoch}-{i}"))
                if epoch < epochs:
                    turn = (await history.claim(turn.key, epoch, f"run-{epoch}", epoch)).turn
                    assert turn is not None
            if epochs:
                await history.end(turn.key, new_end(turn, chunks=epochs, seq=epochs - 1))
        page = await history.page(conversation, None, 10)
        assert len(page.turns) == 3
        for stored in page.turns:
            row = await history.read(stored.turn.key)
            assert row is not None
            assert stored.turn == row
            limit = row.end.chunks if row.end else None
            assert list(stored.increments) == await history.read_text(row.key, row.epoch, limit)

    world.runner.run(scenario())

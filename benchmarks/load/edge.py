"""The router's side of running answers, for fan-out: opens them, says that they live, and sends deltas when told to.

It speaks on the bus as a router does and asks no provider, so what a gateway does with a delta is all that is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.credentials import new_id
from benchmarks.load.peer import Effort, Gone, Peer
from core.bus.port import Bus
from core.clock import SystemClock
from core.compose import Composition
from core.config import load
from core.events import Attach, Beat, EdgeMessage, Life, RunMessage, Text
from core.history.port import History
from core.ids import generation_id, new_run
from core.model import End, NewTurn, Piece, TurnKey
from core.turn import HEARTBEAT_S

LANES = 8
POOL = 4
LIVES_PER_BEAT = 1_000
ANSWERS_PER_BATCH = 512


class Plan(msgspec.Struct, frozen=True):
    """Opens one answer for each of `owners`. `settings`: the stack's, as environment variables. Each later message is
    how many deltas to send of every answer, each of the text `piece`, and is answered when they are on the bus; 0 ends
    the answers, which is answered when they have ended.
    """

    settings: dict[str, str]
    owners: list[str]
    piece: str


class _Answer:
    """An answer that runs here. `seq`: of its last delta."""

    __slots__ = ("generation", "run", "seq", "turn")

    def __init__(self, owner: str) -> None:
        conversation, turn = new_id(), new_id()
        self.run = new_run()
        self.seq = -1
        self.generation = generation_id(conversation, turn)
        self.turn = NewTurn(
            key=TurnKey(conversation, turn),
            owner=owner,
            kind="send",
            message_turn=turn,
            parent_turn=None,
            source_turn=None,
            content="a question",
            model="mock",
            price_version=1,
            params={},
            max_tokens=1,
            body_hash="",
            run=self.run,
            since_ms=SystemClock().wall_ms(),
        )

    def end(self) -> End:
        """The end of an answer that nobody keeps: without text, charged to nobody."""
        return End(
            kind="cancelled",
            epoch=0,
            run=self.run,
            writer=self.run,
            chunks=0,
            seq=-1,
            finish_reason="cancelled",
            model="mock",
        )


async def run(peer: Peer, plan: Any) -> None:
    """Says which `generations` there are once they are open."""
    given = msgspec.convert(plan, Plan)
    config = load(environ=given.settings)
    pool = msgspec.structs.replace(config.postgres, pool_size=POOL)
    async with Composition(msgspec.structs.replace(config, postgres=pool)) as parts:
        history, bus = await parts.history(), await parts.bus("bench-edge")
        answers = [_Answer(owner) for owner in given.owners]
        await _each(answers, lambda answer: _open(history, answer, config.zone))
        try:
            await _serve(peer, bus, answers, given.piece)
        finally:
            await _each(answers, lambda answer: _end(history, answer))
            await history.close_listing([answer.turn.key for answer in answers])
        peer.say(ended=len(answers))


async def _serve(peer: Peer, bus: Bus, answers: Sequence[_Answer], piece: str) -> None:
    edge: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_message(message: RunMessage) -> None:
        if isinstance(message, Attach) and not edge.done():
            edge.set_result(message.edge)

    served = await bus.serve_run(answers[0].generation, on_message)
    beats = asyncio.create_task(_beat(bus, edge, answers))
    peer.say(generations=[answer.generation for answer in answers])
    with contextlib.suppress(Gone):
        while True:
            count, effort = int(await peer.hear()), Effort()
            if count == 0:
                break
            await _send(bus, await edge, answers, Piece("text", 0, piece), count)
            peer.say(seconds=effort.seconds, cpu_s=effort.cpu_s)
    beats.cancel()
    await served.stop()


async def _send(bus: Bus, edge: str, answers: Sequence[_Answer], piece: Piece, count: int) -> None:
    for at in range(0, len(answers), ANSWERS_PER_BATCH):
        batch: list[EdgeMessage] = []
        for answer in answers[at : at + ANSWERS_PER_BATCH]:
            first = answer.seq + 1
            batch += [Text(answer.generation, 0, answer.run, seq, piece) for seq in range(first, first + count)]
            answer.seq += count
        await bus.to_edge(edge, batch)


async def _beat(bus: Bus, edge: asyncio.Future[str], answers: Sequence[_Answer]) -> None:
    """Every answer lives, as routers say it, to the gateway that watches."""
    to = await edge
    while True:
        for at in range(0, len(answers), LIVES_PER_BEAT):
            some = answers[at : at + LIVES_PER_BEAT]
            await bus.to_edge(
                to, [Beat("bench", [Life(one.generation, 0, one.run, one.seq, ended=False) for one in some])]
            )
        await asyncio.sleep(HEARTBEAT_S)


async def _open(history: History, answer: _Answer, zone: str) -> None:
    await history.create_conversation(answer.turn.key.conversation_id, answer.turn.owner, zone)
    await history.open(answer.turn)


async def _end(history: History, answer: _Answer) -> None:
    await history.end(answer.turn.key, answer.end())


async def _each(answers: Sequence[_Answer], work: Any) -> None:
    waiting = iter(answers)

    async def lane() -> None:
        for answer in waiting:
            await work(answer)

    await asyncio.gather(*(lane() for _ in range(LANES)))

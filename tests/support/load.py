"""A load of turns: people who ask, resend and resume as good clients do, whatever happens to the servers meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType

import aiohttp

from tests.mockllm.log import Call
from tests.support.client import RETRY_S, Device, Frame, Gone, Refused, Shown, User, new_id
from tests.support.polling import eventually
from tests.support.stack import GATEWAYS, Stack

PATIENCE_S = 60.0
ASK_S = 15.0
SCRIPT = '[[mock {"chunks": 24, "delay_ms": 40}]]'


class Asked:
    """One turn of the load. `refused`: the codes of refusals on the way; times are Unix seconds."""

    def __init__(self, number: int, conversation: str, script: str) -> None:
        message = new_id()
        self.content = f"load {message} {script}"
        self.frame: Frame = {
            "type": "send",
            "message_id": message,
            "conversation_id": conversation,
            "content": self.content,
        }
        self.resends = number % 4 == 1
        self.leaves = number % 3 == 1
        self.shown: Shown | None = None
        self.refused: list[str] = []
        self.began = time.time()
        self.ended: float | None = None

    @property
    def answer(self) -> Shown:
        assert self.shown is not None
        return self.shown

    def __repr__(self) -> str:
        shown = self.shown
        stands = f"{shown.generation_id} at {shown.epoch}:{shown.seq}" if shown else "not accepted"
        told = [frame["type"] for frame in shown.frames[-5:]] if shown else []
        return f"{stands}, end {shown and shown.end}, last {told}, refused {self.refused}, began {self.began:.3f}"

    @property
    def over(self) -> bool:
        return self.shown is not None and self.shown.end is not None


class Person:
    """One user in one conversation: a device, replaced by one at the other gateway whenever it is lost."""

    def __init__(self, user: User, conversation: str, number: int, script: str) -> None:
        self.user = user
        self.turns: list[Asked] = []
        self._conversation = conversation
        self._script = script
        self._connections = number
        self._device: Device | None = None
        self._read = 0

    async def ask(self) -> Asked:
        """One turn, from its message to its end. Raises `Refused` where that is final, and TimeoutError."""
        turn = Asked(len(self.turns), self._conversation, self._script)
        self.turns.append(turn)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not turn.over:
                    await self._try(turn)
        except TimeoutError:
            raise TimeoutError(f"not within {PATIENCE_S:g} s: {turn}") from None
        turn.ended = time.time()
        return turn

    async def _try(self, turn: Asked) -> None:
        try:
            await self._step(turn)
        except Refused as refused:
            turn.refused.append(refused.code)
            if not refused.retryable:
                raise
            await asyncio.sleep(refused.after_s)
        except aiohttp.WSServerHandshakeError as refused:
            # A server that is not well says so; whatever else it says is not for trying again.
            if refused.status != 503:
                raise
            await asyncio.sleep(RETRY_S)
        except (Gone, aiohttp.ClientError):
            self._device = None
            await asyncio.sleep(RETRY_S)

    async def _step(self, turn: Asked) -> None:
        device = await self._connected()
        if turn.shown is None:
            turn.shown = device.answers[(await device.ask(turn.frame, ASK_S))["generation_id"]]
        elif device.answers.get(turn.shown.generation_id) is not turn.shown:
            await device.resume(turn.shown)
        answer = turn.shown
        if turn.resends:
            again = await device.ask(turn.frame, ASK_S)
            assert (again["generation_id"], again["duplicate"]) == (answer.generation_id, True)
            turn.resends = False
        if turn.leaves:
            await self._until(device, answer, lambda: bool(answer.text or answer.end))
            turn.leaves = False
            self._device = None
            await device.close()
        else:
            await self._until(device, answer, lambda: answer.end is not None)

    async def _until(self, device: Device, answer: Shown, condition: Callable[[], bool]) -> None:
        """Raises `Refused` where the answer cannot be watched: it is to be resumed again."""

        def refused() -> Frame | None:
            mine = (frame for frame in device.frames[self._read :] if frame["type"] == "error")
            return next((frame for frame in mine if frame.get("generation_id") == answer.generation_id), None)

        await device.until(lambda: condition() or refused() is not None, PATIENCE_S)
        refusal = refused()
        if refusal is not None and not condition():
            self._read = len(device.frames)
            del device.answers[answer.generation_id]
            raise Refused(refusal)

    async def _connected(self) -> Device:
        if self._device is None or self._device.closed:
            self._connections += 1
            self._device = await self.user.connect(GATEWAYS[self._connections % len(GATEWAYS)])
            self._read = 0
        return self._device


class Load:
    """People who ask one question after the other until `stop`. An async context manager; it logs them in and out."""

    def __init__(
        self, stack: Stack, people: int = 5, script: str = SCRIPT, kind: Callable[..., Person] = Person
    ) -> None:
        self._kind = kind
        self.people: list[Person] = []
        self._stack = stack
        self._count = people
        self._script = script
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        for number in range(self._count):
            user = await User.new(self._stack)
            self.people.append(self._kind(user, await user.conversation(), number, self._script))
        self._tasks = [asyncio.create_task(self._keep_asking(person)) for person in self.people]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for person in self.people:
            await person.user.__aexit__(kind, error, trace)

    async def _keep_asking(self, person: Person) -> None:
        while not self._stopping:
            await person.ask()

    @property
    def turns(self) -> list[Asked]:
        """All that were asked."""
        return [turn for person in self.people for turn in person.turns]

    async def more(self, count: int, within_s: float = PATIENCE_S) -> None:
        """Waits until so many turns have begun and ended from now on. Raises what went wrong for anybody."""
        began = time.time()

        def enough() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return sum(turn.began >= began and turn.ended is not None for turn in self.turns) >= count

        await eventually(enough, within_s, f"{count} more turns have ended")

    async def stop(self) -> None:
        """Nobody asks anything new; returns when all turns have ended. Raises what went wrong for anybody."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def check(self, calls: Sequence[Call], again: bool = False) -> None:
        """After `stop`: every turn is done, was answered by exactly one call of the provider (`again`: the last one
        counts), and what was shown is what the provider served and what history holds.
        """
        for person in self.people:
            for turn in person.turns:
                answer = turn.answer
                assert answer.ended == "done", answer.end
                mine = [call for call in calls if call.messages[-1]["content"] == turn.content]
                assert len(mine) == 1 or again, (answer.generation_id, mine)
                assert mine[-1].text == answer.text
                stored = await person.user.generation(answer)
                assert stored["text"] == answer.text

"""Open-loop load: work begins when it is due, whether what was begun before has ended or not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

LEAD_S = 0.05
SETTLE_S = 10.0


class Pacer:
    """Calls `fire(number, due)` on the loop for each of `count` pieces of work, one every `interval_s`.

    `due` is the intended moment by `time.perf_counter`; latencies are counted from it, so being late, for whatever
    reason, makes them longer. A thread keeps the time, because timers of event loops have a grain of 1 ms.
    """

    def __init__(self, count: int, interval_s: float, fire: Callable[[int, float], None]) -> None:
        self._count = count
        self._interval_s = interval_s
        self._fire = fire
        self.late: list[float] = []

    async def run(self) -> None:
        """Returns when the last piece was fired."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def call(number: int, due: float) -> None:
            self.late.append(time.perf_counter() - due)
            self._fire(number, due)
            if number == self._count - 1:
                done.set_result(None)

        def keep_time() -> None:
            began = time.perf_counter() + LEAD_S
            for number in range(self._count):
                due = began + number * self._interval_s
                wait = due - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                loop.call_soon_threadsafe(call, number, due)

        thread = threading.Thread(target=keep_time, name="pacer", daemon=True)
        thread.start()
        await done
        thread.join()


async def in_flight(count: int, at_once: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Closed-loop load: `count` pieces of work, `at_once` of them at any moment."""
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            await work(number)

    await asyncio.gather(*(lane() for _ in range(at_once)))

"""One deadline for many waits."""

from __future__ import annotations

import asyncio

import pytest

from gateway.patience import Patience


async def value(result: int) -> int:
    await asyncio.sleep(0)
    return result


async def at_once(result: int) -> int:
    return result


async def for_ever() -> None:
    await asyncio.Event().wait()


async def stubborn() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ValueError("something else") from None


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


class TestPatience:
    async def test_results_and_errors_pass(self) -> None:
        patience = Patience(60)
        assert [await patience.wait(value(n)) for n in range(3)] == [0, 1, 2]
        with pytest.raises(ZeroDivisionError):
            await patience.wait(asyncio.ensure_future(_divides()))
        patience.close()

    async def test_time_ends_all_waits(self) -> None:
        patience = Patience(0.02)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await patience.wait(for_ever())
        assert cancelling() == 0
        patience.close()

    async def test_it_is_ended_from_outside(self) -> None:
        patience = Patience(60)
        asyncio.get_running_loop().call_soon(patience.end)
        with pytest.raises(TimeoutError):
            await patience.wait(for_ever())
        patience.end()
        with pytest.raises(TimeoutError):
            await patience.wait(at_once(1))
        with pytest.raises(TimeoutError):
            await patience.wait(value(1))
        await asyncio.sleep(0)
        assert await value(2) == 2
        patience.close()

    async def test_a_result_that_comes_with_the_end_cancels_nothing_later(self) -> None:
        patience = Patience(60)
        step = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(patience.wait(step))
        await asyncio.sleep(0)
        step.set_result(1)
        patience.end()
        with pytest.raises(TimeoutError):
            await waiting
        patience.close()

    async def test_an_error_meanwhile_wins(self) -> None:
        patience = Patience(60)
        asyncio.get_running_loop().call_soon(patience.end)
        with pytest.raises(ValueError, match="something else"):
            await patience.wait(stubborn())
        assert cancelling() == 0
        patience.close()

    async def test_who_is_cancelled_is_cancelled(self) -> None:
        patience = Patience(60)
        for ended_too in (False, True):
            waiting = asyncio.ensure_future(patience.wait(for_ever()))
            await asyncio.sleep(0)
            if ended_too:
                patience.end()
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
        patience.close()


async def _divides() -> float:
    return 1 / 0

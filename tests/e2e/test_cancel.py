"""Cancel: the provider is left at once, the text so far is kept, and what the client is told is what is stored."""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
import time
from collections import Counter

import pytest

from tests.mockllm.control import MockControl
from tests.support.books import balanced
from tests.support.charges import charges
from tests.support.client import Device, Frame, Shown, User
from tests.support.questions import gated, new_mark, question, served
from tests.support.stack import GATEWAYS, ROUTERS, Stack

pytestmark = pytest.mark.slow

CLOSED_WITHIN_S = 0.2
LANES = 20
RACES = 1000
RACES_S = 40.0


async def waiting(user: User, mock: MockControl, gateway: str) -> tuple[str, Device, Shown]:
    """An answer that has shown some text and waits for ever, its mark, and who watches it."""
    mark = new_mark()
    device = await user.connect(gateway)
    answer = await device.send(await user.conversation(), gated(mark))
    await mock.reached(mark)
    await device.seen(answer)
    return mark, device, answer


async def test_the_provider_is_left_and_the_text_is_kept(stack: Stack, user: User, mock: MockControl) -> None:
    took: list[float] = []
    for n in range(6):
        mark, device, answer = await waiting(user, mock, GATEWAYS[n % 2])
        asked = time.time()
        await device.cancel(answer)
        await device.finish(answer)
        [call] = await served(mock, mark)
        call = await mock.ended(call.id)
        assert call.end == "client_closed"
        assert call.closed is not None
        took.append(call.closed - asked)

        # What was shown is what the provider had sent, is what is stored, and was counted by us.
        assert answer.ended == "cancelled"
        assert answer.end is not None
        assert answer.text == call.text
        assert answer.end["usage"]["estimated"] is True
        stored = await user.generation(answer, GATEWAYS[(n + 1) % 2])
        assert (stored["status"], stored["text"], stored["end"]) == ("cancelled", answer.text, answer.end)
        [entry] = await charges(stack, answer.generation_id)
        assert (entry["charged_to"], entry["estimated"], entry["cost"]) == ("user", True, answer.end["cost"])
    # The median: on a busy machine a single one says more of the machine.
    assert statistics.median(took) < CLOSED_WITHIN_S, took


async def test_at_the_other_gateway_again_and_again(user: User, mock: MockControl) -> None:
    _, device, answer = await waiting(user, mock, "gateway-1")
    path = f"/v1/generations/{answer.generation_id}/cancel"
    told = await asyncio.gather(*(user.call("POST", path, gateway=GATEWAYS[n % 2]) for n in range(10)))
    await device.finish(answer)
    assert all(end == answer.end for end in told)
    other = await user.connect("gateway-2")
    await other.cancel(answer)
    assert await other.first("cancelled") == answer.end


async def test_what_has_ended_stays_as_it_ended(user: User) -> None:
    device = await user.connect()
    answer = await device.finish(await device.send(await user.conversation(), question(new_mark(), chunks=3)))
    other = await user.connect()
    await other.cancel(answer)
    assert await other.first("done") == answer.end


async def test_what_waits_for_a_router_is_cancelled_at_any_gateway(stack: Stack, user: User, mock: MockControl) -> None:
    mark = new_mark()
    for router in ROUTERS:
        await asyncio.to_thread(stack.stop_part, router)
    for gateway in GATEWAYS:
        device, other = await user.connect("gateway-1"), await user.connect(gateway)
        answer = await device.send(await user.conversation(), question(mark))
        await device.first("queued")
        await other.cancel(answer)
        told = await other.first("cancelled")
        await device.finish(answer)
        assert answer.end == told == (await user.generation(answer))["end"]
        assert (told["usage"], told["cost"], answer.text) == (None, 0, "")
    # A router that comes back finds nothing to do.
    for router in ROUTERS:
        await asyncio.to_thread(stack.start_part, router)
    await device.finish(await device.send(await user.conversation(), question(new_mark(), chunks=1)))
    assert await served(mock, mark) == []


async def test_what_a_silent_router_runs_is_ended_without_it(stack: Stack, user: User, mock: MockControl) -> None:
    mark, device, answer = await waiting(user, mock, "gateway-1")
    for router in ROUTERS:
        await asyncio.to_thread(stack.kill, router, signal.SIGSTOP)
    await device.cancel(answer)
    await device.finish(answer)
    assert answer.end is not None
    assert (answer.ended, answer.end["cost"]) == ("cancelled", 0)
    stored = await user.generation(answer)
    assert (stored["end"], stored["text"]) == (answer.end, answer.text)

    # Back from the dead it stops by itself, and pays for what it used.
    await asyncio.to_thread(stack.thaw)
    [call] = await served(mock, mark)
    assert (await mock.ended(call.id)).end == "client_closed"
    [entry] = await charges(stack, answer.generation_id)
    assert entry["charged_to"] == "platform"
    assert (await user.generation(answer))["end"] == answer.end


async def test_without_usage_of_the_provider_it_is_estimated(stack: Stack, user: User) -> None:
    device = await user.connect()
    answer = await device.send(await user.conversation(), question(new_mark(), chunks=30, usage=False))
    await device.finish(answer)
    assert answer.end is not None
    assert answer.ended == "done"
    assert answer.end["usage"]["estimated"] is True
    assert answer.end["usage"]["completion_tokens"] > 0
    [entry] = await charges(stack, answer.generation_id)
    assert (entry["charged_to"], entry["estimated"], entry["cost"]) == ("user", True, answer.end["cost"])


async def test_cancel_races_done(stack: Stack, mock: MockControl) -> None:
    """Over and over: the end that is told, by frame and by HTTP, is the end that is stored, with its whole text; and
    the books balance against what the provider served.
    """
    rng = random.Random(20_000_101)
    began, since = time.monotonic(), time.time()
    users = [await User.new(stack) for _ in range(4)]
    try:
        lanes = [_races(users[n % len(users)], random.Random(rng.random()), n) for n in range(LANES)]
        kinds = sum(await asyncio.gather(*lanes), Counter[str]())
    finally:
        for user in users:
            await user.__aexit__(None, None, None)
    assert kinds.total() == RACES
    # Both won often enough for this to have been a race.
    assert set(kinds) == {"done", "cancelled"}
    assert min(kinds.values()) > RACES // 20, kinds
    assert time.monotonic() - began < RACES_S
    await balanced(stack, mock, since)


async def _races(user: User, rng: random.Random, number: int) -> Counter[str]:
    """One conversation: turn after turn, each cancelled at a random moment around its end."""
    kinds: Counter[str] = Counter()
    conversation = await user.conversation()
    device = await user.connect(GATEWAYS[number % 2])
    other = GATEWAYS[(number + rng.randrange(2)) % 2]
    for _ in range(RACES // LANES):
        text = question(new_mark(), chunks=rng.randrange(1, 5), delay_ms=rng.choice((0, 0, 2, 5)))
        answer = await device.send(conversation, text)
        await asyncio.sleep(rng.random() * 0.04)  # the moment is what is tested
        told = await _cancel(user, device, answer, other if rng.random() < 0.5 else None)
        await device.finish(answer)
        stored = await user.generation(answer, other)
        assert answer.end == stored["end"] == told
        assert answer.text == stored["text"]
        kinds[str(answer.ended)] += 1
    return kinds


async def _cancel(user: User, device: Device, answer: Shown, gateway: str | None) -> Frame | None:
    """By HTTP at a gateway, or by a frame on the device; returns the end that was told."""
    if gateway is not None:
        return dict(await user.call("POST", f"/v1/generations/{answer.generation_id}/cancel", gateway=gateway))
    await device.cancel(answer)
    return (await device.finish(answer)).end

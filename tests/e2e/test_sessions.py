"""Who must leave an open socket: a session that was ended, and everybody when a gateway drains."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator

import aiohttp
import pytest

from tests.mockllm.control import MockControl
from tests.support.client import Refused, Shown, User
from tests.support.events import events
from tests.support.questions import gated, new_mark, served
from tests.support.stack import GATEWAYS, Stack

pytestmark = pytest.mark.slow

REVOKED_WITHIN_S = 5.0


@pytest.fixture(params=["redis up", "redis away"])
def redis(request: pytest.FixtureRequest, stack: Stack, user: User) -> Iterator[str]:
    """A revocation is told by Redis; where that is away, gateways find it in PostgreSQL."""
    if request.param == "redis away":
        stack.stop_part("redis")
    yield request.param
    stack.start_part("redis")


async def test_a_revoked_session_is_closed_on_every_gateway(user: User, redis: str) -> None:
    async with await user.again() as other:
        leaving = [await other.connect(gateway) for gateway in GATEWAYS]
        staying = [await user.connect(gateway) for gateway in GATEWAYS]
        began = time.monotonic()
        await other.call("POST", "/v1/auth/logout", {}, "gateway-1")
        assert [await device.gone(REVOKED_WITHIN_S) for device in leaving] == [4401, 4401]
        assert time.monotonic() - began < REVOKED_WITHIN_S
        for gateway in GATEWAYS:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
                await other.connect(gateway)
            with pytest.raises(Refused, match="unauthorized"):
                await other.call("GET", "/v1/me", gateway=gateway)
    for device in staying:
        await device.ping()


async def test_a_deleted_key_is_closed(stack: Stack, user: User) -> None:
    key = await user.call("POST", "/v1/keys", {"name": "a program"})
    async with User(stack, user.person._replace(token=key["key"])) as program:
        device = await program.connect("gateway-1")
        await user.call("DELETE", f"/v1/keys/{key['id']}", gateway="gateway-2")
        assert await device.gone(REVOKED_WITHIN_S) == 4401
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await program.connect("gateway-1")


async def test_a_drain_sends_everybody_elsewhere(stack: Stack, user: User, mock: MockControl) -> None:
    mark = new_mark()
    device, idle = await user.connect("gateway-1"), await user.connect("gateway-1")
    answer = await device.send(await user.conversation(), gated(mark))
    await mock.reached(mark)
    await device.seen(answer)
    path = f"/v1/generations/{answer.generation_id}/events"
    async with user.stream("GET", path, None, "gateway-1", Accept="text/event-stream") as response:
        streaming = asyncio.create_task(_last_event(response))
        old = await asyncio.to_thread(stack.kill, "gateway-1", signal.SIGTERM)
        assert await streaming == "drain"
    for leaving in (device, idle):
        assert await leaving.gone() == 1001
        assert leaving.frames[-1]["type"] == "drain"
        assert 0 <= leaving.frames[-1]["reconnect_after_ms"] <= 2000

    other = await user.connect("gateway-2")
    await other.resume(answer)
    await mock.open_gate(mark)
    await other.finish(answer)
    [call] = await served(mock, mark)
    assert (answer.ended, answer.text, answer.count("restart")) == ("done", call.text, 0)
    late = Shown(answer.generation_id)
    await asyncio.to_thread(stack.wait_replaced, "gateway-1", old)
    back = await user.connect("gateway-1")
    assert (await back.finish(await back.resume(late.generation_id))).text == call.text


async def _last_event(response: aiohttp.ClientResponse) -> str:
    kinds = [event.kind async for event in events(response)]
    return kinds[-1]

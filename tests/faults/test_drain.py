"""A gateway leaves (SIGTERM): it tells, waits for who leaves by himself, closes the rest, and is gone in time."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
import urllib.error
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.sockets import Closed, Socket
from tests.mockllm.control import MockControl
from tests.support.client import Device, Shown, User
from tests.support.own import OwnGateway
from tests.support.polling import eventually
from tests.support.questions import new_mark, question, served
from tests.support.stack import Stack, fetch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

UNREADY_S = 0.6
DRAIN_S = 3.0
# What a busy machine may add to the drain's own bounds, which are the window, half a second and a second.
LEEWAY_S = 4.0
IDLE = 150
SILENT = 20
STREAMS = 8


@pytest.fixture
async def leaving(stack: Stack, tmp_path: Path) -> AsyncIterator[OwnGateway]:
    """A gateway beside the stack's, which the test ends."""
    made = OwnGateway(stack, tmp_path, unready_s=UNREADY_S, drain_s=DRAIN_S, connections_per_user=1000)
    await asyncio.to_thread(made.start)
    yield made
    await asyncio.to_thread(made.kill)


async def asked(user: User, gateway: OwnGateway, chunks: int = 220) -> tuple[Device, Shown, str]:
    """A device at the gateway that watches an answer of its own, which runs for a while."""
    mark = new_mark()
    device = await user.connect(url=gateway.ws_url)
    answer = await device.send(await user.conversation(), question(mark, chunks=chunks, delay_ms=25))
    await device.seen(answer)
    return device, answer, mark


async def obey(user: User, device: Device, answer: Shown) -> None:
    """Leaves as it is told to, goes on at another gateway, to the end."""
    frame = await device.first("drain")
    await asyncio.sleep(frame["reconnect_after_ms"] / 1000)  # a client's own delay
    await device.close()
    other = await user.connect("gateway-1")
    await other.resume(answer)
    await other.finish(answer)


async def stay(user: User, device: Device, answer: Shown) -> int:
    """Ignores what it is told, watches on, and is closed; returns how many characters came after the telling."""
    await device.first("drain")
    before = len(answer.text)
    code = await device.gone()
    assert code == 1001
    shown = len(answer.text) - before
    other = await user.connect("gateway-1")
    await other.resume(answer)
    await other.finish(answer)
    return shown


async def told(sock: Socket, leaves: bool) -> tuple[int, int]:
    """What an idle client is told, and the code that it is closed with (0: it left before)."""
    frame = await sock.of("drain")
    if leaves:
        await asyncio.sleep(frame["reconnect_after_ms"] / 1000)  # a client's own delay
        sock.reset()
        return frame["reconnect_after_ms"], 0
    try:
        await sock.next()
    except Closed as closed:
        return frame["reconnect_after_ms"], closed.code
    raise AssertionError("nothing follows the drain but the close")


async def streamed(user: User, gateway: OwnGateway, generation: str, opened: asyncio.Event) -> tuple[str, float]:
    """An event stream's last event's data, and when it ended."""
    url = f"{gateway.base_url}/v1/generations/{generation}/events"
    async with user.stream_at(url) as response:
        text = (await response.content.readline()).decode()
        opened.set()
        text += (await response.content.read()).decode()
    return text.rpartition("event: ")[2], time.monotonic()


async def completed(user: User, gateway: OwnGateway, begun: asyncio.Event) -> str:
    """A stateless streamed call of 1.5 s."""
    body = {
        "model": "mock",
        "stream": True,
        "messages": [{"role": "user", "content": question("x", chunks=30, delay_ms=50)}],
    }
    async with user.stream_at(f"{gateway.base_url}/v1/chat/completions", "POST", body) as response:
        text = (await response.content.readline()).decode()
        begun.set()
        return text + (await response.content.read()).decode()


def unready(gateway: OwnGateway) -> dict[str, Any]:
    """What /readyz names; empty while it is ready."""
    try:
        fetch("GET", f"{gateway.base_url}/readyz")
    except urllib.error.HTTPError as error:
        return dict(json.loads(error.read())["parts"])
    return {}


async def test_a_gateway_drains(stack: Stack, user: User, mock: MockControl, leaving: OwnGateway) -> None:
    token = user.person.token
    idle = [await Socket.open(leaving.ws_port, token) for _ in range(IDLE)]
    silent = [await Socket.open(leaving.ws_port, token, receive_bytes=4096) for _ in range(SILENT)]
    half = await asyncio.open_connection("127.0.0.1", leaving.ws_port)
    half[1].write(b"GET /v1/ws HTTP/1.1\r\n")
    obeying = [await asked(user, leaving) for _ in range(4)]
    staying = await asked(user, leaving)
    opened = [asyncio.Event() for _ in range(STREAMS)]
    streams = [asyncio.create_task(streamed(user, leaving, staying[1].generation_id, each)) for each in opened]
    begun = asyncio.Event()
    call = asyncio.create_task(completed(user, leaving, begun))
    for event in (*opened, begun):
        await asyncio.wait_for(event.wait(), 10)

    leaving.signal(signal.SIGTERM)
    began = time.monotonic()
    parts = await eventually(lambda: asyncio.to_thread(unready, leaving), UNREADY_S + LEEWAY_S, "it says no")
    assert parts == {"gateway": "going away"}, "told while it still serves"
    ends = asyncio.create_task(asyncio.to_thread(leaving.ended, UNREADY_S + DRAIN_S + 1.5 + LEEWAY_S))
    following = [asyncio.create_task(obey(user, device, answer)) for device, answer, _ in obeying]
    stayed = asyncio.create_task(stay(user, *staying[:2]))
    answers = await asyncio.gather(*(told(sock, number % 2 == 0) for number, sock in enumerate(idle)))

    status, _ = await ends
    assert status == 0, leaving.said[-2000:]
    took = time.monotonic() - began
    assert took > DRAIN_S * 0.75, "those who stay have the whole window"
    assert took < UNREADY_S + DRAIN_S + 1.5 + LEEWAY_S

    delays = sorted(delay for delay, _ in answers)
    assert delays[-1] <= DRAIN_S * 1000 * 0.75
    assert delays[-1] - delays[0] > DRAIN_S * 1000 * 0.25, "spread over the window"
    assert len(set(delays)) > IDLE / 3
    assert [code for _, code in answers] == [0, 1001] * (IDLE // 2)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", leaving.ws_port), 1).close()

    assert await stayed > 20, "the answer ran on through the window"
    await asyncio.gather(*following)
    for _, answer, mark in (*obeying, staying):
        (made,) = await served(mock, mark)
        assert (answer.ended, answer.count("restart"), answer.text) == ("done", 0, made.text)
    ended = await asyncio.gather(*streams)
    assert {text.partition("\n")[0] for text, _ in ended} == {"drain"}
    moments = sorted(moment for _, moment in ended)
    assert moments[-1] - moments[0] > 0.1, "each at a moment of its own"
    assert (await call).endswith("data: [DONE]\n\n"), "a call that has no second try ran on to its end"
    for sock in (*idle, *silent):
        sock.reset()
    half[1].transport.abort()
    assert "Traceback" not in leaving.said

"""The resources under the server that runs them: streams arrive piece by piece, and a reader that leaves is noticed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp

from core.ids import generation_id
from core.model import Delta, Notice
from tests.support.api import Platform, done, served
from tests.support.polling import eventually
from tests.support.turns import new_id


async def test_an_answer_arrives_as_it_is_made(platform: Platform) -> None:
    user = await platform.user()
    conversation, message = await platform.conversation(user), new_id()
    generation = generation_id(conversation, message)
    platform.turns.script = [Delta(g=generation, e=0, n=0, d="Hel"), None]
    headers = {"authorization": f"Bearer {await platform.token(user)}", "accept": "text/event-stream"}
    async with served(platform) as url, aiohttp.ClientSession(url, headers=headers) as client:
        body = {"content": "hello", "message_id": message}
        async with client.post(f"/v1/conversations/{conversation}/messages", json=body) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
            assert response.headers["x-request-id"]
            text = b""
            while b"Hel" not in text:
                text += await asyncio.wait_for(response.content.readany(), 5)
            assert b"event: accepted" in text
            assert platform.services.streams.count == 1
        await eventually(lambda: platform.turns.watching == platform.services.streams.count == 0)
        platform.turns.script = [done(generation, 0)]
        async with client.get(
            f"/v1/generations/{generation}/events", headers={"last-event-id": f"{generation}:0:0"}
        ) as response:
            assert "event: done" in (await asyncio.wait_for(response.text(), 5))
        assert platform.turns.asked[-1] == (generation, 0, 0)


async def test_a_drain_ends_what_the_server_would_wait_for(platform: Platform) -> None:
    user = await platform.user()
    generation = generation_id(await platform.conversation(user), new_id())
    platform.turns.script = [Notice(code="degraded", message="Slow."), None]
    headers = {"authorization": f"Bearer {await platform.token(user)}"}
    async with (
        served(platform) as url,
        aiohttp.ClientSession(url, headers=headers) as client,
        client.get(f"/v1/generations/{generation}/events") as response,
    ):
        assert b"retry" in await asyncio.wait_for(response.content.readany(), 5)
        await platform.services.streams.drain(0.1, 2.0)
        rest = await asyncio.wait_for(response.text(), 5)
        assert json.loads(rest.rpartition("data: ")[2])["reconnect_after_ms"] <= 1000
        refused = await client.get(f"/v1/generations/{generation}/events")
        assert refused.status == 503


async def test_a_body_that_never_ends_is_cut_at_the_limit(platform: Platform) -> None:
    headers = {"authorization": f"Bearer {await platform.token(await platform.user())}"}

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b"a" * 4096

    async with served(platform) as url, aiohttp.ClientSession(url, headers=headers) as client:
        sent = {"content-type": "application/json"}
        try:
            async with client.post("/v1/conversations", data=endless(), headers=sent) as response:
                assert response.status == 413
                assert (await response.json())["error"]["code"] == "too_large"
        except aiohttp.ClientConnectionError:
            # The answer came before the body was through, and the server closed the connection.
            assert (await client.get("/healthz")).status == 200

"""How much a peer may send: frames of every kind and bytes as they are read, at the edge of both rates."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.polling import eventually
from tests.support.websocket import BINARY, CONTINUATION, PING, PONG, TEXT, Echo, RawClient, Recorder, client_frame
from tests.unit.ext.conftest import StartSite

pytestmark = pytest.mark.usefixtures("quiet")

# So slow that nothing is refilled while a test runs.
SLOW: dict[str, Any] = {"frames_per_s": 0.01, "frames_at_once": 20}


class Telling(Echo):
    """Says what it is told of an overrun; `code`, where it closes by itself."""

    code: int | None = None

    def on_overrun(self, what: str, retry_after_ms: int) -> None:
        self.calls.append(("overrun", what, retry_after_ms))
        assert self.connection is not None
        self.connection.send_text("last words")
        if self.code is not None:
            self.connection.close(self.code, "by the handler")


class Closing(Telling):
    code = 4000


async def test_the_frames_of_the_bucket_are_delivered_and_the_next_closes(start_site: StartSite) -> None:
    site = await start_site(Telling, **SLOW)
    client = await site.open(client_frame(TEXT, b"word") * 50)
    assert [await client.frame() for _ in range(21)] == [(TEXT, b"word")] * 20 + [(TEXT, b"last words")]
    code, reason = await client.closed()
    assert (code, reason) == (4429, "too many frames; retry_after_ms=2000000")
    await client.leave()
    assert await site.handlers[0].end() == (4429, reason)
    assert site.handlers[0].count("text") == 20
    assert site.handlers[0].calls.count(("overrun", "frames", 2_000_000)) == 1


@pytest.mark.parametrize("each", [1, 3, 20])
async def test_reads_of_any_size_count_alike(start_site: StartSite, each: int) -> None:
    site = await start_site(**SLOW)
    client = await site.open()
    received = 0
    while received < 20:
        part = min(each, 20 - received)
        client.send(client_frame(TEXT, b"word") * part)
        for _ in range(part):
            assert await client.frame() == (TEXT, b"word")
        received += part
    client.send(client_frame(TEXT, b"one too many"))
    assert (await client.closed())[0] == 4429


@pytest.mark.parametrize("flood", [client_frame(PING), client_frame(PONG), client_frame(PONG, b"x" * 125)])
async def test_control_frames_count(start_site: StartSite, flood: bytes) -> None:
    site = await start_site(Recorder, **SLOW)
    client = await site.open(flood * 21)
    while (frame := await client.frame())[0] == PONG:
        pass
    assert frame[1][:2] == b"\x11\x4d"
    client.reset()
    assert (await site.handlers[0].end())[0] == 4429


async def test_fragments_count(start_site: StartSite) -> None:
    site = await start_site(Recorder, **SLOW)
    client = await site.open(client_frame(BINARY, b"", fin=False) + client_frame(CONTINUATION, b"", fin=False) * 20)
    assert (await client.closed())[0] == 4429
    client.reset()


async def test_the_handler_may_close_with_its_own_code(start_site: StartSite) -> None:
    site = await start_site(Closing, **SLOW)
    client = await site.open(client_frame(PONG) * 21)
    assert await client.frame() == (TEXT, b"last words")
    assert await client.closed() == (4000, "by the handler")
    await client.leave()
    assert await site.handlers[0].end() == (4000, "by the handler")


async def test_bytes_count_as_they_are_read(start_site: StartSite) -> None:
    site = await start_site(Telling, bytes_per_s=1.0, bytes_at_once=200_000)
    client = await site.open(client_frame(TEXT, b"a" * 60_000) * 3)
    assert [len((await client.frame())[1]) for _ in range(3)] == [60_000] * 3
    client.send(client_frame(TEXT, b"a" * 60_000))
    assert await client.frame() == (TEXT, b"last words")
    code, reason = await client.closed()
    assert (code, reason.startswith("too many bytes; retry_after_ms=")) == (4429, True)
    await client.leave()
    assert site.handlers[0].count("text") == 3


async def test_the_rate_refills_the_bucket(start_site: StartSite) -> None:
    site = await start_site(frames_per_s=200.0, frames_at_once=20)
    client = await site.open()
    for _ in range(60):
        client.send(client_frame(TEXT, b"word"))
        assert await client.frame() == (TEXT, b"word")
        await asyncio.sleep(0.006)  # no faster than a frame is refilled
    assert site.handlers[0].count("close") == 0


async def flood(client: RawClient) -> None:
    while True:
        client.send(client_frame(PING) * 1000)
        await client.writer.drain()
        await asyncio.sleep(0)


async def test_who_goes_on_flooding_is_reset(start_site: StartSite) -> None:
    site = await start_site(Recorder, close_s=0.3, **SLOW)
    client = await site.open(client_frame(PING) * 21)
    with pytest.raises(ConnectionError):
        await flood(client)
    assert (await site.handlers[0].end())[0] == 4429
    await eventually(lambda: site.listener.connections == 0)

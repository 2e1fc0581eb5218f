"""The contract of the usage stream: nothing acknowledged is lost, everything comes at least once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import msgspec
import pytest

from core.bus.jetstream import CONSUMER, DEAD_STREAM, STREAM, SUBJECT, JetStreamUsage
from core.bus.link import Link
from core.errors import Unavailable
from core.ledger.port import Entry
from core.model import Usage
from tests.support.entries import new_entry
from tests.support.nats import NatsServer
from tests.support.polling import eventually

Connect = Callable[[], Awaitable[JetStreamUsage]]


@pytest.fixture
async def link(nats_server: NatsServer) -> AsyncIterator[Link]:
    """An operator's connection; it finds no stream of an earlier test."""
    link = await Link.open([nats_server.url], "operator")
    for stream in (STREAM, DEAD_STREAM):
        await link.ask(f"$JS.API.STREAM.DELETE.{stream}", b"", 5.0)
    yield link
    await link.close()


@pytest.fixture(params=["jetstream"])
async def connect(nats_server: NatsServer, link: Link) -> AsyncIterator[Connect]:
    """Makes ends of one empty stream; all are closed after the test."""
    async with AsyncExitStack() as stack:

        async def make() -> JetStreamUsage:
            own = await Link.open([nats_server.url], "usage")
            stack.push_async_callback(own.close)
            stream = JetStreamUsage(own, ack_wait_s=1)
            stack.push_async_callback(stream.close)
            await stream.ensure()
            return stream

        yield make


@pytest.fixture
async def stream(connect: Connect) -> JetStreamUsage:
    return await connect()


async def stored(link: Link, name: str = STREAM) -> int:
    """How many messages a stream holds."""
    info = msgspec.json.decode((await link.ask(f"$JS.API.STREAM.INFO.{name}", b"", 5.0)).data)
    messages = info["state"]["messages"]
    assert isinstance(messages, int)
    return messages


async def drain(stream: JetStreamUsage, limit: int = 100) -> list[Entry]:
    got: list[Entry] = []
    while batch := await stream.pull(limit, 0.0):
        got.extend(batch.entries)
        await batch.ack()
    return got


async def test_a_record_comes_back_whole(stream: JetStreamUsage) -> None:
    entry = new_entry(revision=2, usage=Usage(1, 2**40, 3, 4, True), cost=2**60, charged_to="user", outcome="done")
    await stream.publish(entry, 2.0)
    batch = await stream.pull(10, 2.0)
    assert batch is not None
    assert list(batch.entries) == [entry]


async def test_nothing_there_is_told_after_the_wait(stream: JetStreamUsage) -> None:
    start = time.monotonic()
    assert await stream.pull(10, 0.2) is None
    assert 0.2 <= time.monotonic() - start < 1.0


async def test_a_record_that_comes_during_the_wait_is_given_at_once(stream: JetStreamUsage) -> None:
    waiting = asyncio.create_task(stream.pull(10, 5.0))
    await asyncio.sleep(0)
    start = time.monotonic()
    entry = new_entry()
    await stream.publish(entry, 2.0)
    batch = await waiting
    assert time.monotonic() - start < 1.0
    assert batch is not None
    assert list(batch.entries) == [entry]


async def test_the_same_record_published_again_is_one(stream: JetStreamUsage) -> None:
    entry = new_entry()
    await asyncio.gather(*(stream.publish(entry, 2.0) for _ in range(20)))
    await stream.publish(msgspec.structs.replace(entry, revision=2), 2.0)
    assert sorted(found.revision for found in await drain(stream)) == [0, 2]


async def test_two_consumers_share_the_work(stream: JetStreamUsage, connect: Connect) -> None:
    other = await connect()
    entries = [new_entry() for _ in range(300)]
    await asyncio.gather(*(stream.publish(entry, 5.0) for entry in entries))
    shares = await asyncio.gather(drain(stream, 20), drain(other, 20))
    assert all(shares)
    assert sorted(found.attempt for share in shares for found in share) == sorted(entry.attempt for entry in entries)


async def test_a_pull_gives_no_more_than_its_limit(stream: JetStreamUsage) -> None:
    await asyncio.gather(*(stream.publish(new_entry(), 5.0) for _ in range(25)))
    sizes = []
    while batch := await stream.pull(10, 0.0):
        sizes.append(len(batch.entries))
        await batch.ack()
    assert sizes == [10, 10, 5]


async def test_an_acknowledged_record_is_gone_and_a_refused_one_comes_again(stream: JetStreamUsage, link: Link) -> None:
    await asyncio.gather(*(stream.publish(new_entry(), 2.0) for _ in range(3)))
    batch = await stream.pull(3, 1.0)
    assert batch is not None
    start = time.monotonic()
    await batch.nak(0.2)
    again: list[Entry] = []
    while len(again) < 3:
        more = await stream.pull(10, 2.0)
        assert more is not None
        again.extend(more.entries)
        await more.ack()
    assert time.monotonic() - start >= 0.19
    assert sorted(entry.attempt for entry in again) == sorted(entry.attempt for entry in batch.entries)
    await eventually(lambda: _is_empty(link))


async def _is_empty(link: Link) -> bool:
    return await stored(link) == 0


async def test_what_was_acknowledged_survives_a_crash_of_the_server(
    stream: JetStreamUsage, link: Link, nats_server: NatsServer
) -> None:
    entries = [new_entry() for _ in range(50)]
    await asyncio.gather(*(stream.publish(entry, 5.0) for entry in entries))
    assert await stream.pull(10, 5.0)
    nats_server.kill()
    await eventually(lambda: not link.connected, 2.0)
    with pytest.raises(Unavailable):
        await stream.publish(new_entry(), 0.5)
    with pytest.raises(Unavailable):
        await stream.pull(10, 0.5)
    nats_server.start()
    await eventually(lambda: link.connected, 2.0)
    seen = {entry.attempt for entry in entries}

    async def all_came() -> bool:
        try:
            seen.difference_update(entry.attempt for entry in await drain(stream))
        except Unavailable:
            return False
        return not seen

    await eventually(all_came, 5.0)


async def test_a_slow_server_is_told_within_the_timeout(stream: JetStreamUsage, nats_server: NatsServer) -> None:
    entry = new_entry()
    nats_server.freeze()
    start = time.monotonic()
    with pytest.raises(Unavailable):
        await stream.publish(entry, 0.05)
    assert time.monotonic() - start < 0.5
    nats_server.thaw()
    await stream.publish(entry, 2.0)
    assert [found.attempt for found in await drain(stream)] == [entry.attempt]


async def test_a_pull_in_hand_learns_that_the_server_died(
    stream: JetStreamUsage, link: Link, nats_server: NatsServer
) -> None:
    waiting = asyncio.create_task(stream.pull(10, 30.0))

    async def is_waiting() -> bool:
        reply = await link.ask(f"$JS.API.CONSUMER.INFO.{STREAM}.{CONSUMER}", b"", 5.0)
        return bool(msgspec.json.decode(reply.data)["num_waiting"])

    await eventually(is_waiting)
    start = time.monotonic()
    nats_server.kill()
    with pytest.raises(Unavailable):
        await waiting
    assert time.monotonic() - start < 2.0


async def test_a_stream_that_vanished_is_made_again(stream: JetStreamUsage, link: Link) -> None:
    await link.ask(f"$JS.API.STREAM.DELETE.{STREAM}", b"", 5.0)
    entry = new_entry()

    async def published() -> bool:
        try:
            await stream.publish(entry, 1.0)
        except Unavailable:
            return False
        return True

    await eventually(published, 5.0)
    assert [found.attempt for found in await drain(stream)] == [entry.attempt]


async def test_a_full_stream_refuses_and_keeps_what_it_has(nats_server: NatsServer, link: Link) -> None:
    small = JetStreamUsage(link, max_bytes=2_000)
    await small.ensure()
    first = new_entry()
    await small.publish(first, 2.0)
    with pytest.raises(Unavailable, match="maximum bytes"):
        await asyncio.gather(*(small.publish(new_entry(), 2.0) for _ in range(20)))
    assert first.attempt in [found.attempt for found in await drain(small)]
    await small.close()


async def test_ensure_is_idempotent_and_takes_new_settings(stream: JetStreamUsage, link: Link) -> None:
    await stream.publish(new_entry(), 2.0)
    changed = JetStreamUsage(link, max_bytes=64 * 1024 * 1024)
    await asyncio.gather(changed.ensure(), changed.ensure())
    info = msgspec.json.decode((await link.ask(f"$JS.API.STREAM.INFO.{STREAM}", b"", 5.0)).data)
    assert info["config"]["max_bytes"] == 64 * 1024 * 1024
    assert info["state"]["messages"] == 1


async def test_what_nobody_can_take_is_set_aside(stream: JetStreamUsage, link: Link) -> None:
    good = new_entry()
    await link.publish(SUBJECT, b"no entry")
    await stream.publish(good, 2.0)
    assert [found.attempt for found in await drain(stream)] == [good.attempt]
    await eventually(lambda: _is_empty(link))
    await stream.bury(good, "told so by a test")
    assert await stored(link, DEAD_STREAM) == 2
    last = msgspec.json.decode((await link.ask(f"$JS.API.STREAM.MSG.GET.{DEAD_STREAM}", b'{"seq":2}', 5.0)).data)
    assert msgspec.msgpack.decode(msgspec.json.decode(f'"{last["message"]["data"]}"', type=bytes), type=Entry) == good

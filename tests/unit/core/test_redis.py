"""The Redis client: pipelines by the loop turn, certain and uncertain failures, a server that comes and goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import redis.exceptions

from core.errors import Unavailable, Unknown
from core.redis import MAX_WAITING, Redis, Script
from tests.support.child import free_port
from tests.support.polling import eventually
from tests.support.redis import RedisServer, redis_server, redis_session

__all__ = ["redis_server", "redis_session"]

COUNT = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[Redis]:
    store = Redis(redis_server.url, 1.0)
    yield store
    await store.close()


async def test_replies_come_as_the_server_sends_them(store: Redis) -> None:
    assert await store.execute("SET", "ä", b"\x00\xff") == b"OK"
    assert await store.execute("GET", "ä") == b"\x00\xff"
    assert await store.execute("GET", "nothing") is None
    assert await store.execute("INCRBY", "n", 2**40) == 2**40
    assert await store.execute("MGET", "n", "nothing") == [b"1099511627776", None]


async def test_an_error_is_its_own_callers_only(store: Redis) -> None:
    results = await asyncio.gather(
        store.execute("SET", "a", 1),
        store.execute("LPUSH", "a", 1),
        store.execute("NO-SUCH-COMMAND"),
        store.execute("GET", "a"),
        return_exceptions=True,
    )
    assert results[0] == b"OK"
    assert isinstance(results[1], redis.exceptions.ResponseError)
    assert isinstance(results[2], redis.exceptions.ResponseError)
    assert results[3] == b"1"


async def test_a_value_that_cannot_be_sent_is_the_callers_mistake(store: Redis) -> None:
    with pytest.raises(TypeError):
        await store.execute("SET", "a", {})  # type: ignore[arg-type]
    assert await store.execute("PING") == b"PONG"


async def test_commands_of_one_loop_turn_leave_together(store: Redis, redis_server: RedisServer) -> None:
    await store.execute("PING")
    before = await _reads(store)
    assert await asyncio.gather(*(store.execute("ECHO", str(i)) for i in range(200))) == [
        str(i).encode() for i in range(200)
    ]
    assert await _reads(store) - before <= 4


async def _reads(store: Redis) -> int:
    text: bytes = await store.execute("INFO", "stats")
    return int(text.split(b"total_reads_processed:")[1].split()[0])


async def test_a_script_unknown_to_the_server_is_sent(store: Redis, redis_server: RedisServer) -> None:
    assert await asyncio.gather(*(store.run(COUNT, ("n",), (1,)) for _ in range(20))) == list(range(1, 21))
    redis_server.empty()
    assert await store.run(COUNT, ("n",), (5,)) == 5


async def test_a_restart_is_found_by_the_next_command(store: Redis, redis_server: RedisServer) -> None:
    await asyncio.gather(*(store.execute("PING") for _ in range(10)))
    redis_server.kill()
    redis_server.start()
    await asyncio.sleep(0)
    assert await eventually(lambda: _answers(store), 2.0)


async def _answers(store: Redis) -> bool:
    try:
        return bool(await store.execute("PING") == b"PONG")
    except (Unavailable, Unknown):
        return False


async def test_no_server_is_certain(store: Redis, redis_server: RedisServer) -> None:
    nobody = Redis(f"redis://127.0.0.1:{free_port()}/0", 1.0)
    with pytest.raises(Unavailable):
        await nobody.execute("PING")
    await nobody.close()


async def test_silence_is_not_certain_and_bounded(redis_server: RedisServer) -> None:
    store = Redis(redis_server.url, 0.1)
    await store.execute("PING")
    redis_server.freeze()
    start = time.monotonic()
    results = await asyncio.gather(*(store.execute("INCR", "n") for _ in range(1_000)), return_exceptions=True)
    assert time.monotonic() - start < 2.0
    assert {type(result) for result in results} == {Unknown, Unavailable}
    redis_server.thaw()
    assert await eventually(lambda: _answers(store), 2.0)
    await store.close()


async def test_the_queue_is_bounded(store: Redis) -> None:
    calls = [asyncio.create_task(store.execute("PING")) for _ in range(MAX_WAITING + 10)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert len([result for result in results if isinstance(result, Unavailable)]) == 10
    assert await store.execute("PING") == b"PONG"


async def test_a_cancelled_command_leaves_the_others_their_replies(store: Redis) -> None:
    calls = [asyncio.create_task(store.execute("ECHO", str(i))) for i in range(300)]
    await asyncio.sleep(0)
    for call in calls[::3]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    for number, result in enumerate(results):
        assert isinstance(result, asyncio.CancelledError) if number % 3 == 0 else result == str(number).encode()


async def test_close_refuses_what_comes_later(redis_server: RedisServer) -> None:
    store = Redis(redis_server.url, 1.0)
    await asyncio.gather(*(store.execute("PING") for _ in range(10)))
    await store.close()
    await store.close()
    with pytest.raises(Unavailable):
        await store.execute("PING")
    assert len(asyncio.all_tasks()) == 1

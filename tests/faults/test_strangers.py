"""Strangers at a gateway's WebSocket port: floods, half-open and slow handshakes, garbage. Each costs a bounded share,
and who belongs there is served meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from benchmarks.native.upgrade import loopback, proxy_v2, upgrade
from tests.support.own import OwnGateway
from tests.support.polling import eventually
from tests.support.stack import Person, Stack
from tests.support.strangers import Cost, Strangers, Unharmed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MIB = 1024 * 1024
RATE, AT_ONCE, LONGEST_S = 200, 50, 5
BALANCER = "127.0.0.9"
PER_ADDRESS = 20


@pytest.fixture(scope="module")
def somebody(stack_session: Stack) -> Person:
    stack_session.heal()
    return stack_session.register()


@pytest.fixture
def quiet_port(stack_session: Stack) -> int:
    """Of a gateway at which no stranger is."""
    return int(stack_session.ports["gateway-2.own_ws"])


@pytest.fixture(scope="module")
def guarded(somebody: Person, stack_session: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnGateway]:
    """A gateway with low limits, behind a balancer that speaks PROXY."""
    limits = {"handshakes_per_s": RATE, "handshakes_at_once": AT_ONCE, "retry_after_max_s": LONGEST_S}
    proxies = {"trusted_proxies": f'["{BALANCER}"]', "ws_client_address": "proxy"}
    made = OwnGateway(
        stack_session,
        tmp_path_factory.mktemp("guarded"),
        connections_per_address=PER_ADDRESS,
        **limits,
        **proxies,
    )
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def unguarded(somebody: Person, stack_session: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnGateway]:
    """A gateway that admits handshakes as fast as they come."""
    made = OwnGateway(stack_session, tmp_path_factory.mktemp("unguarded"), handshakes_per_s=0)
    made.start()
    yield made
    made.kill()


async def test_a_flood_is_admitted_at_the_rate_and_the_rest_is_told_when_to_come_back(
    guarded: OwnGateway, somebody: Person, quiet_port: int
) -> None:
    cost, flood = Cost(guarded.pid), 6_000
    async with (
        Strangers(guarded.ws_port, flood) as strangers,
        Unharmed(guarded.ws_port, quiet_port, somebody.token) as others,
    ):
        await strangers.begin([upgrade(token=somebody.token)], flood, loopback(2_000), rate=4_000)
        assert await strangers.run(30)
        told, cpu_s, grown = await strangers.told(), cost.cpu_s, cost.grown_bytes
        await others.told_enough()
    failures, waits = told["failures"], told["retry_after"]
    refused = failures["http"].get("503", 0)
    assert told["opened"] + refused == flood, failures
    assert told["opened"] <= AT_ONCE + RATE * told["wall_s"] + 1
    assert waits["seen"] == refused
    assert waits["most_ms"] <= 1000 * LONGEST_S
    assert cpu_s / flood < 0.0005
    assert grown < 32 * MIB
    others.check()


async def test_an_address_has_so_many_connections_behind_the_balancer_too(
    guarded: OwnGateway, somebody: Person
) -> None:
    """What a balancer says of a client counts; what a stranger says of himself does not even look like HTTP."""
    request = upgrade(token=somebody.token)
    behind = proxy_v2("198.51.100.7", 1, BALANCER, 2) + request
    beside = proxy_v2("198.51.100.8", 1, BALANCER, 2) + request
    async with Strangers(guarded.ws_port, 1_000) as strangers:

        async def tried(data: bytes, source: str, count: int) -> dict[str, int]:
            await strangers.begin([data], count, [source], rate=RATE / 2)
            assert await strangers.run(10)
            told = await strangers.told()
            return {"101": told["opened"], **told["failures"]["http"]}

        assert await tried(behind, BALANCER, 30) == {"101": PER_ADDRESS, "429": 10}
        assert await tried(beside, BALANCER, 5) == {"101": 5}
        assert await tried(request, "127.0.0.10", 30) == {"101": PER_ADDRESS, "429": 10}
        assert await tried(beside, "127.0.0.11", 5) == {"101": 0, "400": 5}
        assert await tried(request, BALANCER, 5) == {"101": 0, "400": 5}


async def test_five_thousand_slow_handshakes_end_at_the_deadline(
    unguarded: OwnGateway, somebody: Person, quiet_port: int
) -> None:
    cost, count = Cost(unguarded.pid), 5_000
    async with (
        Strangers(unguarded.ws_port, count) as strangers,
        Unharmed(unguarded.ws_port, quiet_port, somebody.token, anew=True) as others,
    ):
        numbers = await strangers.begin([upgrade()[:-2]], count, loopback(100), rate=4_000)
        assert not await strangers.run(2)
        (hanging,) = await strangers.tell("states", numbers=numbers)
        grown = cost.grown_bytes
        # One byte more of each: that is no reason to wait longer.
        await strangers.tell("send", numbers=numbers, payload=b"x", count=count, raw=True, answer=None, order="round")
        assert await strangers.run(15)
        told = await strangers.told()
        await others.told_enough()
    assert hanging["handshake"] > count / 2, hanging
    assert grown / hanging["handshake"] < 8_192
    assert told["failures"]["http"] == {"408": count}
    assert cost.cpu_s < 5.0
    others.check()


async def test_a_hundred_thousand_half_open_attempts_leave_nothing(
    unguarded: OwnGateway, somebody: Person, quiet_port: int
) -> None:
    """Some send nothing, some a part; some leave, some reset, some stay until they are thrown out. As fast as they can
    be accepted: a wave comes when the one before is in.
    """
    cost, sources, waves, wave = Cost(unguarded.pid), loopback(400), 100, 1_000
    requests, peak = [b"", b"G", upgrade()[:40], upgrade()[:-1], b"", upgrade()[:-3], b"GET "], 0
    async with (
        Strangers(unguarded.ws_port, waves * wave) as strangers,
        Unharmed(unguarded.ws_port, quiet_port, somebody.token, anew=True) as others,
    ):
        for _ in range(waves):
            numbers = await strangers.begin(requests, wave, sources, raw=True)
            await strangers.run(10)
            for n, how in enumerate(("fin", "rst", "half", "abandon")):
                await strangers.tell("end", numbers=numbers[n::5], how=how)
            await others.caught_up()
            peak = max(peak, cost.grown_bytes)
        cpu_s, told = cost.cpu_s, await strangers.told()
        await eventually(lambda: unguarded.gauge("websockets") < 20, 15, "they are gone")
        await others.told_enough()
    assert told["opened"] == waves * wave, told["failures"]
    assert peak < 64 * MIB
    assert cost.grown_bytes < 32 * MIB
    assert cpu_s / (waves * wave) < 0.0005
    others.check()


GARBAGE = {
    "tls": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(27),
    "huge header": b"GET /v1/ws HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 60_000,
    "many headers": b"GET /v1/ws HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    "no end": b"x" * 20_000,
    "a body": b"POST /v1/ws HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n" + b"x" * 60_000,
    "frames": b"\x81\x85\x00\x00\x00\x00hello" * 900,
}


async def test_garbage_is_told_so_over_http_and_logged_by_nobody(unguarded: OwnGateway) -> None:
    """None of it waits for the deadline (408) either."""
    chance = random.Random(7)
    ending = [chance.randbytes(chance.randint(1, 3_000)) + b"\r\n\r\n" for _ in range(400)]
    said = len(unguarded.said)
    async with Strangers(unguarded.ws_port, 500) as strangers:
        await strangers.begin([*GARBAGE.values(), *ending], 500, ["127.0.0.1"], at_once=100)
        assert await strangers.run(15)
        failures = (await strangers.told())["failures"]
    assert failures["http"].keys() <= {"400", "405", "426", "431", "505"}
    assert sum(failures["http"].values()) == 500, failures
    assert unguarded.said[said:] == ""

"""Thousands of clients that read nothing while their answers run on: what they cost, whom they harm, how they end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.native.engine import Engine
from benchmarks.native.latency import merge
from benchmarks.native.upgrade import ACCEPT, upgrade
from tests.mockllm.control import MockControl
from tests.mockllm.script import Script
from tests.support.client import Device, Shown, User
from tests.support.own import OwnGateway, OwnRouter, long_model
from tests.support.polling import eventually
from tests.support.questions import new_mark
from tests.support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

STUCK = 5_000
CURIOUS = 100
ANSWERS = 10
PIECES, PIECE_BYTES, PIECE_MS = 100, 3_000, 30.0
TEXT_BYTES = PIECES * PIECE_BYTES
PINGERS = 20
PING = b'{"type":"ping","t":1000000000000000000}'
HEARTBEAT_S = 2.0
STUCK_S = 6.0
LINGER_S = 5.0
# What one of them may hold: here, above `write_high` (16 KiB) and the frame that passed it (32 KiB), its session; in
# the kernel, at both ends of the loopback, no more than its send buffer (64 KiB, which Linux doubles) and what its
# own receive buffer of 4 KiB takes.
HERE_KIB = 64.0
# What other tests on the same cores may add to a ping's p99; alone it is a few milliseconds.
BUSY_MS = 1_000.0
KERNEL_KIB = 144.0


@pytest.fixture
def gateway(stack: Stack, tmp_path: Path) -> Iterator[OwnGateway]:
    """A gateway with room for them, and a router that serves only it."""
    limits = {"heartbeat_s": HEARTBEAT_S, "stuck_s": STUCK_S, "connections_per_user": 20_000, "handshakes_per_s": 0}
    made = OwnGateway(stack, tmp_path, common={"pool": "slow"}, **limits)
    router = OwnRouter(stack, tmp_path, pool="slow")
    with long_model(stack):
        try:
            router.start()
            made.start()
            yield made
        finally:
            made.kill()
            router.kill()


class Growth:
    """The most that the gateway and the kernel's TCP sockets have grown by, in KiB, while it is `watched`."""

    def __init__(self, gateway: OwnGateway) -> None:
        self._process = psutil.Process(gateway.pid)
        self._from = self._now()
        self.here_kib = self.kernel_kib = 0.0

    def _now(self) -> tuple[int, int]:
        fields = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
        words = fields.split()
        return self._process.memory_info().rss, int(words[words.index("mem") + 1]) * 4096

    def look(self) -> None:
        here, kernel = self._now()
        self.here_kib = max(self.here_kib, (here - self._from[0]) / 1024)
        self.kernel_kib = max(self.kernel_kib, (kernel - self._from[1]) / 1024)

    async def watch(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(0.1)  # between two looks


async def asked(device: Device, user: User, mock: MockControl, gate: str) -> Shown:
    """A long answer that waits at the gate after its first piece."""
    mark = new_mark()
    text = " ".join(f"{mark}{number:04d}".ljust(PIECE_BYTES - 1, "x") for number in range(PIECES))
    await mock.script(Script(text=text, chunks=PIECES, delay_ms=PIECE_MS, gate=gate, gate_after=1), contains=mark)
    return await device.send(await user.conversation(), mark, model="long")


async def stuck(engine: Engine, gateway: OwnGateway, token: str, answers: list[Shown]) -> range:
    """Connections that have asked for one of the answers each, and read nothing from then on."""
    target = [("127.0.0.1", gateway.ws_port)]
    numbers = engine.prepare(target, [upgrade(token=token)], count=STUCK, accept=ACCEPT, rcvbuf=4096, timeout_s=30)
    for index, answer in enumerate(answers):
        hello = {"type": "resume", "generation_id": answer.generation_id, "epoch": 0, "seq": -1}
        engine.set_hello(numbers[index :: len(answers)], json.dumps(hello).encode())
    engine.open(numbers, at_once=200)
    assert await asyncio.to_thread(engine.run, 30.0)
    await eventually(lambda: told(engine, STUCK * 99 // 100), 30.0, "nearly all watch")
    assert engine.states(numbers) == {"open": STUCK}, engine.statistics()
    engine.stop_reading(numbers)
    return numbers


async def told(engine: Engine, count: int) -> bool:
    await asyncio.to_thread(engine.run, 0.2, until="time")
    types = engine.statistics()["types"]
    return bool(types.get("resumed", 0) + types.get("snapshot", 0) >= count)


async def pinged(engine: Engine, numbers: range, seconds: float) -> float:
    """The p99 of pings on these connections in milliseconds, 200 a second."""
    engine.reset()
    engine.send(numbers, PING, rate=200, count=int(seconds * 200), answer=b'{"type":"pong"', stamp_at=19)
    assert await asyncio.to_thread(engine.run, seconds + 15)
    assert engine.statistics()["unanswered"] == 0
    return merge([engine.histograms()])["answer"].at(99)


async def test_five_thousand_who_read_nothing(
    user: User, mock: MockControl, gateway: OwnGateway, record_property: Callable[[str, object], None]
) -> None:
    gate, engine, others = new_mark(), Engine(STUCK), Engine(PINGERS)
    device = await user.connect(url=gateway.ws_url)
    answers = [await asked(device, user, mock, gate) for _ in range(ANSWERS)]
    await mock.reached(gate, ANSWERS)
    bound = [("127.0.0.1", gateway.ws_port)]
    pingers = others.prepare(bound, [upgrade(token=user.person.token)], count=PINGERS, accept=ACCEPT)
    others.open(pingers)
    assert others.run(20)
    numbers = await stuck(engine, gateway, user.person.token, answers)
    before_ms = await pinged(others, pingers, 1.5)

    growth = Growth(gateway)
    watching = asyncio.create_task(growth.watch())
    await mock.open_gate(gate)
    began = time.monotonic()
    during_ms = await pinged(others, pingers, 3.0)
    for answer in answers:
        await device.finish(answer)
        assert (answer.ended, len(answer.text)) == ("done", TEXT_BYTES - 1), "a reader among them is served as ever"
    growth.look()
    watching.cancel()
    record_property("kib_here_each", round(growth.here_kib / STUCK, 1))
    record_property("kib_in_kernel_each", round(growth.kernel_kib / STUCK, 1))
    record_property("ping_p99_ms", f"{before_ms:.1f} before, {during_ms:.1f} during")
    assert growth.here_kib < STUCK * HERE_KIB
    assert growth.here_kib < STUCK * TEXT_BYTES / 1024 / 4, "a place in a shared text, not a copy"
    assert growth.kernel_kib < STUCK * KERNEL_KIB
    assert during_ms < 10 * before_ms + BUSY_MS

    # All are closed once they were stuck for too long; who reads on while a closed socket lingers learns why.
    await asyncio.sleep(max(0.0, began + STUCK_S + 2.0 - time.monotonic()))  # their deadline
    engine.reset()
    engine.read_on(numbers[:CURIOUS])
    await asyncio.to_thread(engine.run, LINGER_S, until="time")
    closes = engine.statistics()["closes"]
    await eventually(lambda: gateway.gauge("websockets") == 1 + PINGERS, LINGER_S + 15.0, "none of them is left")
    record_property("closes", str(closes))
    assert closes.get("4408", 0) > CURIOUS / 2, closes
    assert set(closes) <= {"4408", "1006"}
    assert "Traceback" not in gateway.said

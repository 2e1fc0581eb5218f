"""A gateway that is out of file descriptors: who comes is told so, who is there is served, and nothing spins."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import psutil
import pytest

from benchmarks.native.upgrade import loopback, upgrade
from tests.hostile.sockets import Socket
from tests.support.own import OwnGateway
from tests.support.polling import eventually
from tests.support.stack import Stack
from tests.support.strangers import Cost, Strangers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

FILES = 300
WAITS_S = 2.0


async def answers(opened: Socket) -> None:
    opened.tell({"type": "ping", "t": 1})
    await opened.of("pong")


async def test_out_of_files_the_new_are_told_and_the_old_are_served(stack: Stack, tmp_path: Path) -> None:
    """First with the files that it keeps for its own, then with none at all, so that accepting itself fails."""
    token = stack.register().token
    gateway = OwnGateway(stack, tmp_path, files=FILES, handshakes_per_s=0, connections_per_user=1_000)
    await asyncio.to_thread(gateway.start)
    try:
        await survived(gateway, token)
    finally:
        gateway.kill()


async def survived(gateway: OwnGateway, token: str) -> None:
    old = await Socket.open(gateway.ws_port, token)
    process = psutil.Process(gateway.pid)
    async with Strangers(gateway.ws_port, 2_000) as strangers:

        async def tried(count: int) -> dict[str, int]:
            await strangers.begin([upgrade(token=token)], count, loopback(20), at_once=50)
            assert await strangers.run(20)
            told = await strangers.told()
            assert told["retry_after"]["seen"] == told["failures"]["http"].get("503", 0)
            return {"101": told["opened"], **told["failures"]["http"]}

        # With the reserve for everything else in the process.
        told = await tried(500)
        assert told["101"] + told["503"] == 500, told
        assert 50 < told["101"] < FILES
        assert process.num_fds() < FILES - 10
        await answers(old)
        # With no file at all: one is kept to tell the next with.
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (process.num_fds() - 20, FILES))
        assert await tried(300) == {"101": 0, "503": 300}
        await answers(old)
        cost = Cost(gateway.pid)
        await asyncio.sleep(WAITS_S)  # is anything busy while nothing comes
        assert cost.cpu_s < WAITS_S / 4, "it spins"
        await answers(old)
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
    await eventually(lambda: gateway.gauge("websockets") < 5, 10, "they are gone")
    again = await Socket.open(gateway.ws_port, token)
    await answers(again)
    for one in (old, again):
        one.reset()

"""The scripted provider as a process of its own, and a client for its control endpoints."""

import asyncio
import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import msgspec

from tests.mockllm.log import Call
from tests.mockllm.script import Queued, Script

_STOP_S = 5


class MockControl:
    """Scripts, gates and the log of a provider at `url` (without `/v1`). Close it after use."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session = aiohttp.ClientSession()

    @property
    def base_url(self) -> str:
        return self.url + "/v1"

    async def close(self) -> None:
        await self._session.close()

    async def script(self, *scripts: Script, model: str | None = None, contains: str | None = None) -> None:
        """Queue scripts for the following calls."""
        await self._call("POST", "/_script", msgspec.json.encode(Queued(list(scripts), model, contains)))

    async def open_gate(self, name: str) -> None:
        await self._call("POST", f"/_gate/{name}")

    async def reached(self, name: str, count: int = 1) -> None:
        """Return when `count` calls wait at the gate; raises after 30 s."""
        await self._call("GET", f"/_gate/{name}?waiting={count}")

    async def calls(self) -> list[Call]:
        return msgspec.convert((await self._call("GET", "/_log"))["calls"], list[Call])

    async def ended(self, call_id: int) -> Call:
        """The call once it has ended; raises after 30 s."""
        answer = await self._call("GET", f"/_log?ended={call_id}")
        return next(call for call in msgspec.convert(answer["calls"], list[Call]) if call.id == call_id)

    async def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        async with self._session.request(method, self.url + path, data=body) as response:
            answer = await response.json()
            if response.status != 200:
                raise RuntimeError(f"{method} {path}: {answer['error']['message']}")
            return answer


class MockProcess:
    """`async with MockProcess() as control`: the provider in its own process, stopped at the end."""

    def __init__(self, *, log: Path | None = None, port: int = 0, key: str = "") -> None:
        self._arguments = ["--port", str(port), "--key", key, *(["--log", str(log)] if log is not None else [])]
        self._process: asyncio.subprocess.Process | None = None
        self._control: MockControl | None = None

    async def __aenter__(self) -> MockControl:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.mockllm.server",
            *self._arguments,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 10)
        self._control = MockControl(f"http://127.0.0.1:{json.loads(line)['port']}")
        return self._control

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._control is not None:
            await self._control.close()
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

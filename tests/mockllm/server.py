"""A scripted model provider over real HTTP, speaking OpenAI's chat completions.

    python -m tests.mockllm.server --port 0 --log calls.jsonl

prints `{"port": N}` once it listens. In a test: `async with MockLLM() as mock`. What it answers: script.py; how it
counts tokens: words.py. Beside `/v1/chat/completions` and `/v1/models`:

    POST /_script {"scripts": [...], "model"?, "contains"?}   scripts for the following calls; DELETE forgets them
    GET /_log             {"calls": [...]}; ?ended=ID waits (30 s) until that call has ended; DELETE forgets ended calls
    POST /_gate/NAME      opens a gate; GET tells {"open", "waiting"}; ?waiting=N waits (30 s) until N calls wait there
"""

import argparse
import asyncio
import contextlib
import hmac
import json
import signal
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs

import msgspec
import uvloop

from tests.mockllm.completions import refuse, serve_chat
from tests.mockllm.gates import Gate, Gates
from tests.mockllm.http1 import Connection, Exchange
from tests.mockllm.log import Call, Log
from tests.mockllm.script import DEFAULT, PRESETS, Queued, Script, Scripts

_LONG_POLL_S = 30


class MockLLM:
    """The server. `key` given: calls must carry it as a bearer token. `default`: for calls nothing else is said for."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        log: Path | None = None,
        key: str = "",
        default: Script = DEFAULT,
    ) -> None:
        self._host = host
        self.port = port
        self._key = key
        self.log = Log(log)
        self.scripts = Scripts(default)
        self.gates = Gates()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        return f"http://{self._host}:{self.port}/v1"

    @property
    def connections(self) -> int:
        """Open TCP connections."""
        return len(self._connections)

    async def __aenter__(self) -> "MockLLM":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._handle, self._connections), self._host, self.port, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*(connection.stop() for connection in tuple(self._connections)))
        self.log.close()

    def script(self, *scripts: Script, model: str | None = None, contains: str | None = None) -> None:
        """Queue scripts for the following calls."""
        self.scripts.queue(Queued(list(scripts), model, contains))

    def gate(self, name: str) -> Gate:
        return self.gates.get(name)

    def calls(self) -> list[Call]:
        return self.log.calls()

    async def ended(self, call_id: int, timeout: float = 10) -> Call:
        """The call, once it has ended. Raises KeyError, TimeoutError."""
        running = self.log.running(call_id)
        async with asyncio.timeout(timeout):
            await running.ended.wait()
        return running.snapshot()

    async def _handle(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.path.startswith("/_"):
            return await self._control(exchange)
        if self._key:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
                return refuse(exchange, 401, "Incorrect API key provided.", code="invalid_api_key")
        if request.path == "/v1/chat/completions":
            if request.method != "POST":
                return refuse(exchange, 405, "Only POST is allowed here.")
            return await serve_chat(exchange, self.log, self.scripts, self.gates)
        if request.path == "/v1/models" and request.method == "GET":
            names = ["mock", *(f"mock-{preset}" for preset in PRESETS)]
            models = [{"id": n, "object": "model", "created": 1700000000, "owned_by": "mockllm"} for n in names]
            return exchange.respond(200, msgspec.json.encode({"object": "list", "data": models}))
        refuse(exchange, 404, f"Unknown request URL: {request.method} {request.path}.", code="unknown_url")

    async def _control(self, exchange: Exchange) -> None:
        request = exchange.request
        query = {name: values[-1] for name, values in parse_qs(request.query).items()}
        answer: object = {}
        try:
            match request.method, request.path.split("/")[1:]:
                case "POST", ["_script"]:
                    self.scripts.queue(msgspec.json.decode(request.body, type=Queued))
                case "DELETE", ["_script"]:
                    self.scripts.clear()
                case "GET", ["_log"]:
                    if "ended" in query:
                        await self.ended(int(query["ended"]), _LONG_POLL_S)
                    answer = {"calls": self.calls()}
                case "DELETE", ["_log"]:
                    self.log.clear()
                case "POST", ["_gate", name]:
                    self.gate(name).open()
                case "GET", ["_gate", name]:
                    gate = self.gate(name)
                    if "waiting" in query:
                        await gate.reached(int(query["waiting"]), _LONG_POLL_S)
                    answer = {"open": gate.is_open, "waiting": gate.waiting}
                case _:
                    return refuse(exchange, 404, f"Unknown request URL: {request.method} {request.path}.")
        except TimeoutError:
            return refuse(exchange, 408, "It did not happen in time.")
        except (msgspec.DecodeError, ValueError, KeyError) as error:
            return refuse(exchange, 400, f"Invalid request: {error}")
        exchange.respond(200, msgspec.json.encode(answer))


async def _main(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with MockLLM(host=arguments.host, port=arguments.port, log=arguments.log, key=arguments.key) as mock:
        print(json.dumps({"port": mock.port}), flush=True)  # noqa: T201 - how the caller learns the port
        await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible provider for tests and benchmarks")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--log", type=Path, help="append one JSON line for each call to this file")
    parser.add_argument("--key", default="", help="the API key that calls must carry")
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()

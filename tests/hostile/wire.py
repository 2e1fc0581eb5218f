"""An HTTP/1.1 client that sends whatever it is told to, and reads the answer as strictly as HTTP allows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

ANSWER_S = 15.0
LARGEST = 4 * 1024 * 1024

Headers = Sequence[tuple[str, str | bytes]]
T = TypeVar("T")


class Answer(NamedTuple):
    """`headers` by lower-case name; `closing`: the server ends the connection after it."""

    status: int
    headers: dict[str, str]
    body: bytes
    closing: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The error's code; None where the answer is no refusal."""
        return self.json["error"]["code"] if self.status >= 400 else None


class Cut(Exception):
    """The server ended the connection without an answer."""


class Http:
    """One connection, kept for as long as the server keeps it: what follows a refusal travels on the same one."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._address = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(
        self,
        method: str,
        target: str | bytes,
        headers: Headers = (),
        body: bytes = b"",
        *,
        chunks: Iterable[bytes] = (),
    ) -> Answer:
        """One request. `chunks` are sent as a chunked body, each as one chunk, instead of `body`."""
        given = {name.lower() for name, _ in headers}
        lines = [_bytes(method) + b" " + _bytes(target) + b" HTTP/1.1"]
        if "host" not in given:
            lines.append(f"Host: {self._address[0]}:{self._address[1]}".encode())
        lines += [name.encode() + b": " + _bytes(value) for name, value in headers]
        parts = list(chunks)
        if parts:
            lines.append(b"Transfer-Encoding: chunked")
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        elif "content-length" not in given and (body or method in ("POST", "PUT", "PATCH")):
            lines.append(b"Content-Length: %d" % len(body))
        return await self.raw(b"\r\n".join(lines) + b"\r\n\r\n" + body, method)

    async def raw(self, request: bytes, method: str = "GET") -> Answer:
        """These bytes. A kept connection that turns out to be closed is opened once more, as clients do."""
        kept = self._writer is not None
        async with asyncio.timeout(ANSWER_S):
            try:
                return await self._exchange(request, method)
            except Cut:
                if not kept:
                    raise
                return await self._exchange(request, method)

    async def _exchange(self, request: bytes, method: str) -> Answer:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address, limit=LARGEST)
        reader, writer = self._reader, self._writer
        # The answer may come, and the connection end, before all was sent: reading does not wait for writing.
        writer.write(request)
        try:
            answer = await _read(reader, method)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            await self.close()
            raise Cut(f"no answer to {request[:200]!r}") from error
        if answer.closing:
            await self.close()
        return answer

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


async def _read(reader: asyncio.StreamReader, method: str) -> Answer:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, status, *_ = head[0].split(" ")
        assert version in ("HTTP/1.1", "HTTP/1.0"), head[0]
        if not status.startswith("1"):
            break
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    closing = headers.get("connection", "").lower() == "close" or version == "HTTP/1.0"
    if method == "HEAD" or status in ("204", "304"):
        return Answer(int(status), headers, b"", closing)
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        assert await reader.readline() == b"\r\n"
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body, closing = await reader.read(), True
    return Answer(int(status), headers, body, closing)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[Http]:
    made = Http(port)
    try:
        yield made
    finally:
        await made.close()


async def each(port: int, cases: Iterable[T], check: Callable[[Http, T], Awaitable[None]], at_once: int = 8) -> None:
    """Runs `check` for every case, on a few connections at once. Raises one error that names all cases that failed."""
    waiting = iter(cases)
    failures: list[Exception] = []

    async def work() -> None:
        async with connection(port) as http:
            for case in waiting:
                try:
                    await check(http, case)
                except Exception as error:
                    error.add_note(f"case: {str(case)[:400]}")
                    failures.append(error)
                    await http.close()

    await asyncio.gather(*(work() for _ in range(at_once)))
    if failures:
        raise ExceptionGroup(f"{len(failures)} cases", failures[:20])

"""Talking to a running `parley up`: one JSON line asks, one answers, over a socket that only its owner can open."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from cli.layout import Layout

ANSWER_S = 60.0
MAX_LINE = 64 * 1024

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class NotRunning(Exception):
    """No `parley up` runs on this data folder."""


class Refused(Exception):
    """The running `parley up` could not do it; the message says why."""


@contextlib.contextmanager
def _short_path(layout: Layout) -> Iterator[str]:
    # A socket's path may have 107 characters only; through a descriptor of its folder it is always short.
    descriptor = os.open(layout.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{layout.control}"
    finally:
        os.close(descriptor)


@contextlib.asynccontextmanager
async def listening(layout: Layout, handler: Handler) -> AsyncIterator[None]:
    """Answers requests until the context ends. A `ValueError` of the handler is told to who asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            try:
                answer = await handler(json.loads(await reader.readuntil(b"\n")))
            except ValueError as error:
                answer = {"error": str(error)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    path = layout.run / layout.control
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short_path(layout) as short:
        listener.bind(short)
    path.chmod(0o600)
    server = await asyncio.start_unix_server(serve, sock=listener, limit=MAX_LINE)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        server.close()


def ask(layout: Layout, request: dict[str, Any], within_s: float = ANSWER_S) -> dict[str, Any]:
    """The answer of the running `parley up`. Raises `NotRunning`, `Refused`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(within_s)
        try:
            with _short_path(layout) as short:
                connection.connect(short)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline(16 * MAX_LINE)
        except OSError as error:
            raise NotRunning(f"no `parley up` runs on {layout.data}: {error.strerror or error}") from error
    if not line:
        raise NotRunning(f"`parley up` on {layout.data} is ending")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise Refused(answer["error"])
    return answer


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=Path(".parley"), metavar="DIR", help="its data (default: .parley)")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", help="its name, as `parley status` shows it")
    add_data(parser)


def run(args: argparse.Namespace) -> int:
    """`parley stop PART`, `parley start PART`: return when it is done."""
    try:
        answer = ask(Layout(args.data), {"do": args.command, "part": args.part})
    except (NotRunning, Refused) as error:
        print(f"parley: {error}", file=sys.stderr)
        return 1
    print(f"{answer['part']}: {answer['state']}")
    return 0

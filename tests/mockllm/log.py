"""What was served: one record for each call, in memory and as JSON lines."""

import asyncio
import time
from collections import deque
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec

from tests.mockllm.words import count_tokens

Ending = Literal["done", "refused", "scripted", "client_closed", "server_stopped"]


class Call(msgspec.Struct, kw_only=True):
    """One call of `/v1/chat/completions`. Times are Unix seconds.

    `text` and `reasoning` are exactly what was handed to the socket, `deltas` how many pieces that were, tokens
    are counted over it whether or not usage was reported. `end` is None while the call runs.
    """

    id: int
    opened: float
    model: str
    stream: bool
    messages: list[Any]
    headers: dict[str, str]
    status: int = 200
    text: str = ""
    reasoning: str = ""
    deltas: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usage_reported: bool = False
    finish: str | None = None
    end: Ending | None = None
    fault: str | None = None
    closed: float | None = None


class RunningCall:
    """A call while it is served; pieces are joined only when someone looks."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.text: list[str] = []
        self.reasoning: list[str] = []
        # Text of tool calls, counted as tokens but no part of the answer's text.
        self.other: list[str] = []
        self.ended = asyncio.Event()

    def snapshot(self) -> Call:
        call = self.call
        if call.end is None:
            call.text, call.reasoning = "".join(self.text), "".join(self.reasoning)
            call.completion_tokens = count_tokens(call.text + call.reasoning + "".join(self.other))
        return call


class Log:
    """The last `keep` calls, the running ones, and the file."""

    def __init__(self, path: Path | None = None, keep: int = 10_000) -> None:
        self._file: TextIO | None = path.open("a", encoding="utf-8") if path is not None else None
        self._calls: deque[RunningCall] = deque(maxlen=keep)
        self._next_id = 1

    def open(self, **fields: Any) -> RunningCall:
        running = RunningCall(Call(id=self._next_id, opened=time.time(), **fields))
        self._next_id += 1
        self._calls.append(running)
        return running

    def end(self, running: RunningCall, end: Ending, fault: str | None = None) -> None:
        """Record how a call ended; only the first ending counts."""
        if running.call.end is not None:
            return
        call = running.snapshot()
        call.end, call.fault, call.closed = end, fault, time.time()
        running.ended.set()
        if self._file is not None:
            self._file.write(msgspec.json.encode(call).decode() + "\n")
            self._file.flush()

    def calls(self) -> list[Call]:
        """All remembered calls, oldest first."""
        return [running.snapshot() for running in self._calls]

    def running(self, call_id: int) -> RunningCall:
        """Raises KeyError for a call that is unknown or forgotten."""
        for running in reversed(self._calls):
            if running.call.id == call_id:
                return running
        raise KeyError(call_id)

    def clear(self) -> None:
        """Forget the calls that have ended."""
        self._calls = deque((r for r in self._calls if r.call.end is None), maxlen=self._calls.maxlen)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

"""`POST /v1/chat/completions` as OpenAI answers it, played from a script."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import msgspec

from tests.mockllm import words
from tests.mockllm.gates import Gates
from tests.mockllm.http1 import Exchange
from tests.mockllm.log import Call, Log, RunningCall
from tests.mockllm.script import Script, ScriptError, Scripts

MAX_ENDLESS_BYTES = 16 << 20
_WRITES_PER_TURN = 32
_COMMENTS_S = 0.02
_AFTER_HEAD = ("malformed", "error")
_encode = msgspec.json.encode


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class ChatRequest(msgspec.Struct):
    model: str
    messages: list[dict[str, Any]]
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class _ScriptedEnd(Exception):
    """The script ended the call; it is logged already."""


def refuse(
    exchange: Exchange, status: int, message: str, *, code: str | None = None, script: Script | None = None
) -> None:
    """An error in OpenAI's shape."""
    kind = {400: "invalid_request_error", 401: "invalid_request_error", 404: "invalid_request_error"}
    error_type = "rate_limit_error" if status == 429 else kind.get(status, "server_error")
    error = {"message": message, "type": error_type, "param": None, "code": code}
    headers = {"x-request-id": "req_mock"}
    if script is not None and script.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(script.retry_after_s)))
        headers["retry-after-ms"] = str(round(script.retry_after_s * 1000))
    exchange.respond(status, _encode({"error": error}), headers)


async def serve_chat(exchange: Exchange, log: Log, scripts: Scripts, gates: Gates) -> None:
    """Answer one call and log it."""
    try:
        request = msgspec.json.decode(exchange.request.body, type=ChatRequest)
        contents = [_content(message) for message in request.messages]
        if not contents:
            raise msgspec.ValidationError("messages must not be empty")
        last_user = next(
            (c for m, c in zip(reversed(request.messages), reversed(contents), strict=True) if m["role"] == "user"),
            "",
        )
        script = scripts.choose(request.model, last_user)
    except (msgspec.DecodeError, UnicodeDecodeError, ScriptError, KeyError) as error:
        return refuse(exchange, 400, f"Invalid request: {error}")
    headers = exchange.request.headers
    running = log.open(
        model=request.model,
        stream=request.stream,
        messages=request.messages,
        headers={name: value for name, value in headers.items() if name.startswith("x-parley-")},
        prompt_tokens=words.prompt_tokens(contents),
    )
    player = _Player(exchange, running, request, script, log, gates, seed_text=last_user)
    try:
        await player.play()
    except _ScriptedEnd:
        pass
    finally:
        fault = script.fail if running.call.end is None else None
        log.end(running, "client_closed" if exchange.gone else "server_stopped", fault)


def _content(message: dict[str, Any]) -> str:
    """The text of a message, whose content may be a list of parts. Raises KeyError without a role."""
    if not isinstance(message["role"], str):
        raise msgspec.ValidationError("role must be a string")
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


class _Player:
    """Plays one script to one client."""

    def __init__(
        self,
        exchange: Exchange,
        running: RunningCall,
        request: ChatRequest,
        script: Script,
        log: Log,
        gates: Gates,
        *,
        seed_text: str,
    ) -> None:
        self._exchange = exchange
        self._running = running
        self._call: Call = running.call
        self._request = request
        self._script = script
        self._log = log
        self._gates = gates
        self._seed = script.seed if script.seed is not None else crc32(seed_text.encode("utf-8"))
        self._fault_at = max(script.after, 0) if script.fail in _AFTER_HEAD else script.after
        self._stops = {script.gate_after if script.gate else None}
        if script.fail not in (None, "no_done", "no_finish"):
            self._stops.add(self._fault_at)
        self._truncated = False
        options = request.stream_options
        self._with_usage = options is not None and options.include_usage and script.usage
        self._eol = b"\r\n" if script.crlf else b"\n"
        self._writes = 0
        self._frame()

    def _frame(self) -> None:
        head = {
            "id": f"chatcmpl-mock{self._call.id:08d}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self._request.model,
            "service_tier": "default",
            "system_fingerprint": "fp_mock",
        }
        self._head_fields = head
        comment = b": keep-alive" + self._eol * 2 if self._script.comments else b""
        self._chunk_head = comment + b"data: " + _encode(head)[:-1]
        self._chunk_tail = (b',"usage":null}' if self._with_usage else b"}") + self._eol * 2

    async def play(self) -> None:
        script = self._script
        if script.first_ms:
            await asyncio.sleep(script.first_ms / 1000)
        await self._stop(-1)
        if script.status != 200:
            self._call.status = script.status
            message = script.message or f"The script says {script.status}."
            code = script.code or ("rate_limit_exceeded" if script.status == 429 else None)
            refuse(self._exchange, script.status, message, code=code, script=script)
            self._log.end(self._running, "refused")
        elif self._request.stream:
            await self._stream()
        else:
            await self._plain()

    async def _stream(self) -> None:
        script = self._script
        head = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        self._exchange.start({**head, "server": "llama.cpp", "keep-alive": "timeout=5"} if script.llama else head)
        await self._write(self._chunk(b'{"role":"assistant","content":"","refusal":null}'))
        await self._stop(0)
        held: list[bytes] = []
        for delta in self._deltas():
            if script.delay_ms and self._call.deltas:
                await asyncio.sleep(script.delay_ms / 1000)
            held.append(self._chunk(delta))
            self._call.deltas += 1
            if script.delay_ms or len(held) >= script.coalesce or self._call.deltas in self._stops:
                await self._write(b"".join(held))
                held.clear()
                await self._stop(self._call.deltas)
        await self._late_fault(b"".join(held))
        self._call.finish = self._finish_reason()
        if script.fail != "no_finish":
            held.append(self._chunk(b"{}", self._call.finish))
        self._running.snapshot()
        if self._with_usage:
            self._call.usage_reported = True
            usage = _encode(self._usage())
            held.append(self._chunk_head + b',"choices":[],"usage":' + usage + b"}" + self._eol * 2)
        if script.fail != "no_done":
            held.append(b"data: [DONE]" + self._eol * 2)
        # Logged before the client can react to the end; the last write waits for nobody.
        self._log.end(self._running, "done", script.fail)
        await self._write(b"".join(held))
        self._exchange.finish(close=script.llama)

    async def _plain(self) -> None:
        await self._stop(0)
        for _ in self._deltas():
            if self._script.delay_ms and self._call.deltas:
                await asyncio.sleep(self._script.delay_ms / 1000)
            self._call.deltas += 1
            await self._stop(self._call.deltas)
        await self._late_fault(b"")
        self._call.finish = self._finish_reason()
        call = self._running.snapshot()
        message: dict[str, Any] = {"role": "assistant", "content": call.text, "refusal": None}
        if call.reasoning:
            message["reasoning_content"] = call.reasoning
        if self._script.tool_calls:
            message["tool_calls"] = [
                {"id": _call_id(call.id, i), "type": "function", "function": tool}
                for i, tool in enumerate(self._script.tool_calls)
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": call.finish}
        body = {**self._head_fields, "object": "chat.completion", "choices": [choice]}
        if self._script.usage:
            call.usage_reported = True
            body["usage"] = self._usage()
        self._log.end(self._running, "done", self._script.fail)
        self._exchange.respond(200, _encode(body))

    def _deltas(self) -> Iterator[bytes]:
        """The JSON of every delta, noted in the log as it is made."""
        running = self._running
        for piece in words.split_text(self._script.reasoning or "", None):
            running.reasoning.append(piece)
            yield b'{"reasoning_content":' + _encode(piece) + b"}"
        for piece in self._limited(self._text()):
            running.text.append(piece)
            yield b'{"content":' + _encode(piece) + b"}"
        for index, tool in enumerate(self._script.tool_calls):
            opening = {"id": _call_id(self._call.id, index), "type": "function"}
            call = {"index": index, **opening, "function": {"name": tool.name, "arguments": ""}}
            running.other.append(tool.name)
            yield _encode({"tool_calls": [call]})
            for piece in words.split_text(tool.arguments, None):
                running.other.append(piece)
                yield _encode({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})

    def _text(self) -> Iterator[str]:
        script = self._script
        source: Iterator[str]
        if script.endless:
            source = words.pieces(self._seed)
        elif script.text is not None:
            source = iter(words.split_text(script.text, script.chunks))
        elif script.tool_calls and script.chunks is None:
            source = iter(())
        else:
            source = iter(words.first_pieces(self._seed, 16 if script.chunks is None else script.chunks))
        last = self._request.messages[-1]
        return words.without_prefix(source, _content(last)) if last["role"] == "assistant" else source

    def _limited(self, source: Iterator[str]) -> Iterator[str]:
        """Stops at max_tokens, inside a piece where it must, never inside a code point."""
        limit = self._request.max_completion_tokens or self._request.max_tokens
        budget = MAX_ENDLESS_BYTES if limit is None else limit * 4
        for piece in source:
            size = len(piece.encode("utf-8"))
            if size > budget:
                self._truncated = True
                if cut := piece.encode("utf-8")[:budget].decode("utf-8", "ignore"):
                    yield cut
                return
            budget -= size
            yield piece

    def _finish_reason(self) -> str:
        if self._truncated:
            return "length"
        return "tool_calls" if self._script.tool_calls else self._script.finish

    def _usage(self) -> dict[str, Any]:
        call = self._call
        return {
            "prompt_tokens": call.prompt_tokens,
            "completion_tokens": call.completion_tokens,
            "total_tokens": call.prompt_tokens + call.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self._script.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": words.count_tokens(call.reasoning)},
        }

    def _chunk(self, delta: bytes, finish: str | None = None) -> bytes:
        body = b',"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]' % (delta, _encode(finish))
        return self._chunk_head + body + self._chunk_tail

    async def _write(self, data: bytes) -> None:
        size = self._script.write_bytes
        if size is None:
            await self._exchange.send(data)
        else:
            for at in range(0, len(data), size):
                await self._exchange.send(data[at : at + size])
                await asyncio.sleep(0)
        self._writes += 1
        if self._writes % _WRITES_PER_TURN == 0:
            await asyncio.sleep(0)

    async def _stop(self, deltas: int) -> None:
        """What the script wants when so many deltas were sent. Raises _ScriptedEnd."""
        if deltas not in self._stops:
            return
        script = self._script
        if script.gate is not None and deltas == script.gate_after:
            await self._gates.get(script.gate).wait()
        if script.fail is not None and deltas == self._fault_at:
            await self._fault()

    async def _late_fault(self, held: bytes) -> None:
        """A fault that was to come after more deltas than there are comes after the last."""
        if self._fault_at in self._stops and self._call.deltas < self._fault_at:
            if held:
                await self._write(held)
            await self._fault()

    async def _hang(self) -> None:
        """Until the client closes; with `comments`, keep-alives go on."""
        while self._script.comments and self._exchange.started:
            await self._write(b": keep-alive" + self._eol * 2)
            await asyncio.sleep(_COMMENTS_S)
        await asyncio.Event().wait()

    async def _fault(self) -> None:
        fault = self._script.fail
        exchange = self._exchange
        if fault == "hang":
            await self._hang()
        self._log.end(self._running, "scripted", fault)
        if fault in _AFTER_HEAD and exchange.started:
            error = {"error": {"message": "The script says error.", "type": "server_error", "code": None}}
            data = _encode(error) if fault == "error" else b'{"id":"chatcmpl-'
            await self._write(b"data: " + data + self._eol * 2)
            exchange.finish()
        else:
            exchange.cut(reset=fault == "rst")
        raise _ScriptedEnd


def _call_id(call: int, index: int) -> str:
    return f"call_mock{call}_{index}"

"""What the suite relies on in the scripted provider: the choice of scripts, gates, the log, plain HTTP."""

import asyncio
import json
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from zlib import crc32

import aiohttp
import msgspec
import pytest

from tests.mockllm import words
from tests.mockllm.control import MockControl, MockProcess
from tests.mockllm.log import Call
from tests.mockllm.script import PRESETS, Queued, Script, ScriptError, Scripts, directive
from tests.mockllm.server import MockLLM


@pytest.fixture
async def mock() -> AsyncIterator[MockLLM]:
    async with MockLLM() as server:
        yield server


@pytest.fixture
async def control(mock: MockLLM) -> AsyncIterator[MockControl]:
    client = MockControl(mock.base_url.removesuffix("/v1"))
    yield client
    await client.close()


async def complete(url: str, content: str = "hello", model: str = "mock", **fields: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
    async with aiohttp.ClientSession() as http, http.post(url + "/chat/completions", json=body) as response:
        return await response.text()


def text_of(answer: str) -> str:
    content = json.loads(answer)["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


def test_the_choice_of_a_script() -> None:
    scripts = Scripts(Script(text="default"))
    first, second, only_b = Script(text="1"), Script(text="2"), Script(text="b")
    scripts.queue(Queued([only_b], model="b"))
    scripts.queue(Queued([first, second], contains="x"))
    assert scripts.choose("a", "x") is first
    assert scripts.choose("b", "x") is only_b
    assert scripts.choose("a", 'y [[mock {"chunks": 3}]]') == Script(chunks=3)
    assert scripts.choose("any-cut", "y") is PRESETS["cut"]
    assert scripts.choose("b", "x") is second
    assert scripts.choose("b", "x") is scripts.default
    scripts.queue(Queued([first]))
    scripts.clear()
    assert scripts.choose("a", "x") is scripts.default


@pytest.mark.parametrize("content", ["[[mock {]]", '[[mock {"chunks": "x"}]]', "[[mock {}", '[[mock {"no": 1}]]'])
def test_wrong_directives(content: str) -> None:
    with pytest.raises(ScriptError):
        directive(content)


def test_directives_may_hold_brackets() -> None:
    calls = '[[mock {"tool_calls": [{"name": "f", "arguments": "[[1]]"}]}]]'
    script = directive("please " + calls)
    assert script is not None
    assert script.tool_calls[0].arguments == "[[1]]"


def test_generated_text_is_fixed_and_hard_to_split() -> None:
    pieces = words.first_pieces(7, 400)
    assert pieces == words.first_pieces(7, 400)
    assert pieces != words.first_pieces(8, 400)
    text = "".join(pieces)
    assert "\u200d" in text
    assert any(unicodedata.combining(letter) for letter in text)
    assert any(unicodedata.combining(piece[0]) or piece[0] == "\u200d" for piece in pieces)


def test_text_is_split_whole() -> None:
    for count in (None, 1, 3, 100):
        assert "".join(words.split_text("Grüße an alle", count)) == "Grüße an alle"
    assert len(words.split_text("Grüße an alle", 3)) == 3
    assert "".join(words.without_prefix(iter(["ab", "cd", "ef"]), "abc")) == "def"
    assert "".join(words.without_prefix(iter(["ab", "cd"]), "abx")) == "abcd"
    assert "".join(words.without_prefix(iter(["ab"]), "ab")) == ""


async def test_queued_scripts_over_http(mock: MockLLM, control: MockControl) -> None:
    await control.script(Script(status=500), Script(text="second"))
    await control.script(Script(text="other"), contains="special")
    assert "The script says 500." in await complete(mock.base_url)
    assert text_of(await complete(mock.base_url, "special one")) == "second"
    assert text_of(await complete(mock.base_url, "special one")) == "other"


async def test_gates_over_http(mock: MockLLM, control: MockControl) -> None:
    content = '[[mock {"chunks": 4, "gate": "g", "gate_after": 2}]]'
    answer = asyncio.create_task(complete(mock.base_url, content))
    await control.reached("g")
    call = (await control.calls())[0]
    assert (call.deltas, call.end) == (2, None)
    await control.open_gate("g")
    text = text_of(await answer)
    ended = await control.ended(call.id)
    assert (ended.text, ended.deltas, ended.end) == (text, 4, "done")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_is_logged(mock: MockLLM, stream: bool) -> None:
    mock.script(Script(chunks=9, gate="never", gate_after=4))
    answer = asyncio.create_task(complete(mock.base_url, stream=stream))
    await mock.gate("never").reached()
    answer.cancel()
    call = await mock.ended(1)
    assert (call.end, call.deltas, call.stream) == ("client_closed", 4, stream)
    assert call.text == "".join(words.first_pieces(crc32(b"hello"), 4))


async def test_control_errors(mock: MockLLM) -> None:
    url = mock.base_url.removesuffix("/v1")
    async with aiohttp.ClientSession() as http:
        for method, path, body, status in [
            ("POST", "/_script", b"{}", 400),
            ("POST", "/_script", b'{"scripts": [{"no": 1}]}', 400),
            ("GET", "/_log?ended=9", None, 400),
            ("GET", "/_nothing", None, 404),
            ("GET", "/v1/chat/completions", None, 405),
            ("POST", "/v1/chat/completions", b"{", 400),
        ]:
            async with http.request(method, url + path, data=body) as response:
                assert (response.status, set(await response.json())) == (status, {"error"}), path


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", b"411"),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, b"431"),
        (b"GET / HTTP/1.0\r\n\r\n", b"404"),
    ],
)
async def test_raw_http(mock: MockLLM, sent: bytes, status: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.split(b" ")[1] == status
    writer.close()


async def test_requests_may_be_pipelined_and_come_in_pieces(mock: MockLLM) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    request = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
    writer.write(request + request + request[:10])
    for _ in range(2):
        assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        await reader.readuntil(b"}]}")
    writer.write(request[10:])
    assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.close()


async def test_as_a_process(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    async with MockProcess(log=path) as control:
        text = text_of(await complete(control.base_url))
        hanging = asyncio.create_task(complete(control.base_url, '[[mock {"gate": "never"}]]'))
        await control.reached("never")
    with pytest.raises(aiohttp.ClientError):
        await hanging
    calls = [msgspec.json.decode(line, type=Call) for line in path.read_bytes().splitlines()]
    assert [(call.end, call.text) for call in calls] == [("done", text), ("server_stopped", "")]

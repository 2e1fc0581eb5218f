"""Programs: the official `openai` SDK, unchanged, against `/v1` with an API key."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import openai
import pytest

from tests.mockllm.control import MockControl
from tests.mockllm.script import Script
from tests.support.client import User
from tests.support.polling import eventually
from tests.support.questions import gated, new_mark, question, served
from tests.support.stack import GATEWAYS, MODEL, Stack

pytestmark = pytest.mark.slow


@pytest.fixture
async def key(user: User) -> str:
    return str((await user.call("POST", "/v1/keys", {"name": "a program"}))["key"])


@pytest.fixture
async def sdk(stack: Stack, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{stack.base_url}/v1", api_key=key, max_retries=0, timeout=30) as client:
        yield client


def asking(content: str) -> Any:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]


async def test_models(sdk: openai.AsyncOpenAI) -> None:
    models = [model async for model in sdk.models.list()]
    assert [(model.id, model.object) for model in models] == [(MODEL, "model")]
    assert (await sdk.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("none")


async def test_plain(sdk: openai.AsyncOpenAI, mock: MockControl) -> None:
    mark = new_mark()
    raw = await sdk.chat.completions.with_raw_response.create(
        model=MODEL, messages=asking(question(mark, chunks=40)), temperature=0.5, max_completion_tokens=500
    )
    answer = raw.parse()
    [call] = await served(mock, mark)
    assert [message["role"] for message in call.messages] == ["system", "user"]
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", call.text, "stop")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == call.prompt_tokens
    assert answer.usage.completion_tokens == call.completion_tokens
    assert answer.usage.total_tokens == call.prompt_tokens + call.completion_tokens
    assert raw.headers["x-request-id"]
    assert int(raw.headers["x-ratelimit-remaining-requests"]) < int(raw.headers["x-ratelimit-limit-requests"])


async def test_streaming(sdk: openai.AsyncOpenAI, mock: MockControl) -> None:
    mark = new_mark()
    stream = await sdk.chat.completions.create(
        model=MODEL, messages=asking(gated(mark)), stream=True, stream_options={"include_usage": True}
    )
    await mock.reached(mark)
    chunks = [await anext(stream)]
    while not text_of(chunks):
        chunks.append(await anext(stream))
    # The beginning is there while the provider waits for its gate: it streams.
    [call] = await served(mock, mark)
    assert call.end is None
    await mock.open_gate(mark)
    chunks += [chunk async for chunk in stream]
    call = await mock.ended(call.id)
    assert text_of(chunks) == call.text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == call.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_without_usage_there_is_none(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model=MODEL, messages=asking(question(new_mark(), chunks=3)), stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


async def test_the_length_is_bounded(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(
        model=MODEL, messages=asking(question(new_mark(), endless=True)), max_tokens=16
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 16


async def test_who_leaves_cancels_at_the_provider(sdk: openai.AsyncOpenAI, mock: MockControl) -> None:
    mark = new_mark()
    stream = await sdk.chat.completions.create(model=MODEL, messages=asking(gated(mark)), stream=True)
    await mock.reached(mark)
    await anext(stream)
    await stream.close()
    [call] = await served(mock, mark)
    assert (await mock.ended(call.id)).end == "client_closed"


async def test_refusals(stack: Stack, sdk: openai.AsyncOpenAI, key: str) -> None:
    create = sdk.chat.completions.create
    for wrong in ("sk-parley-none", key + "x"):
        with pytest.raises(openai.AuthenticationError) as unauthorized:
            await sdk.with_options(api_key=wrong).chat.completions.create(model=MODEL, messages=asking("x"))
        assert unauthorized.value.code == "unauthorized"
    with pytest.raises(openai.BadRequestError) as no_model:
        await create(model="none", messages=asking("x"))
    assert (no_model.value.param, no_model.value.type) == ("model", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as hot:
        await create(model=MODEL, messages=asking("x"), temperature=9)
    assert hot.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        await create(model=MODEL, messages=asking("word " * 20_000))
    assert (long.value.param, long.value.code) == ("messages", "context_too_long")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_that_fails(sdk: openai.AsyncOpenAI, mock: MockControl, stream: bool) -> None:
    mark = new_mark()
    with pytest.raises(openai.InternalServerError) as failed:
        await sdk.chat.completions.create(model=MODEL, messages=asking(question(mark, status=500)), stream=stream)
    assert (failed.value.status_code, failed.value.code) == (502, "provider_error")
    assert len(await served(mock, mark)) > 1

    # One that fails once is asked again, and nobody notices.
    mark = new_mark()
    await mock.script(Script(status=503), contains=mark)
    made: Any = await sdk.chat.completions.create(model=MODEL, messages=asking(mark), stream=stream)
    text = text_of([chunk async for chunk in made]) if stream else made.choices[0].message.content
    refused, call = await served(mock, mark)
    assert (refused.status, call.status, call.text) == (503, 200, text)


async def test_a_stream_that_breaks_off_is_an_error(sdk: openai.AsyncOpenAI, mock: MockControl) -> None:
    mark = new_mark()
    stream = await sdk.chat.completions.create(
        model=MODEL, messages=asking(question(mark, chunks=20, fail="cut", after=10)), stream=True
    )
    seen: list[Any] = []

    async def read() -> None:
        async for chunk in stream:
            seen.append(chunk)

    with pytest.raises(openai.APIError) as broken:
        await read()
    [call] = await served(mock, mark)
    assert call.text.startswith(text_of(seen))
    assert text_of(seen)
    assert broken.value.code == "provider_error"


async def test_an_idempotency_key_keeps_the_answer(sdk: openai.AsyncOpenAI, stack: Stack, mock: MockControl) -> None:
    mark, headers = new_mark(), {"Idempotency-Key": uuid.uuid4().hex}
    answers = []
    for gateway in GATEWAYS:
        there = sdk.with_options(base_url=f"{stack.own_base_url(gateway)}/v1")
        answers.append(
            await there.chat.completions.create(
                model=MODEL, messages=asking(question(mark, chunks=5)), extra_headers=headers
            )
        )
    assert answers[0] == answers[1]
    assert len(await served(mock, mark)) == 1
    with pytest.raises(openai.ConflictError) as other:
        await sdk.chat.completions.create(model=MODEL, messages=asking("another"), extra_headers=headers)
    assert other.value.code == "conflict"


async def test_calls_are_charged(user: User, stack: Stack, sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(model=MODEL, messages=asking(question(new_mark(), chunks=12)))
    assert answer.usage is not None
    connection = await asyncpg.connect(stack.dsn)
    statement = "SELECT * FROM ledger_entries WHERE account = $1 AND revision = 2"
    try:
        [entry] = await eventually(lambda: connection.fetch(statement, user.person.user_id), 15.0, "it is charged")
    finally:
        await connection.close()
    assert (entry["charged_to"], entry["completion_tokens"]) == ("user", answer.usage.completion_tokens)


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

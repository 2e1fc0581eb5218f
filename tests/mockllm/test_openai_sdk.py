"""The scripted provider speaks OpenAI's protocol: the official SDK is the judge."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.mockllm.script import Script, ToolCall
from tests.mockllm.server import MockLLM
from tests.mockllm.words import count_tokens

HELLO: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]


@pytest.fixture
async def mock() -> AsyncIterator[MockLLM]:
    async with MockLLM(key="sk-test") as server:
        yield server


@pytest.fixture
async def client(mock: MockLLM) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=mock.base_url, api_key="sk-test", max_retries=0) as sdk:
        yield sdk


async def test_plain(client: openai.AsyncOpenAI, mock: MockLLM) -> None:
    answer = await client.chat.completions.create(model="mock", messages=HELLO)
    call = mock.calls()[0]
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == call.text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == call.prompt_tokens == 3 + 2 * 4 + 3 + 2
    assert answer.usage.completion_tokens == call.completion_tokens == count_tokens(call.text)
    assert answer.usage.total_tokens == call.prompt_tokens + call.completion_tokens
    assert (call.end, call.usage_reported, call.stream) == ("done", True, False)


async def test_streaming(client: openai.AsyncOpenAI, mock: MockLLM) -> None:
    stream = await client.chat.completions.create(
        model="mock", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    call = mock.calls()[0]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == call.text
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == call.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert len(chunks) == 1 + call.deltas + 2


async def test_no_usage_unless_asked(client: openai.AsyncOpenAI, mock: MockLLM) -> None:
    stream = await client.chat.completions.create(model="mock", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert not mock.calls()[0].usage_reported


async def test_the_sdks_own_accumulation_of_tool_calls(client: openai.AsyncOpenAI, mock: MockLLM) -> None:
    mock.script(Script(tool_calls=(ToolCall("weather", '{"city":"Zürich"}'), ToolCall("now", "{}"))))
    async with client.chat.completions.stream(model="mock", messages=HELLO) as stream:
        answer = await stream.get_final_completion()
    calls = answer.choices[0].message.tool_calls or []
    assert [(c.function.name, c.function.arguments) for c in calls] == [
        ("weather", '{"city":"Zürich"}'),
        ("now", "{}"),
    ]
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("mock-429", openai.RateLimitError),
        ("mock-500", openai.InternalServerError),
        ("mock-503", openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals(
    client: openai.AsyncOpenAI, model: str, error: type[openai.APIStatusError], stream: Any
) -> None:
    with pytest.raises(error, match="The script says") as failure:
        await client.chat.completions.create(model=model, messages=HELLO, stream=stream)
    body = failure.value.body
    assert isinstance(body, dict)
    assert set(body) == {"message", "type", "param", "code"}
    if model == "mock-429":
        assert failure.value.response.headers["retry-after"] == "1"
        assert failure.value.code == "rate_limit_exceeded"


async def test_the_sdk_retries_what_the_script_says(mock: MockLLM) -> None:
    mock.script(Script(status=429, retry_after_s=0.01), Script(status=500, retry_after_s=0.01), Script(text="third"))
    async with openai.AsyncOpenAI(base_url=mock.base_url, api_key="sk-test", max_retries=2) as client:
        answer = await client.chat.completions.create(model="mock", messages=HELLO)
    assert answer.choices[0].message.content == "third"
    assert [call.status for call in mock.calls()] == [429, 500, 200]


async def test_an_error_inside_the_stream(client: openai.AsyncOpenAI, mock: MockLLM) -> None:
    stream = await client.chat.completions.create(model="mock-error", messages=HELLO, stream=True)
    text = ""
    with pytest.raises(openai.APIError, match="The script says error"):  # noqa: PT012 - the loop is what raises
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert text == mock.calls()[0].text


async def test_a_wrong_key(mock: MockLLM) -> None:
    async with openai.AsyncOpenAI(base_url=mock.base_url, api_key="sk-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as failure:
            await client.models.list()
    assert failure.value.code == "invalid_api_key"


async def test_bad_requests(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="messages must not be empty"):
        await client.chat.completions.create(model="mock", messages=[])
    with pytest.raises(openai.BadRequestError, match="directive"):
        await client.chat.completions.create(
            model="mock", messages=[{"role": "user", "content": '[[mock {"chunk": 1}]]'}]
        )
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="mock", input="x")


async def test_models(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert {"mock", "mock-429", "mock-cut"} <= set(names)

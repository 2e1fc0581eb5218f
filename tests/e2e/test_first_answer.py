"""What a newcomer does with nothing configured: the link, a question, and the answer of the real local model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest

from tests.support.browser import Browser
from tests.support.charges import charges
from tests.support.client import User
from tests.support.stack import Person, Stack, fetch

pytestmark = pytest.mark.slow

MODEL = "smollm2"
ANSWER_S = 60.0
SHORT = {"max_tokens": 24, "temperature": 0}


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`parley up` as it comes, with its model."""
    made = Stack(tmp_path_factory.mktemp("first"), model=True, configuration="")
    try:
        made.start()
        yield made
    finally:
        made.close()


def by_link(stack: Stack) -> Person:
    """Whom the printed link lets in, once."""
    body = {"code": stack.login_code, "cookie": False}
    answer = fetch("POST", f"{stack.base_url}/v1/auth/login", body)
    return Person(answer["user"]["id"], answer["user"]["email"], "", answer["access_token"])


async def test_the_link_a_question_a_streamed_answer(newcomer: Stack) -> None:
    async with User(newcomer, await asyncio.to_thread(by_link, newcomer)) as owner:
        conversation = await owner.conversation()
        device = await owner.connect()
        answer = await device.send(conversation, "What is the capital of France?", params=SHORT)
        await device.finish(answer, ANSWER_S)
        assert answer.end is not None
        assert (answer.ended, answer.end["model"]) == ("done", MODEL)
        assert "Paris" in answer.text
        # It came in pieces, as the model made them.
        assert answer.count("delta") > 3
        assert 0 < answer.end["usage"]["completion_tokens"] <= SHORT["max_tokens"]
        assert "estimated" not in answer.end["usage"]
        stored = await owner.generation(answer)
        assert (stored["text"], stored["end"]) == (answer.text, answer.end)
        [entry] = await charges(newcomer, answer.generation_id)
        assert (entry["charged_to"], entry["outcome"]) == ("user", "done")

        # The second question knows the first, and reaches the model with it.
        second = await device.send(conversation, "And which language is spoken there?", params=SHORT)
        await device.finish(second, ANSWER_S)
        assert second.ended == "done"
        assert second.end is not None
        assert second.end["usage"]["prompt_tokens"] > answer.end["usage"]["prompt_tokens"]


async def test_parley_chat(newcomer: Stack) -> None:
    asked = await asyncio.to_thread(newcomer.cli, "chat", "Hi", timeout_s=ANSWER_S)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.strip()


def test_the_page(newcomer: Stack, browser: Browser) -> None:
    failed = browser.run(newcomer, "the printed link, a question, an answer")
    assert failed is None, failed


async def test_the_openai_sdk(newcomer: Stack) -> None:
    async with await User.new(newcomer) as user:
        key = (await user.call("POST", "/v1/keys", {"name": "a program"}))["key"]
    async with openai.AsyncOpenAI(base_url=f"{newcomer.base_url}/v1", api_key=key, max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    text = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "Paris" in "".join(text)
    assert len([piece for piece in text if piece]) > 3
    assert chunks[-1].usage is not None
    assert 0 < chunks[-1].usage.completion_tokens <= 24

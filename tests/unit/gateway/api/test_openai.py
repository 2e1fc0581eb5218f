"""Chat completions, as the official SDK sees them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI

from core.errors import ParleyError, Unavailable
from core.model import Piece, Usage
from gateway.api import openai as resource
from gateway.api.app import build_api
from gateway.api.completions_port import Admitted, ChatMessage, Completed, CompletionEvent
from tests.mockllm.script import Script
from tests.support.api import Caller, Platform, refused, served
from tests.support.asgi import Exchange
from tests.support.completions import Stand, open_stand
from tests.support.polling import eventually
from tests.support.redis import RedisServer

PATH = "/v1/chat/completions"
ASK = {"model": "small", "messages": [{"role": "user", "content": "Why?"}]}
ADMITTED = Admitted(requests_limit=60, requests_remaining=59, tokens_limit=1000, tokens_remaining=900, reset_ms=1500)
USAGE = Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=2, reasoning_tokens=1)
SCRIPT: list[list[CompletionEvent] | ParleyError | None] = [
    [ADMITTED],
    [Piece("reasoning", 0, "Hm."), Piece("text", 0, "Be")],
    [Piece("text", 0, "cause\n"), Completed(finish_reason="stop", usage=USAGE)],
]


async def api_key(platform: Platform) -> str:
    _, caller = await platform.signed_in()
    return str((await caller.ask("POST", "/v1/keys", {"name": "sdk"})).json()["key"])


async def program(platform: Platform) -> Caller:
    return platform.caller(await api_key(platform))


@pytest.fixture
async def sdk(platform: Platform) -> AsyncIterator[AsyncOpenAI]:
    platform.completions.script = SCRIPT
    key = await api_key(platform)
    async with (
        served(platform) as url,
        AsyncOpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0, timeout=10) as sdk,
    ):
        yield sdk


class TestSdk:
    async def test_a_plain_answer(self, platform: Platform, sdk: AsyncOpenAI) -> None:
        answer = await sdk.chat.completions.create(
            model="small",
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]},
            ],
            temperature=0.5,
            max_completion_tokens=50,
            stop=["end"],
            seed=7,
        )
        (choice,) = answer.choices
        assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Because\n", "stop")
        assert choice.message.to_dict()["reasoning_content"] == "Hm."
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 5, 12)
        assert answer.model == "small"
        (request,) = platform.completions.requests
        assert request.messages == (ChatMessage("system", "Be brief."), ChatMessage("user", "Why?"))
        assert (request.max_tokens, request.params) == (50, {"temperature": 0.5, "stop": ["end"], "seed": 7})
        assert request.call == answer.id

    async def test_a_stream_with_its_usage(self, sdk: AsyncOpenAI) -> None:
        stream = await sdk.chat.completions.create(
            model="small",
            messages=[{"role": "user", "content": "Why?"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Because\n"
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 12
        assert all(chunk.usage is None for chunk in chunks[:-1])
        assert len({chunk.id for chunk in chunks}) == 1

    async def test_limits_are_told_in_headers(self, sdk: AsyncOpenAI) -> None:
        raw = await sdk.chat.completions.with_raw_response.create(
            model="small", messages=[{"role": "user", "content": "Why?"}]
        )
        assert raw.headers["x-ratelimit-limit-requests"] == "60"
        assert raw.headers["x-ratelimit-remaining-tokens"] == "900"
        assert raw.headers["x-ratelimit-reset-requests"] == "1.500s"
        assert raw.headers["x-request-id"]

    async def test_models_are_listed(self, sdk: AsyncOpenAI) -> None:
        assert [model.id async for model in sdk.models.list()] == ["small"]
        assert (await sdk.models.retrieve("small")).object == "model"

    async def test_refusals_are_the_sdks_own(self, platform: Platform, sdk: AsyncOpenAI) -> None:
        asked = {"model": "small", "messages": [{"role": "user", "content": "Why?"}]}
        platform.completions.script = [ParleyError("rate_limited", "Slow down.", retry_after_ms=2500)]
        with pytest.raises(openai.RateLimitError) as limited:
            await sdk.chat.completions.create(**asked)
        assert limited.value.response.headers["retry-after-ms"] == "2500"
        assert limited.value.response.headers["retry-after"] == "3"
        platform.completions.script = [ParleyError("quota", "Spent.")]
        with pytest.raises(openai.RateLimitError) as spent:
            await sdk.chat.completions.create(**asked)
        assert spent.value.response.headers["x-should-retry"] == "false"
        with pytest.raises(openai.AuthenticationError):
            await sdk.with_options(api_key="sk-parley-" + "A" * 43).chat.completions.create(**asked)
        with pytest.raises(openai.BadRequestError) as bad:
            await sdk.chat.completions.create(**asked, temperature=9)
        assert bad.value.param == "temperature"
        assert bad.value.code == "invalid"

    async def test_a_stream_that_fails_never_ends_cleanly(self, platform: Platform, sdk: AsyncOpenAI) -> None:
        platform.completions.script = [*SCRIPT[:2], ParleyError("provider_error", "It broke off.")]
        stream = await sdk.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "Why?"}], stream=True
        )
        with pytest.raises(openai.APIError, match="It broke off"):
            _ = [chunk async for chunk in stream]

    async def test_who_leaves_cancels(self, platform: Platform, sdk: AsyncOpenAI) -> None:
        platform.completions.script = [*SCRIPT[:2], None]
        stream = await sdk.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "Why?"}], stream=True
        )
        assert await anext(aiter(stream))
        assert platform.completions.running == 1
        await stream.close()
        await eventually(lambda: platform.completions.running == platform.services.streams.count == 0)


class TestWire:
    async def test_a_stream_byte_by_byte(self, platform: Platform) -> None:
        platform.completions.script = SCRIPT
        caller = await program(platform)
        response = await caller.ask("POST", PATH, {**ASK, "stream": True})
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = [line for line in response.text.split("\n\n") if line]
        assert lines[-1] == "data: [DONE]"
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        assert all("usage" not in chunk for chunk in chunks)
        assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
            {"role": "assistant", "content": ""},
            {"reasoning_content": "Hm."},
            {"content": "Be"},
            {"content": "cause\n"},
            {},
        ]
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}

    async def test_an_answer_that_just_ends_is_an_error(self, platform: Platform) -> None:
        caller = await program(platform)
        platform.completions.script = SCRIPT[:2]
        refused(await caller.ask("POST", PATH, ASK), 502, "provider_error")
        streamed = await caller.ask("POST", PATH, {**ASK, "stream": True})
        assert "[DONE]" not in streamed.text
        last = json.loads(streamed.text.strip().rpartition("data: ")[2])
        assert last["error"]["code"] == "provider_error"
        assert set(last["error"]) >= {"message", "type", "param", "code"}

    async def test_limits_are_told_with_a_failure_too(self, platform: Platform) -> None:
        platform.completions.script = [SCRIPT[0], ParleyError("overloaded", "Busy.", retry_after_ms=1500)]
        response = await (await program(platform)).ask("POST", PATH, ASK)
        refused(response, 503, "overloaded")
        told = {name: response.headers[name] for name in ("x-ratelimit-remaining-requests", "retry-after-ms")}
        assert told == {"x-ratelimit-remaining-requests": "59", "retry-after-ms": "1500"}
        assert response.headers["retry-after"] == "2"

    @pytest.mark.parametrize("stream", [True, False])
    async def test_a_gateway_that_goes_away_takes_no_call(self, platform: Platform, stream: bool) -> None:
        caller = await program(platform)
        await platform.services.streams.drain(0.0, 0.1)
        response = await caller.ask("POST", PATH, {**ASK, "stream": stream})
        refused(response, 503, "overloaded")
        assert response.headers["retry-after-ms"]
        assert platform.completions.requests == []

    async def test_who_leaves_a_plain_call_cancels_it(self, platform: Platform) -> None:
        platform.completions.script = [SCRIPT[0], None]
        headers = {"authorization": f"Bearer {await api_key(platform)}", "content-type": "application/json"}
        exchange = Exchange(platform.api, "POST", PATH, headers, json.dumps(ASK).encode())
        await eventually(lambda: platform.completions.running == 1)
        await exchange.leave()
        assert platform.completions.running == 0
        assert exchange.status == 0

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"model": None}, "model"),
            ({"messages": []}, "messages"),
            ({"messages": "hi"}, "messages"),
            ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
            ({"temperature": 3}, "temperature"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"n": 2}, "n"),
            ({"store": True}, "store"),
            ({"tools": []}, "tools"),
            ({"stop": ["a"] * 5}, "stop"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
            ({"unheard_of": 1}, "unheard_of"),
        ],
    )
    async def test_what_is_wrong_is_named(self, platform: Platform, change: dict[str, object], param: str) -> None:
        caller = await program(platform)
        refused(await caller.ask("POST", PATH, {**ASK, **change}), 400, "invalid", param)
        assert platform.completions.requests == []

    async def test_bad_requests_are_told_in_the_tables_shape(self, platform: Platform) -> None:
        caller = await program(platform)
        refused(await platform.caller().ask("POST", PATH, ASK), 401, "unauthorized")
        refused(await caller.ask("GET", PATH), 405, "method_not_allowed")
        refused(await caller.ask("POST", PATH, ASK, content_type="text/plain"), 415, "unsupported_media_type")
        for body in (b"", b"{", b"\xff"):
            refused(await caller.ask("POST", PATH, body), 400, "malformed")
        for body in (b"[]", b"[" * 100_000, b'{"metadata": ' + b'{"a": ' * 100_000):
            refused(await caller.ask("POST", PATH, body), 400, "invalid")
        refused(await caller.ask("POST", PATH, b" " * (1024 * 1024 + 1)), 413, "too_large")


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with open_stand() as stand:
        yield stand


class TestOverProviders:
    """The resource over the completions that the gateway makes."""

    @staticmethod
    async def ask(platform: Platform, stand: Stand, **fields: object) -> Exchange:
        api = build_api(dataclasses.replace(platform.services, completions=stand.completions))
        headers = {"authorization": f"Bearer {await api_key(platform)}", "content-type": "application/json"}
        return Exchange(api, "POST", PATH, headers, json.dumps({**ASK, **fields}).encode())

    async def test_an_answer(self, platform: Platform, stand: Stand) -> None:
        stand.first.script(Script(text="Because it is."))
        exchange = await self.ask(platform, stand, max_tokens=50)
        await exchange.ended()
        answer = json.loads(exchange.body)
        assert answer["choices"][0]["message"]["content"] == "Because it is."
        assert answer["usage"]["completion_tokens"] == 4
        assert exchange.headers["x-ratelimit-remaining-requests"] == "9"

    async def test_an_answer_that_breaks_off(self, platform: Platform, stand: Stand) -> None:
        stand.first.script(Script(text="Because it is.", fail="cut", after=2, delay_ms=1))
        exchange = await self.ask(platform, stand, stream=True)
        await exchange.ended()
        assert b"Beca" in exchange.body
        assert b"[DONE]" not in exchange.body
        assert json.loads(exchange.body.rpartition(b"data: ")[2])["error"]["code"] == "provider_error"

    async def test_a_failure_before_any_text_is_an_ordinary_error(self, platform: Platform, stand: Stand) -> None:
        stand.first.script(*[Script(status=429, retry_after_s=0.1)] * 3)
        exchange = await self.ask(platform, stand, stream=True)
        await exchange.ended()
        assert (exchange.status, json.loads(exchange.body)["error"]["code"]) == (503, "overloaded")
        assert exchange.headers["retry-after-ms"] == "100"

    async def test_who_leaves_closes_the_call(self, platform: Platform, stand: Stand) -> None:
        stand.first.script(Script(endless=True, delay_ms=1))
        exchange = await self.ask(platform, stand, stream=True)
        await exchange.shows("content")
        await exchange.leave()
        assert (await stand.first.ended(1)).end == "client_closed"
        await eventually(lambda: stand.recorder.last[0].outcome == "cancelled")
        assert stand.completions.running == 0


class TestIdempotencyKey:
    async def test_a_finished_answer_is_told_again_in_either_form(self, platform: Platform) -> None:
        platform.completions.script = SCRIPT
        caller = await program(platform)
        first = await caller.ask("POST", PATH, ASK, idempotency_key="k")
        again = await caller.ask("POST", PATH, ASK, idempotency_key="k")
        assert first.json() == again.json()
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        options = {"stream": True, "stream_options": {"include_usage": True}}
        streamed = await caller.ask("POST", PATH, {**ASK, **options}, idempotency_key="k")
        lines = [line for line in streamed.text.split("\n\n") if line]
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == "Because\n"
        assert chunks[-1]["usage"] == first.json()["usage"]
        assert {chunk["id"] for chunk in chunks} == {first.json()["id"]}
        assert len(platform.completions.requests) == 1

    async def test_a_stream_is_kept_too(self, platform: Platform) -> None:
        platform.completions.script = SCRIPT
        caller = await program(platform)
        await caller.ask("POST", PATH, {**ASK, "stream": True}, idempotency_key="k")
        again = await caller.ask("POST", PATH, ASK, idempotency_key="k")
        assert again.json()["choices"][0]["message"]["content"] == "Because\n"
        assert len(platform.completions.requests) == 1

    async def test_a_second_call_meanwhile_is_told_to_wait(self, platform: Platform) -> None:
        platform.completions.script = [*SCRIPT[:2], None]
        caller = await program(platform)
        headers = {
            "authorization": caller.http.headers["authorization"],
            "content-type": "application/json",
            "idempotency-key": "k",
        }
        body = json.dumps({**ASK, "stream": True}).encode()
        exchange = Exchange(platform.api, "POST", PATH, headers, body)
        await exchange.shows("Be")
        response = await caller.ask("POST", PATH, ASK, idempotency_key="k")
        error = refused(response, 409, "in_progress")
        assert response.headers["retry-after-ms"] == str(error["retry_after_ms"])
        other = {**ASK, "model": "other"}
        refused(await caller.ask("POST", PATH, other, idempotency_key="k"), 409, "conflict", "Idempotency-Key")
        await exchange.leave()
        platform.completions.script = SCRIPT
        assert (await caller.ask("POST", PATH, ASK, idempotency_key="k")).status_code == 200

    async def test_a_failure_is_not_kept(self, platform: Platform) -> None:
        caller = await program(platform)
        platform.completions.script = [ParleyError("unavailable", "Away.")]
        refused(await caller.ask("POST", PATH, ASK, idempotency_key="k"), 503, "unavailable")
        platform.completions.script = SCRIPT
        assert (await caller.ask("POST", PATH, ASK, idempotency_key="k")).status_code == 200

    async def test_a_lease_outlives_a_short_absence_of_redis(
        self, platform: Platform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        renewals: list[str] = []

        async def renew(account: str, key: str, lease: str) -> bool:
            renewals.append(lease)
            if len(renewals) == 1:
                raise Unavailable("away")
            return True

        monkeypatch.setattr(resource, "RENEW_S", 0.01)
        monkeypatch.setattr(platform.services.idempotency, "renew", renew)
        platform.completions.script = [*SCRIPT[:2], None]
        headers = {"authorization": f"Bearer {await api_key(platform)}", "content-type": "application/json"}
        exchange = Exchange(platform.api, "POST", PATH, {**headers, "idempotency-key": "k"}, json.dumps(ASK).encode())
        await eventually(lambda: len(renewals) > 2)
        await exchange.leave()

    async def test_without_redis_a_key_is_not_taken(self, platform: Platform, redis_server: RedisServer) -> None:
        platform.completions.script = SCRIPT
        caller = await program(platform)
        redis_server.kill()
        refused(await caller.ask("POST", PATH, ASK, idempotency_key="k"), 503, "unavailable")
        assert (await caller.ask("POST", PATH, ASK)).status_code == 200

    async def test_many_at_once_make_one_call(self, platform: Platform) -> None:
        platform.completions.script = SCRIPT
        caller = await program(platform)
        answers = await asyncio.gather(*(caller.ask("POST", PATH, ASK, idempotency_key="k") for _ in range(10)))
        assert {answer.status_code for answer in answers} <= {200, 409}
        assert len(platform.completions.requests) == 1

    @pytest.mark.parametrize("key", ["", "k" * 257])
    async def test_a_key_has_a_length(self, platform: Platform, key: str) -> None:
        caller = await program(platform)
        refused(await caller.ask("POST", PATH, ASK, idempotency_key=key), 400, "invalid", "Idempotency-Key")

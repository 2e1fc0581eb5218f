"""The Provider port's promises, over a scripted provider with every fault."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from core.providers.openai import OpenAIOptions, OpenAIProvider
from core.providers.port import (
    Finished,
    Provider,
    ProviderError,
    ProviderEvent,
    ProviderMessage,
    ProviderRequest,
    StreamLimits,
    TextDelta,
    Usage,
)
from tests.mockllm.log import Call
from tests.mockllm.script import Script, ToolCall
from tests.mockllm.server import MockLLM

KEY = "sk-a-secret-key"
CLOSES_WITHIN_S = 0.2

# One maker for each adapter: the same suite runs over all of them.
MAKERS: dict[str, Callable[..., Provider]] = {
    "openai": lambda url, **options: OpenAIProvider(
        OpenAIOptions(name="mock", base_url=url, **{"api_key": KEY, "send_tags": True, **options})
    ),
}


@pytest.fixture
async def mock() -> AsyncIterator[MockLLM]:
    async with MockLLM(key=KEY) as server:
        yield server


@pytest.fixture(params=sorted(MAKERS))
def make(request: pytest.FixtureRequest) -> Callable[..., Provider]:
    return MAKERS[request.param]


@pytest.fixture
async def provider(make: Callable[..., Provider], mock: MockLLM) -> AsyncIterator[Provider]:
    adapter = make(mock.base_url)
    yield adapter
    await adapter.close()


def ask(content: str = "hello", **fields: Any) -> ProviderRequest:
    defaults = {"deadline_first_token_s": 5.0, "deadline_idle_s": 5.0}
    return ProviderRequest(model="mock", messages=(ProviderMessage("user", content),), **{**defaults, **fields})


async def collect(provider: Provider, request: ProviderRequest) -> tuple[list[ProviderEvent], ProviderError | None]:
    """All events, and the error that ended the stream if one did."""
    events: list[ProviderEvent] = []
    try:
        async for batch in provider.stream(request):
            assert batch
            events += batch
    except ProviderError as error:
        failure = error
    else:
        return events, None
    assert failure.before_text is not any(isinstance(event, TextDelta) for event in events)
    return events, failure


def part(events: list[ProviderEvent], kind: str = "text", number: int = 0) -> str:
    return "".join(e.text for e in events if isinstance(e, TextDelta) and (e.kind, e.part) == (kind, number))


async def closed_soon(mock: MockLLM, since: float, call_id: int = 1) -> Call:
    """The call, which the provider must have seen closed by the client soon after `since` (Unix time)."""
    call = await mock.ended(call_id)
    assert call.end == "client_closed"
    assert call.closed is not None
    assert call.closed - since < CLOSES_WITHIN_S
    return call


class TestAnswers:
    async def test_a_whole_answer_is_what_the_provider_sent(self, provider: Provider, mock: MockLLM) -> None:
        mock.script(Script(chunks=200, cached_tokens=3))
        events, error = await collect(provider, ask())
        call = await mock.ended(1)
        assert error is None
        assert part(events) == call.text
        deltas = [event for event in events if isinstance(event, TextDelta)]
        assert len(deltas) == 200
        assert events[200:] == [Finished("stop"), Usage(call.prompt_tokens, call.completion_tokens, 3)]
        assert provider.name == "mock"

    async def test_connections_are_reused_after_whole_answers(self, provider: Provider, mock: MockLLM) -> None:
        for _ in range(5):
            assert (await collect(provider, ask()))[1] is None
        assert mock.connections == 1

    async def test_a_server_that_closes_after_each_stream(self, provider: Provider, mock: MockLLM) -> None:
        mock.script(*[Script(chunks=2, delay_ms=2, llama=True)] * 20)
        for _ in range(20):
            assert (await collect(provider, ask()))[1] is None

    async def test_without_usage_there_is_none(self, provider: Provider, mock: MockLLM) -> None:
        mock.script(Script(usage=False))
        events, error = await collect(provider, ask())
        assert error is None
        assert events[-1] == Finished("stop")

    async def test_an_empty_answer(self, provider: Provider, mock: MockLLM) -> None:
        mock.script(Script(text=""))
        events, error = await collect(provider, ask())
        assert error is None
        assert [type(event) for event in events] == [Finished, Usage]

    async def test_reasoning_and_tool_calls_are_parts(self, provider: Provider, mock: MockLLM) -> None:
        calls = (ToolCall("weather", '{"city": "Zürich", "q": "\\"\\n"}'), ToolCall("now", ""))
        mock.script(Script(reasoning="Let me see…", text="Asking.", tool_calls=calls))
        events, error = await collect(provider, ask())
        assert error is None
        assert part(events, "reasoning") == "Let me see…"
        assert part(events) == "Asking."
        documents = [json.loads(part(events, "tool_call", i)) for i in range(2)]
        assert [(d["name"], d["arguments"]) for d in documents] == [(c.name, c.arguments) for c in calls]
        assert Finished("tool_calls") in events
        usage = next(event for event in events if isinstance(event, Usage))
        assert usage.reasoning_tokens == -(-len("Let me see…".encode()) // 4)

    @pytest.mark.parametrize(
        "style", [{"write_bytes": 1}, {"write_bytes": 7}, {"crlf": True, "write_bytes": 5}, {"comments": True}]
    )
    async def test_however_the_bytes_come(self, provider: Provider, mock: MockLLM, style: dict[str, Any]) -> None:
        mock.script(Script(chunks=40, **style))
        events, error = await collect(provider, ask())
        assert error is None
        assert part(events) == mock.calls()[0].text

    async def test_max_tokens(self, provider: Provider, mock: MockLLM) -> None:
        events, error = await collect(provider, ask(max_tokens=5))
        assert error is None
        assert Finished("length") in events
        assert next(event for event in events if isinstance(event, Usage)).completion_tokens == 5

    async def test_an_answer_goes_on_from_its_beginning(self, provider: Provider, mock: MockLLM) -> None:
        whole = part((await collect(provider, ask()))[0])
        events, error = await collect(provider, ask(continue_from=whole[:20]))
        assert error is None
        assert whole[:20] + part(events) == whole
        assert mock.calls()[1].messages[-1] == {"role": "assistant", "content": whole[:20]}

    async def test_streams_do_not_mix(self, provider: Provider, mock: MockLLM) -> None:
        answers = await asyncio.gather(*(collect(provider, ask(f"question {i}")) for i in range(40)))
        texts = {call.messages[0]["content"]: call.text for call in mock.calls()}
        assert len(set(texts.values())) == 40
        for i, (events, error) in enumerate(answers):
            assert error is None
            assert part(events) == texts[f"question {i}"]

    async def test_batches_come_as_the_provider_sends(self, provider: Provider, mock: MockLLM) -> None:
        mock.script(Script(chunks=4, gate="g", gate_after=2))
        async with contextlib.aclosing(provider.stream(ask())) as stream:
            text = part(await anext(stream))
            await mock.gate("g").reached()
            while text != mock.calls()[0].text:
                text += part(await anext(stream))
            assert mock.calls()[0].deltas == 2
            mock.gate("g").open()
            async for batch in stream:
                text += part(batch)
        assert text == mock.calls()[0].text

    async def test_nothing_is_sent_before_the_first_read(self, provider: Provider, mock: MockLLM) -> None:
        stream = provider.stream(ask())
        await stream.aclose()
        assert (await collect(provider, ask("another")))[1] is None
        assert [call.messages[0]["content"] for call in mock.calls()] == ["another"]

    async def test_a_slow_consumer_stops_the_provider(self, provider: Provider, mock: MockLLM) -> None:
        mock.script(Script(endless=True, coalesce=500))
        async with contextlib.aclosing(provider.stream(ask())) as stream:
            await anext(stream)
            sent = -1
            async with asyncio.timeout(10):
                while sent != mock.calls()[0].deltas:
                    sent = mock.calls()[0].deltas
                    await asyncio.sleep(0.1)  # long enough that a provider that goes on is seen
            left = time.time()
        await closed_soon(mock, left)


class TestFaults:
    @pytest.mark.parametrize("after", [0, 6])
    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            ("cut", "cut"),
            ("rst", "cut"),
            ("malformed", "malformed"),
            ("error", "server"),
            ("no_done", "cut"),
            ("no_finish", "cut"),
        ],
    )
    async def test_a_broken_stream_is_an_error(
        self, provider: Provider, mock: MockLLM, fault: Any, kind: str, after: int
    ) -> None:
        mock.script(Script(chunks=after if fault.startswith("no_") else 20, fail=fault, after=after))
        events, error = await collect(provider, ask())
        assert error is not None
        assert error.kind == kind
        sent = (await mock.ended(1)).text
        # A reset discards what the receiver has not read yet.
        assert sent.startswith(part(events)) if fault == "rst" else part(events) == sent

    @pytest.mark.parametrize("fault", ["cut", "rst"])
    async def test_no_response_at_all(self, provider: Provider, mock: MockLLM, fault: Any) -> None:
        mock.script(Script(fail=fault, after=-1))
        events, error = await collect(provider, ask())
        assert (events, error and error.kind) == ([], "cut")

    @pytest.mark.parametrize(
        ("script", "kind", "retry_after_ms"),
        [
            (Script(status=429, retry_after_s=1.5), "rate_limited", 1500),
            (Script(status=429), "rate_limited", None),
            (Script(status=503, retry_after_s=2), "server", 2000),
            (Script(status=500), "server", None),
            (Script(status=408), "server", None),
            (Script(status=400), "bad_request", None),
            (Script(status=404), "bad_request", None),
            (Script(status=401), "auth", None),
        ],
    )
    async def test_refusals(
        self, provider: Provider, mock: MockLLM, script: Script, kind: str, retry_after_ms: int | None
    ) -> None:
        mock.script(script)
        events, error = await collect(provider, ask())
        assert error is not None
        assert (events, error.kind, error.status) == ([], kind, script.status)
        assert error.retry_after_ms == retry_after_ms
        assert f"The script says {script.status}." in error.message

    async def test_no_one_listens(self, make: Callable[..., Provider], unused_tcp_port: int) -> None:
        provider = make(f"http://127.0.0.1:{unused_tcp_port}/v1")
        events, error = await collect(provider, ask())
        assert (events, error and error.kind) == ([], "connect")
        await provider.close()

    @pytest.mark.parametrize("after", [-1, 0])
    async def test_the_first_token_has_a_deadline(self, provider: Provider, mock: MockLLM, after: int) -> None:
        mock.script(Script(fail="hang", after=after))
        began = time.time()
        events, error = await collect(provider, ask(deadline_first_token_s=0.1))
        assert (events, error and error.kind) == ([], "timeout_first")
        assert time.time() - began >= 0.1
        await closed_soon(mock, began + 0.1)

    @pytest.mark.parametrize("comments", [False, True])
    async def test_pauses_have_a_deadline(self, provider: Provider, mock: MockLLM, comments: bool) -> None:
        """Also where keep-alives arrive during the pause, and where the first deadline was the longer one."""
        mock.script(Script(fail="hang", after=3, comments=comments))
        began = time.time()
        events, error = await collect(provider, ask(deadline_idle_s=0.1))
        assert error is not None
        assert (part(events), error.kind) == (mock.calls()[0].text, "timeout_idle")
        await closed_soon(mock, began + 0.1)

    async def test_a_steady_drip_is_no_pause(self, provider: Provider, mock: MockLLM) -> None:
        mock.script(Script(chunks=15, delay_ms=40))
        _, error = await collect(provider, ask(deadline_first_token_s=0.5, deadline_idle_s=0.5))
        assert error is None

    async def test_the_consumers_own_time_is_no_pause(self, provider: Provider, mock: MockLLM) -> None:
        mock.script(Script(chunks=6, gate="g", gate_after=3))
        text = ""
        async for batch in provider.stream(ask(deadline_first_token_s=0.4, deadline_idle_s=0.4)):
            if not text:
                await asyncio.sleep(0.5)  # longer than the deadlines
                mock.gate("g").open()
            text += part(batch)
        assert text == mock.calls()[0].text

    async def test_an_endless_answer_is_bounded(self, make: Callable[..., Provider], mock: MockLLM) -> None:
        provider = make(mock.base_url, limits=StreamLimits(total_bytes=200_000))
        mock.script(Script(endless=True))
        _, error = await collect(provider, ask())
        assert error is not None
        assert error.kind == "malformed"
        assert (await mock.ended(1)).end == "client_closed"
        await provider.close()

    async def test_a_redirect_is_not_followed(self, provider: Provider, mock: MockLLM) -> None:
        mock.script(Script(status=307))
        _, error = await collect(provider, ask())
        assert (error and error.kind, len(mock.calls())) == ("malformed", 1)


class TestCancellation:
    async def test_leaving_closes_the_connection(self, provider: Provider, mock: MockLLM) -> None:
        mock.script(Script(chunks=10, fail="hang", after=5))
        async with contextlib.aclosing(provider.stream(ask())) as stream:
            await anext(stream)
            left = time.time()
        await closed_soon(mock, left)
        assert mock.connections == 0

    @pytest.mark.parametrize("after", [-1, 0, 5])
    async def test_cancelling_the_reader_closes_the_connection(
        self, provider: Provider, mock: MockLLM, after: int
    ) -> None:
        mock.script(Script(chunks=10, gate="never", gate_after=after))
        task = asyncio.create_task(collect(provider, ask()))
        await mock.gate("never").reached()
        left = time.time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await closed_soon(mock, left)

    async def test_leaving_an_endless_answer_stops_it(self, provider: Provider, mock: MockLLM) -> None:
        mock.script(Script(endless=True))
        async with contextlib.aclosing(provider.stream(ask())) as stream:
            await anext(stream)
            left = time.time()
        await closed_soon(mock, left)

    @pytest.mark.parametrize("after", [-1, 5])
    async def test_close_ends_running_streams(self, provider: Provider, mock: MockLLM, after: int) -> None:
        mock.script(Script(chunks=10, gate="never", gate_after=after))
        task = asyncio.create_task(collect(provider, ask()))
        await mock.gate("never").reached()
        left = time.time()
        await provider.close()
        await provider.close()
        _, error = await asyncio.wait_for(task, 1)
        assert error is not None
        assert error.kind == "cut"
        await closed_soon(mock, left)
        _, error = await collect(provider, ask())
        assert error is not None
        assert error.kind == "connect"


class TestSecrets:
    async def test_a_key_is_sent_only_where_there_is_one(self, make: Callable[..., Provider], mock: MockLLM) -> None:
        provider = make(mock.base_url, api_key="")
        _, error = await collect(provider, ask())
        assert error is not None
        assert (error.kind, error.status) == ("auth", 401)
        await provider.close()

    @pytest.mark.parametrize("script", [Script(status=401, message=f"Wrong key {KEY}!"), Script(fail="error")])
    async def test_no_error_quotes_the_key(self, provider: Provider, mock: MockLLM, script: Script) -> None:
        mock.script(script)
        _, error = await collect(provider, ask())
        assert error is not None
        assert KEY not in f"{error} {error!r} {error.message}"

    def test_options_do_not_show_the_key(self) -> None:
        assert KEY not in repr(OpenAIOptions(name="a", base_url="http://b", api_key=KEY))

    @pytest.mark.parametrize("told", [True, False])
    async def test_tags_are_told_only_where_configured(
        self, make: Callable[..., Provider], mock: MockLLM, told: bool
    ) -> None:
        provider = make(mock.base_url, send_tags=told)
        assert (await collect(provider, ask(tags={"attempt": "a1"})))[1] is None
        assert mock.calls()[0].headers == ({"x-parley-attempt": "a1"} if told else {})
        await provider.close()

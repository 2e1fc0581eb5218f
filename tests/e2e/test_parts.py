"""An answer's parts: what a model thinks and which tools it calls beside its text, live, resumed and stored."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.mockllm.control import MockControl
from tests.mockllm.script import Script
from tests.support.client import Shown, User
from tests.support.questions import new_mark, question
from tests.support.stack import GATEWAYS, Stack

pytestmark = pytest.mark.slow

THOUGHTS = "Let me think about that. "
TEXT = "Zürich has \U0001f324\ufe0f today."
CALLS = [{"name": "weather", "arguments": '{"city": "Zürich"}'}, {"name": "time", "arguments": "{}"}]
SCRIPT: dict[str, Any] = {"reasoning": THOUGHTS, "text": TEXT, "chunks": 5, "tool_calls": CALLS}


def check(shown: Shown) -> None:
    assert shown.ended == "done"
    assert (shown.of_kind("reasoning"), shown.text) == (THOUGHTS, TEXT)
    calls = [json.loads(text) for (kind, _), text in sorted(shown.parts.items()) if kind == "tool_call"]
    assert [(call["name"], call["arguments"]) for call in calls] == [(c["name"], c["arguments"]) for c in CALLS]


async def test_live_resumed_and_stored(user: User, mock: MockControl) -> None:
    mark = new_mark()
    device = await user.connect()
    # The gate is in the middle of the text.
    gated = question(mark, gate=mark, gate_after=9, **SCRIPT)
    answer = await device.send(await user.conversation(), gated)
    await mock.reached(mark)
    await device.seen(answer)
    other = await user.connect("gateway-2")
    resumed = await other.resume(answer.generation_id)
    await other.seen(resumed)
    await mock.open_gate(mark)
    check(await device.finish(answer))
    check(await other.finish(resumed))
    for gateway in GATEWAYS:
        late = await user.connect(gateway)
        check(await late.finish(await late.resume(answer.generation_id)))
        stored = await user.generation(answer, gateway)
        assert stored["text"] == TEXT
        assert {(part["k"], part["i"]): part["d"] for part in stored["parts"]} == answer.parts


async def test_a_terminal_shows_the_text_only(stack: Stack, mock: MockControl) -> None:
    mark = new_mark()
    await mock.script(Script(reasoning=THOUGHTS, text="It is four."), contains=mark)
    run = await asyncio.to_thread(stack.cli, "chat", f"Two and two? {mark}")
    assert (run.returncode, run.stdout, run.stderr) == (0, "It is four.\n", "")

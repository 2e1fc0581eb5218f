"""Whether a stack's books balance against what its scripted provider logged: `parley reconcile` itself decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from core.books import Served
from tests.mockllm.control import MockControl
from tests.mockllm.log import Call
from tests.support.polling import eventually
from tests.support.stack import Stack

SETTLED_S = 45.0


def attempt(call: Call) -> str | None:
    """The attempt that a call named itself."""
    return call.headers.get("x-parley-attempt")


def as_log(calls: Sequence[Call]) -> bytes:
    """The provider's log as `parley reconcile --log` reads it."""
    lines = [
        Served(
            attempt=attempt(call),
            prompt_tokens=call.prompt_tokens,
            completion_tokens=call.completion_tokens,
            ended=call.end == "done",
        )
        for call in calls
    ]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def reconciled(stack: Stack, since: float, *words: str) -> dict[str, Any]:
    """What `parley reconcile` says of the turns opened since a Unix time."""
    said = stack.cli("reconcile", "--json", "--since", datetime.fromtimestamp(since, UTC).isoformat(), *words)
    assert said.stdout, said.stderr
    return dict(json.loads(said.stdout))


async def balanced(
    stack: Stack, mock: MockControl, since: float, within_s: float = SETTLED_S, cut: bool = True
) -> dict[str, Any]:
    """The report once no call runs and nothing is running or pending; asserts that it shows no problem.

    `since`: a Unix time; turns opened and calls begun from then on are compared. `cut` false: not with calls that
    were cut short, of which a router knows nothing that is killed at the very moment of the call.
    """
    log = stack.layout.run / "served.jsonl"
    report: dict[str, Any] = {}

    async def settled() -> dict[str, Any]:
        calls = [call for call in await mock.calls() if call.opened >= since]
        if any(call.end is None for call in calls):
            return {}
        calls = [call for call in calls if cut or call.end != "client_closed"]
        log.write_bytes(as_log(calls))
        report.update(await asyncio.to_thread(reconciled, stack, since, "--log", str(log)))
        return {} if report["running"] or report["pending"] or report["problems"] else report

    try:
        return await eventually(settled, within_s, "the books are settled")
    except TimeoutError as error:
        raise AssertionError(f"the books are not balanced: {json.dumps(report, indent=1)}") from error

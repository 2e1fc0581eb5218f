"""Questions to the scripted provider that say how they are answered, and what it served for them."""

from __future__ import annotations

import json
import uuid
from typing import Any

from tests.mockllm.control import MockControl
from tests.mockllm.log import Call


def new_mark() -> str:
    """A word that no other question holds; also a good name for a gate."""
    return uuid.uuid4().hex


def question(mark: str, **script: Any) -> str:
    """A message that holds the mark and is answered by the script: the fields of tests/mockllm/script.py."""
    return f"{mark} [[mock {json.dumps(script)}]]"


def gated(mark: str, chunks: int = 60, after: int = 20, **script: Any) -> str:
    """A question whose answer waits after some deltas until the gate of the mark's name is opened."""
    return question(mark, chunks=chunks, gate=mark, gate_after=after, **script)


async def served(mock: MockControl, mark: str) -> list[Call]:
    """The provider's calls whose last message of the user holds the mark, oldest first."""
    return [call for call in await mock.calls() if mark in _question(call)]


def _question(call: Call) -> str:
    asked = [message["content"] for message in call.messages if message["role"] == "user"]
    return str(asked[-1]) if asked else ""

"""A reader of server-sent events for tests, strict where the standard lets a client be lax."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp


class Event(NamedTuple):
    """One event: its type, its id (None where it has none) and its JSON."""

    kind: str
    id: str | None
    data: dict[str, Any]


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """The events of a stream until the server ends it. Comments and `retry` are no events."""
    assert response.status == 200, await response.text()
    assert response.headers["content-type"].startswith("text/event-stream")
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().removesuffix("\n")
        if text:
            name, _, value = text.partition(":")
            if name:
                assert name in ("event", "id", "data", "retry"), text
                assert name not in fields, text
                fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield Event(fields["event"], fields.get("id"), json.loads(fields["data"]))
            fields = {}
        else:
            assert set(fields) <= {"retry"}, fields
            fields = {}
    assert not fields, f"the stream broke off within an event: {fields}"

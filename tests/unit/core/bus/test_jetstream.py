"""How the usage stream is made; tests/contract/test_usage_stream.py has what it does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from core.bus import jetstream
from core.bus.jetstream import JetStreamUsage
from core.errors import Unavailable

IN_USE, NO_STORAGE, NOT_FOUND = 10058, 10047, 10059


class Server:
    """A link to a server that answers each kind of request with the error codes given, then with success."""

    inbox = "_INBOX.test"

    def __init__(self, **codes: list[int]) -> None:
        self.asked: list[str] = []
        self._codes = defaultdict(list, codes)

    def on_state(self, callback: Callable[[bool], None]) -> None:
        """It is never lost."""

    async def ask(self, subject: str, payload: bytes, timeout_s: float) -> Msg:
        kind = "_".join(subject.split(".")[2:4]).lower()
        self.asked.append(kind)
        left = self._codes[kind]
        reply = {"error": {"err_code": left[0], "description": f"error {left.pop(0)}"}} if left else {}
        return Msg(_client=Client(), data=msgspec.json.encode(reply))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetstream, "_MAKE_PAUSES_S", (0.0, 0.0, 0.0))


async def test_streams_are_made_and_those_that_are_there_brought_up_to_date() -> None:
    server = Server(stream_create=[IN_USE])
    await JetStreamUsage(server).ensure()  # type: ignore[arg-type]
    assert server.asked == ["stream_create", "stream_update", "stream_create", "consumer_create"]


async def test_a_stream_that_another_is_making_is_waited_for() -> None:
    server = Server(stream_create=[NO_STORAGE, NO_STORAGE], stream_update=[NOT_FOUND])
    await JetStreamUsage(server).ensure()  # type: ignore[arg-type]
    assert server.asked[:5] == ["stream_create", "stream_update", "stream_create", "stream_update", "stream_create"]


async def test_too_little_storage_is_told_after_some_tries() -> None:
    server = Server(stream_create=[NO_STORAGE] * 9, stream_update=[NOT_FOUND] * 9)
    with pytest.raises(Unavailable, match=f"error {NO_STORAGE}"):
        await JetStreamUsage(server).ensure()  # type: ignore[arg-type]
    assert server.asked == ["stream_create", "stream_update"] * 3

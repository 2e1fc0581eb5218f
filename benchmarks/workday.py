"""A working day's requests: which kinds there are, in which proportions, and their bytes."""

from __future__ import annotations

import json
import random
import time
import urllib.request
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from benchmarks.dialogue import Script
from benchmarks.load.chunks import body
from benchmarks.native.upgrade import request
from benchmarks.people import Person
from benchmarks.target import MODEL
from core.ids import uuid7

PASSWORD = "correct horse battery staple"


class Member(NamedTuple):
    """Somebody with a conversation, and a message in it."""

    person: Person
    conversation: str
    message: str


class Desk:
    """Writes requests. `key`: an API key; `login`: the mail address of an account with `PASSWORD`; `fresh`:
    conversations in which nothing was said yet, one for each send over SSE.
    """

    def __init__(self, members: Sequence[Member], key: str, login: str, fresh: Sequence[tuple[Person, str]]) -> None:
        self._members = members
        self._key = key
        self._login = login
        self._fresh = list(fresh)
        self._random = random.Random(1)
        self._seed = 0

    def member(self) -> Member:
        return self._random.choice(self._members)

    def get(self, path: Callable[[Member], str]) -> bytes:
        member = self.member()
        return _by(member.person.token, "GET", path(member))

    def create(self) -> bytes:
        return _by(self.member().person.token, "POST", "/v1/conversations", {"id": uuid7(time.time_ns() // 1_000_000)})

    def rename(self) -> bytes:
        member = self.member()
        title = {"title": f"About {self._random.randrange(1000)}"}
        return _by(member.person.token, "PATCH", f"/v1/conversations/{member.conversation}", title)

    def login(self) -> bytes:
        fields = {"email": self._login, "password": PASSWORD}
        return request("POST", "/v1/auth/login", msgspec.json.encode(fields), headers=[_JSON])

    def send(self, script: Script) -> bytes:
        person, conversation = self._fresh.pop()
        content = {"content": self._question(script)}
        path = f"/v1/conversations/{conversation}/messages"
        return _by(person.token, "POST", path, content, "Accept: text/event-stream")

    def chat(self, script: Script, *, stream: bool) -> bytes:
        content = body(MODEL, self._question(script), stream=stream)
        headers = [_JSON, f"Authorization: Bearer {self._key}"]
        return request("POST", "/v1/chat/completions", content, headers=headers)

    def _question(self, script: Script) -> str:
        self._seed += 1
        return script.question(self._seed)


_JSON = "Content-Type: application/json"


def _by(token: str, method: str, path: str, fields: object = None, *headers: str) -> bytes:
    content = b"" if fields is None else msgspec.json.encode(fields)
    kind = [_JSON] if content else []
    return request(method, path, content, headers=[f"Authorization: Bearer {token}", *kind, *headers])


class Kind(NamedTuple):
    """A kind of request. `each`: how many of them for every message that is sent over a WebSocket; `streams`: its
    latency is that of the first byte of the body.
    """

    key: str
    label: str
    each: float
    write: Callable[[Desk, Script], bytes]
    streams: bool = False


REST: Sequence[Kind] = (
    Kind(
        "newest", "newest messages", 1.0, lambda d, _: d.get(lambda m: f"/v1/conversations/{m.conversation}/messages")
    ),
    Kind("list", "list of conversations", 0.6, lambda d, _: d.get(lambda _: "/v1/conversations")),
    Kind("create", "create a conversation", 0.25, lambda d, _: d.create()),
    Kind(
        "message",
        "one message",
        0.2,
        lambda d, _: d.get(lambda m: f"/v1/conversations/{m.conversation}/messages/{m.message}"),
    ),
    Kind("models", "models", 0.15, lambda d, _: d.get(lambda _: "/v1/models")),
    Kind("config", "configuration", 0.15, lambda d, _: d.get(lambda _: "/v1/config")),
    Kind("me", "the account", 0.15, lambda d, _: d.get(lambda _: "/v1/me")),
    Kind("rename", "rename a conversation", 0.05, lambda d, _: d.rename()),
    Kind("login", "log in", 0.01, lambda d, _: d.login()),
)
STREAMS: Sequence[Kind] = (
    Kind("sse", "send, answered by SSE: its first event", 0.1, lambda d, script: d.send(script), streams=True),
    Kind("chat_stream", "chat completions, streamed", 0.1, lambda d, script: d.chat(script, stream=True), streams=True),
    Kind("chat", "chat completions, whole", 0.1, lambda d, script: d.chat(script, stream=False)),
)
KINDS: Sequence[Kind] = (*REST, *STREAMS)
EACH = sum(kind.each for kind in KINDS)


def requests(desk: Desk, count: int, script: Script) -> tuple[list[bytes], list[int]]:
    """`count` requests in these proportions in random order, each kind at least once; and the class of each, which is
    its place in `KINDS`.
    """
    order = random.Random(2)
    classes = list(range(len(KINDS)))
    classes += order.choices(classes, [kind.each for kind in KINDS], k=max(0, count - len(classes)))
    order.shuffle(classes)
    return [KINDS[number].write(desk, script) for number in classes], classes


def register(port: int, email: str) -> None:
    """An account with `PASSWORD`. Raises OSError."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/auth/register",
        json.dumps({"email": email, "password": PASSWORD}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        answer.read()

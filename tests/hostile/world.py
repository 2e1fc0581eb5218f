"""What hostile clients aim at: an owner with one of everything, a stranger, and what they know of each other."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from core.errors import TABLE
from core.ids import generation_id, uuid7
from tests.hostile.wire import Answer
from tests.support.polling import until
from tests.support.stack import MODEL, Person, Stack, fetch

RENEW_S = 240.0
REFUSAL = {"code", "message", "type", "param", "retryable", "retry_after_ms", "request_id"}


def new_id() -> str:
    return uuid7(time.time_ns() // 1_000_000)


@dataclass
class World:
    """`values`: by path parameter, what the owner has; `port`: HTTP at the one gateway that is aimed at."""

    stack: Stack
    owner: Person
    stranger: Person
    values: dict[str, str]
    keys: dict[str, str]
    stranger_answer: str
    gateway: str = "gateway-1"
    port: int = field(init=False)
    _renewed_s: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.port = self.stack.ports[f"{self.gateway}.own"]

    def renew(self) -> None:
        """Logs both in again where their access tokens may soon end."""
        if time.monotonic() - self._renewed_s < RENEW_S:
            return
        self.owner, self.stranger = self.again(self.owner), self.again(self.stranger)
        self._renewed_s = time.monotonic()

    def again(self, person: Person) -> Person:
        """The same person, logged in once more."""
        body = {"email": person.email, "password": person.password, "cookie": False}
        return person._replace(token=fetch("POST", f"{self.url}/v1/auth/login", body)["access_token"])

    @property
    def url(self) -> str:
        return self.stack.own_base_url(self.gateway)

    @property
    def ws_url(self) -> str:
        return self.stack.own_ws_url(self.gateway)

    @property
    def ws_port(self) -> int:
        return urlsplit(self.ws_url).port or 0

    def conversation(self, person: Person) -> str:
        """A new conversation of this person's."""
        return str(fetch("POST", f"{self.url}/v1/conversations", {}, **person.headers)["id"])

    def answer(self, person: Person, conversation: str, content: str = "Hello") -> str:
        """A new answer in it that has ended."""
        url = f"{self.url}/v1/conversations/{conversation}/messages"
        generation = fetch("POST", url, {"content": content}, **person.headers)["generation_id"]
        return self.ended(person, generation)

    def ended(self, person: Person, generation: str) -> str:
        url = f"{self.url}/v1/generations/{generation}"
        until(lambda: fetch("GET", url, **person.headers)["status"] != "running", 20, "the answer has ended")
        return generation

    def log(self) -> str:
        """What the gateway has logged so far."""
        return self.stack.layout.log(self.gateway).read_text(errors="replace")


def make_world(stack: Stack) -> World:
    owner, stranger = stack.register("Owner"), stack.register("Stranger")
    keys = {
        scope: fetch("POST", f"{stack.base_url}/v1/keys", {"name": scope, "scopes": [scope]}, **owner.headers)
        for scope in ("chat", "account")
    }
    world = World(
        stack,
        owner,
        stranger,
        {"alias": MODEL},
        {scope: made["key"] for scope, made in keys.items()},
        stranger_answer="",
    )
    conversation = world.conversation(owner)
    url = f"{world.url}/v1/conversations/{conversation}/messages"
    sent = fetch("POST", url, {"content": "Hello"}, **owner.headers)
    world.ended(owner, sent["generation_id"])
    world.values |= {
        "conversation_id": conversation,
        "message_id": sent["message_id"],
        "generation_id": sent["generation_id"],
        "key_id": keys["chat"]["id"],
    }
    world.stranger_answer = world.answer(stranger, world.conversation(stranger))
    return world


def absent(values: dict[str, str]) -> dict[str, str]:
    """The same names for things that do not exist."""
    nothing = {
        "conversation_id": new_id(),
        "message_id": new_id(),
        "generation_id": generation_id(new_id(), new_id()),
        "key_id": new_id(),
        "alias": "no-such-model",
    }
    return {name: nothing[name] for name in values}


def refused(answer: Answer) -> dict[str, Any]:
    """The error of an answer, which must be a refusal as docs/protocol.md has it and no failure of ours."""
    assert 400 <= answer.status < 500, (answer.status, answer.body[:500])
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json["error"]
    assert answer.json.keys() == {"error"}
    assert error.keys() == REFUSAL
    kind = TABLE[error["code"]]
    assert (answer.status, error["type"], error["retryable"]) == (kind.status, kind.type, kind.retryable), error
    assert error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["cache-control"] == "no-store"
    return error


def same(answer: Answer) -> tuple[int, str, frozenset[str]]:
    """What two answers have in common that tell no difference: all but the request's own id and the date."""
    error = {name: value for name, value in answer.json["error"].items() if name != "request_id"}
    return answer.status, json.dumps(error, sort_keys=True), frozenset(answer.headers)

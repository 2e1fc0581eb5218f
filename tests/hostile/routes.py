"""Every HTTP route with a valid example, by the path of the OpenAPI document; one without an example fails a test."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from core.accounts.model import Scope
from gateway.api.openai_wire import ChatRequest
from tests.hostile.world import World, new_id
from tests.support.stack import MODEL

CHAT = "/v1/chat/completions"

Body = dict[str, Any]


class Example(NamedTuple):
    """How a route is called rightly.

    `body`: None where the route takes none. `status`: what the good call is answered with. `scope`: what an API key
    needs, None where any will do. `public`: no credentials. `spends`: it makes or ends something, so the good call
    goes to something made for it. `limit`: bytes of a body.
    """

    method: str
    path: str
    status: int = 200
    body: Callable[[World], Body] | None = None
    scope: Scope | None = "chat"
    public: bool = False
    spends: bool = False
    limit: int = 256 * 1024

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> list[str]:
        """The names in the path."""
        return re.findall(r"{(\w+)}", self.path)

    @property
    def owned(self) -> bool:
        """Whether the path names something that belongs to somebody."""
        return bool(set(self.parameters) - {"alias"})

    @property
    def changes(self) -> bool:
        return self.method != "GET"

    def target(self, values: dict[str, str]) -> str:
        return self.path.format(**values)


def _nothing(_: World) -> Body:
    return {}


def _messages(_: World) -> Body:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


ROUTES = [
    Example("GET", "/healthz", public=True),
    Example("GET", "/readyz", public=True),
    Example("GET", "/v1/config", public=True),
    Example(
        *("POST", "/v1/auth/register", 201),
        body=lambda _: {"email": f"{new_id()}@example.org", "password": new_id()},
        public=True,
    ),
    Example(
        *("POST", "/v1/auth/login", 200),
        body=lambda world: {"email": world.stranger.email, "password": world.stranger.password, "cookie": False},
        public=True,
    ),
    Example("POST", "/v1/auth/refresh", body=_nothing, public=True, spends=True),
    Example("POST", "/v1/auth/logout", 204, body=_nothing, public=True, spends=True),
    Example("GET", "/v1/me", scope=None),
    Example("PATCH", "/v1/me", body=lambda _: {"name": "Owner"}, scope="account"),
    Example("DELETE", "/v1/me", 204, scope="account", spends=True),
    Example("GET", "/v1/keys", scope="account"),
    Example("POST", "/v1/keys", 201, body=lambda _: {"name": "a key"}, scope="account", spends=True),
    Example("DELETE", "/v1/keys/{key_id}", 204, scope="account", spends=True),
    Example("GET", "/v1/conversations"),
    Example("POST", "/v1/conversations", 201, body=lambda _: {"id": new_id()}),
    Example("GET", "/v1/conversations/{conversation_id}"),
    Example("PATCH", "/v1/conversations/{conversation_id}", body=lambda _: {"title": "Title"}),
    Example("DELETE", "/v1/conversations/{conversation_id}", 204, spends=True),
    Example("POST", "/v1/conversations/{conversation_id}/restore"),
    Example(
        *("PUT", "/v1/conversations/{conversation_id}/branch"),
        body=lambda world: {"leaf_id": world.values["generation_id"]},
    ),
    Example("GET", "/v1/conversations/{conversation_id}/messages"),
    Example("POST", "/v1/conversations/{conversation_id}/messages", 202, body=lambda _: {"content": "Hi"}, spends=True),
    Example("GET", "/v1/conversations/{conversation_id}/messages/{message_id}"),
    Example("GET", "/v1/generations/{generation_id}"),
    Example("GET", "/v1/generations/{generation_id}/events"),
    Example("POST", "/v1/generations/{generation_id}/cancel"),
    Example("POST", "/v1/generations/{generation_id}/regenerate", 202, body=_nothing, spends=True),
    Example("POST", "/v1/generations/{generation_id}/continue", 202, body=_nothing, spends=True),
    Example("POST", "/v1/ws/tickets", 201),
    Example("GET", "/v1/models"),
    Example("GET", "/v1/models/{alias}"),
    Example("POST", CHAT, body=_messages, limit=1024 * 1024),
]

BY_NAME = {example.name: example for example in ROUTES}

# Beside the document: the OpenAI-compatible resource, and the document itself.
BESIDE = {f"POST {CHAT}"}


def documented(document: dict[str, Any]) -> set[str]:
    return {
        f"{method.upper()} {path}"
        for path, resource in document["paths"].items()
        for method in resource.keys() & {"get", "put", "post", "delete", "patch"}
    }


def body_schema(document: dict[str, Any], example: Example) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON schema of a route's body, and the schemas that it refers to."""
    if example.path == CHAT:
        (reference,), components = msgspec.json.schema_components(
            [ChatRequest], ref_template="#/components/schemas/{name}"
        )
        return reference, components
    operation = document["paths"][example.path][example.method.lower()]
    return operation["requestBody"]["content"]["application/json"]["schema"], document["components"]["schemas"]

"""The HTTP side of a gateway as one ASGI application: REST, event streams, the page; every answer's headers."""

from __future__ import annotations

import secrets
from typing import Any, Final, cast

from litestar import Litestar, Request
from litestar.config.cors import CORSConfig
from litestar.connection import ASGIConnection
from litestar.di import Provide
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import ParleyError
from gateway.api.auth import AuthController
from gateway.api.bodies import MAX_BODY_BYTES, BoundedRequest
from gateway.api.conversations import ConversationsController
from gateway.api.errors import handle, send_error
from gateway.api.generations import GenerationsController
from gateway.api.keys import KeysController
from gateway.api.me import MeController
from gateway.api.messages import MessagesController
from gateway.api.meta import alive, client_config, create_ticket, list_models, ready, show_model, ws_url
from gateway.api.openai import PATH as CHAT_PATH
from gateway.api.openai import ChatCompletions
from gateway.api.openapi import openapi_config, openapi_document
from gateway.api.page import Page
from gateway.api.scope import IDENTITY, REQUEST_ID, headers_of, put
from gateway.api.services import Services
from gateway.identity import CSRF_HEADER, Identity

_OURS: Final = "/v1/"
_OURS_EXACTLY: Final = frozenset({"/v1", "/healthz", "/readyz", "/openapi.json"})
_API_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"


class Api:
    """Serves HTTP requests. The lifespan is the caller's: it starts what is in `Services` before and stops it after."""

    def __init__(self, services: Services) -> None:
        self._services = services
        services.streams.follow_revocations(services.revocations)
        self._rest = _rest(services)
        self._page = Page(services.config.gateway.web_root)
        self._chat = _chat(services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        identifier = secrets.token_hex(12)
        put(scope, REQUEST_ID, identifier)
        path = scope["path"]
        ours = path.startswith(_OURS) or path in _OURS_EXACTLY
        policy = _API_POLICY if ours else self._page_policy(scope)
        added = self._headers(identifier, policy, ours)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in added if name not in present),
                ]
            await send(message)

        application: ASGIApp = self._rest if ours else self._page
        if path == CHAT_PATH and self._chat is not None:
            if scope.get("method") != "POST":
                refusal = ParleyError("method_not_allowed", f"{CHAT_PATH} takes POST.")
                await send_error(scope, send_with_headers, refusal, allow="POST")
                return
            application = self._chat
        await application(scope, receive, send_with_headers)

    def _headers(self, identifier: str, policy: str, ours: bool) -> list[tuple[bytes, bytes]]:
        headers = {
            "x-request-id": identifier,
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "permissions-policy": "camera=(), microphone=(), geolocation=()",
        }
        if ours:
            headers["cache-control"] = "no-store"
        else:
            headers["cross-origin-resource-policy"] = "same-origin"
        if self._services.config.gateway.https:
            headers["strict-transport-security"] = "max-age=31536000"
        return [(name.encode(), value.encode()) for name, value in headers.items()]

    def _page_policy(self, scope: Scope) -> str:
        """Only our own files run or style; the page talks to this host and its WebSocket listener, nobody else."""
        socket = ws_url(self._services.config.gateway, headers_of(scope).get("host", ""))
        origin = "/".join(socket.split("/")[:3])
        return (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
            f"manifest-src 'self'; connect-src 'self' {origin}; base-uri 'none'; form-action 'self'; "
            "frame-ancestors 'none'"
        )


def build_api(services: Services) -> Api:
    """The application. Raises ValueError where `gateway.web_root` cannot be served."""
    return Api(services)


def _chat(services: Services) -> ChatCompletions | None:
    if services.completions is None:
        return None
    return ChatCompletions(
        services.identities, services.completions, services.idempotency, services.streams, services.clock
    )


def _rest(services: Services) -> Litestar:
    origins = [origin for origin in services.config.gateway.origins if origin != "*"]
    return Litestar(
        route_handlers=[
            AuthController,
            MeController,
            KeysController,
            ConversationsController,
            MessagesController,
            GenerationsController,
            client_config,
            create_ticket,
            list_models,
            show_model,
            alive,
            ready,
            openapi_document,
        ],
        dependencies={
            "services": Provide(lambda: services, sync_to_thread=False),
            "caller": Provide(_caller, sync_to_thread=False),
        },
        guards=[_Door(services)],
        request_class=BoundedRequest,
        request_max_body_size=MAX_BODY_BYTES,
        exception_handlers={Exception: handle},
        cors_config=_cors(origins) if origins else None,
        openapi_config=openapi_config(),
        logging_config=None,
        debug=False,
    )


class _Door:
    """Authenticates every request before anything of it is read, unless its route says `public`."""

    def __init__(self, services: Services) -> None:
        self._identities = services.identities

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if handler.opt.get("public"):
            return
        scope = connection.scope
        method = str(scope.get("method", ""))
        put(scope, IDENTITY, await self._identities.of_http(method, headers_of(scope)))


def _caller(request: Request[Any, Any, Any]) -> Identity:
    return cast(Identity, request.scope.get(IDENTITY))


def _cors(origins: list[str]) -> CORSConfig:
    return CORSConfig(
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["authorization", "content-type", CSRF_HEADER, "idempotency-key", "last-event-id"],
        expose_headers=["x-request-id", "retry-after", "retry-after-ms"],
        allow_credentials=True,
        max_age=600,
    )

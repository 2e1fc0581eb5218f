"""What a client needs before and around its work: configuration, WebSocket tickets, models, health."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath

from core.accounts.model import TICKET_S
from core.catalog.port import CatalogModel
from core.config import Gateway
from core.errors import ParleyError
from core.model import MAX_CONTENT_BYTES
from gateway.api.bodies import MAX_BODY_BYTES
from gateway.api.scope import headers_of
from gateway.api.services import Caller, Svc
from gateway.identity import require_scope, ticket_for

FRAME_BYTES: Final = 64 * 1024
_HOST: Final = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
MAX_LIMIT: Final = 100


def _version() -> str:
    try:
        return version("parley")
    except PackageNotFoundError:
        return "unknown"


VERSION: Final = _version()


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    ws_url: str
    limits: dict[str, int]
    features: dict[str, bool]
    version: str


class TicketOut(msgspec.Struct, frozen=True, kw_only=True):
    """Offer the subprotocols `parley.v1` and `parley.ticket.<ticket>` at `url` within `expires_in` seconds."""

    ticket: str
    expires_in: int
    url: str


class PriceOut(msgspec.Struct, frozen=True, kw_only=True):
    """Nano-USD per token."""

    input: int
    output: int
    version: int


class ModelOut(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str
    created: int
    owned_by: str
    default: bool
    price: PriceOut
    context_window: int
    max_output: int
    capabilities: tuple[str, ...]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    object: str
    data: list[ModelOut]
    next_cursor: str | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """`parts`: what is not as it should be, each with its reason."""

    status: str
    parts: dict[str, str]


@get("/v1/config", tags=["client"], public=True)
async def client_config(request: Request[Any, Any, Any], services: Svc) -> ClientConfig:
    """Where the WebSocket is, what the limits are, what this installation offers."""
    limits = services.config.limits
    return ClientConfig(
        ws_url=ws_url(services.config.gateway, headers_of(request.scope).get("host", "")),
        limits={
            "content_bytes": MAX_CONTENT_BYTES,
            "frame_bytes": FRAME_BYTES,
            "body_bytes": MAX_BODY_BYTES,
            "page": MAX_LIMIT,
            "requests_per_minute": limits.requests_per_minute,
            "turns_at_once": limits.turns_at_once,
            "tokens_per_day": limits.tokens_per_day,
        },
        features={"registration": services.config.auth.registration},
        version=VERSION,
    )


@post("/v1/ws/tickets", tags=["client"])
async def create_ticket(request: Request[Any, Any, Any], caller: Caller, services: Svc) -> TicketOut:
    """A ticket that opens one WebSocket as the caller."""
    require_scope(caller, "chat")
    ticket = await services.tickets.issue(ticket_for(caller))
    url = ws_url(services.config.gateway, headers_of(request.scope).get("host", ""))
    return TicketOut(ticket=ticket, expires_in=TICKET_S, url=url)


@get("/v1/models", tags=["models"])
async def list_models(caller: Caller, services: Svc) -> ModelList:
    """The models that the caller may use, in the shape of OpenAI's list."""
    require_scope(caller, "chat")
    models = await services.catalog.models()
    default = services.config.default_model
    return ModelList(object="list", data=[model_out(model, default) for model in models])


@get("/v1/models/{alias:str}", tags=["models"])
async def show_model(caller: Caller, services: Svc, alias: FromPath[str]) -> ModelOut:
    """One model."""
    require_scope(caller, "chat")
    model = await services.catalog.model(alias)
    if model is None:
        raise ParleyError("not_found", "There is no such model; GET /v1/models lists them.", param="model")
    return model_out(model, services.config.default_model)


@get("/healthz", tags=["health"], public=True)
async def alive() -> Health:
    """The process is alive."""
    return Health(status="ok", parts={})


@get("/readyz", tags=["health"], public=True)
async def ready(services: Svc) -> Response[Health]:
    """Whether it can serve; names what is not there."""
    parts = dict(await services.unready())
    status = "unready" if parts else "ready"
    return Response(Health(status=status, parts=parts), status_code=503 if parts else 200)


def model_out(model: CatalogModel, default: str) -> ModelOut:
    price = model.price
    return ModelOut(
        id=model.alias,
        object="model",
        created=0,
        owned_by="parley",
        default=model.alias == default,
        price=PriceOut(input=price.input_nano, output=price.output_nano, version=price.version),
        context_window=model.context_window,
        max_output=model.max_output,
        capabilities=model.capabilities,
    )


def ws_url(gateway: Gateway, host: str) -> str:
    """The WebSocket's URL: as configured, else the listener's port on the host that the client addressed."""
    if gateway.ws_url:
        return gateway.ws_url
    addressed = _HOST.fullmatch(host)
    name = addressed[1] if addressed else gateway.host
    return f"{'wss' if gateway.https else 'ws'}://{name}:{gateway.ws_port}/v1/ws"

"""The OpenAPI document at `/openapi.json`."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Litestar, Request, get
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.routes import HTTPRoute

from gateway.api.errors import ErrorEnvelope
from gateway.api.meta import VERSION

_METHODS: Final = frozenset({"get", "put", "post", "delete", "patch"})


@get("/openapi.json", include_in_schema=False, public=True)
async def openapi_document(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """What there is, in OpenAPI 3.1; every refusal has the shape of the one table."""
    document: dict[str, Any] = request.app.openapi_schema.to_schema()
    (reference,), schemas = msgspec.json.schema_components([ErrorEnvelope], ref_template="#/components/schemas/{name}")
    document["components"]["schemas"].update(schemas)
    refusal = {"description": "Refused", "content": {"application/json": {"schema": reference}}}
    public = _public(request.app)
    for path, resource in document["paths"].items():
        for method in _METHODS & resource.keys():
            operation = resource[method]
            operation["responses"].pop("400", None)
            operation["responses"]["default"] = refusal
            if (path, method) in public:
                operation["security"] = []
    return document


def _public(app: Litestar) -> set[tuple[str, str]]:
    """Path and method of what needs no credentials."""
    return {
        (route.path_format, str(method).lower())
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.opt.get("public")
        for method in handler.http_methods
    }


def openapi_config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Parley",
        version=VERSION,
        path="/docs",
        render_plugins=[],
        use_handler_docstrings=True,
        security=[{"bearer": []}, {"cookie": [], "csrf": []}],
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", description="Access token or API key"),
                "cookie": SecurityScheme(type="apiKey", name="parley_session", security_scheme_in="cookie"),
                "csrf": SecurityScheme(type="apiKey", name="X-CSRF-Token", security_scheme_in="header"),
            }
        ),
    )

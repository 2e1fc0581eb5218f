"""Every failure as JSON of the one table (core/errors.py), with the request's id. Nothing internal is told."""

from __future__ import annotations

import logging
import math
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException, ValidationException
from litestar.types import Send

from core.errors import ParleyError, Unavailable, Unknown
from gateway.api.scope import AnyScope, request_id

log = logging.getLogger(__name__)


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    message: str
    type: str
    param: str | None
    retryable: bool
    retry_after_ms: int | None
    request_id: str


class ErrorEnvelope(msgspec.Struct, frozen=True):
    error: ErrorBody


def envelope(error: ParleyError, request: str) -> ErrorEnvelope:
    return ErrorEnvelope(
        ErrorBody(
            code=error.code,
            message=error.message,
            type=error.kind.type,
            param=error.param,
            retryable=error.kind.retryable,
            retry_after_ms=error.retry_after_ms,
            request_id=request,
        )
    )


def error_headers(error: ParleyError) -> dict[str, str]:
    """When to come again, and how to identify oneself."""
    headers = {}
    if error.retry_after_ms is not None:
        headers["retry-after-ms"] = str(error.retry_after_ms)
        headers["retry-after"] = str(math.ceil(error.retry_after_ms / 1000))
    if error.code == "quota":
        headers["x-should-retry"] = "false"
    if error.code == "unauthorized":
        headers["www-authenticate"] = 'Bearer realm="parley"'
    return headers


def to_error(failure: BaseException) -> ParleyError:
    """The row of the table for any failure; what is none of the client's doing is logged by the caller."""
    if isinstance(failure, ParleyError):
        return failure
    if isinstance(failure, Unavailable):
        message = "The platform cannot read or store this right now; nothing was changed. Try again."
        return ParleyError("unavailable", message, retry_after_ms=1000)
    if isinstance(failure, Unknown):
        message = "It is not known whether this was stored; send the same again."
        return ParleyError("unknown", message, retry_after_ms=1000)
    if isinstance(failure, HTTPException):
        return _from_http(failure)
    message = "Something failed here; it was logged under this request's id."
    return ParleyError("internal", message, retry_after_ms=1000)


def _from_http(failure: HTTPException) -> ParleyError:
    if isinstance(failure, MethodNotAllowedException):
        return ParleyError("method_not_allowed", "This resource does not know this method.")
    if isinstance(failure, NotFoundException):
        return ParleyError("not_found", "There is nothing at this address.")
    if isinstance(failure, ValidationException):
        return _from_validation(failure)
    if failure.status_code == 413:
        return ParleyError("too_large", "The body is larger than this resource takes.")
    if failure.status_code == 415:
        return ParleyError("unsupported_media_type", "The body must be JSON, sent as application/json.")
    if 400 <= failure.status_code < 500:
        return ParleyError("malformed", "The request cannot be read.")
    return ParleyError("internal", "Something failed here; it was logged.", retry_after_ms=1000)


def _from_validation(failure: ValidationException) -> ParleyError:
    """A query or path parameter that is not what it must be, named."""
    problems: Any = failure.extra if isinstance(failure.extra, list) else []
    first: dict[str, Any] = problems[0] if problems and isinstance(problems[0], dict) else {}
    name = first.get("key")
    message = f"The parameter {name!r} is not valid: {first.get('message', 'it cannot be read')}."
    return ParleyError("invalid", message if name else "A parameter is not valid.", param=name)


def handle(request: Request[Any, Any, Any], failure: Exception) -> Response[ErrorEnvelope]:
    """Litestar's handler for every exception."""
    error = to_error(failure)
    identifier = request_id(request.scope)
    if error.kind.status == 500:
        log.error("request %s to %s failed", identifier, request.url.path, exc_info=failure)
    headers = error_headers(error)
    if isinstance(failure, MethodNotAllowedException):
        headers |= failure.headers or {}
    return Response(
        envelope(error, identifier),
        status_code=error.kind.status,
        headers=headers,
        media_type="application/json",
    )


async def send_error(scope: AnyScope, send: Send, error: ParleyError, *, allow: str = "") -> None:
    """The same answer from a raw ASGI application, before it has sent anything. `allow`: the methods of a resource
    that does not know this one.
    """
    body = msgspec.json.encode(envelope(error, request_id(scope)))
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        **error_headers(error),
        **({"allow": allow} if allow else {}),
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.kind.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})

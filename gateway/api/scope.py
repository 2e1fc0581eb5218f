"""What is read from an ASGI scope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from ext.ws_hops import Hops

REQUEST_ID: Final = "parley.request_id"
IDENTITY: Final = "parley.identity"

# An ASGI scope, whoever typed it.
AnyScope = Mapping[str, object]


def put(scope: AnyScope, key: str, value: object) -> None:
    """Keeps something with the request."""
    cast(dict[str, object], scope)[key] = value


def headers_of(scope: AnyScope) -> dict[str, str]:
    """By lower-case name; repeated ones joined by `, `, cookies (which HTTP/2 splits) by `; `."""
    found: dict[str, str] = {}
    for raw_name, raw_value in cast(Any, scope["headers"]):
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name in found:
            value = f"{found[name]}{'; ' if name == 'cookie' else ', '}{value}"
        found[name] = value
    return found


def address_of(scope: AnyScope, hops: Hops) -> str:
    """The client's address: the socket's other end, or whom X-Forwarded-For names as far as `hops` are trusted."""
    client = cast(Any, scope.get("client"))
    return hops.client(str(client[0]), headers_of(scope).get("x-forwarded-for")) if client else "unknown"


def request_id(scope: AnyScope) -> str:
    """The id that the answer's `x-request-id` says."""
    return str(scope.get(REQUEST_ID, ""))

"""One table of errors for every transport: code, HTTP status, close code, whether a retry can help."""

from __future__ import annotations

from typing import Final, NamedTuple


class Kind(NamedTuple):
    """A row of the table. `close` is the WebSocket close code where the error ends a connection."""

    code: str
    status: int
    type: str
    retryable: bool = False
    close: int | None = None


_ROWS: Final = (
    Kind("malformed", 400, "invalid_request_error", close=4400),
    Kind("invalid", 400, "invalid_request_error"),
    Kind("id_out_of_order", 400, "invalid_request_error"),
    Kind("context_too_long", 400, "invalid_request_error"),
    Kind("unauthorized", 401, "authentication_error", close=4401),
    Kind("quota", 429, "insufficient_quota"),
    Kind("forbidden", 403, "permission_error", close=4403),
    Kind("not_found", 404, "not_found_error"),
    Kind("method_not_allowed", 405, "invalid_request_error"),
    Kind("conflict", 409, "conflict_error"),
    Kind("busy", 409, "conflict_error", retryable=True),
    Kind("in_progress", 409, "conflict_error", retryable=True),
    Kind("too_large", 413, "invalid_request_error", close=1009),
    Kind("unsupported_media_type", 415, "invalid_request_error"),
    Kind("rate_limited", 429, "rate_limit_error", retryable=True, close=4429),
    Kind("internal", 500, "api_error", retryable=True, close=1011),
    Kind("provider_error", 502, "api_error", retryable=True),
    Kind("unknown", 503, "api_error", retryable=True),
    Kind("unavailable", 503, "api_error", retryable=True),
    Kind("overloaded", 503, "api_error", retryable=True),
    Kind("no_capacity", 503, "api_error", retryable=True),
)

TABLE: Final = {row.code: row for row in _ROWS}

CLOSE_DRAINING: Final = 1001
CLOSE_HEARTBEAT: Final = 4408


class ParleyError(Exception):
    """A refusal told to a client: `code` names a row of TABLE, `message` says what, where and what to do.

    `param` names the field at fault; `retry_after_ms` is a promise that a retry after it can succeed.
    """

    def __init__(self, code: str, message: str, *, param: str | None = None, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.kind = TABLE[code]
        self.message = message
        self.param = param
        self.retry_after_ms = retry_after_ms

    @property
    def code(self) -> str:
        return self.kind.code


class Unavailable(Exception):
    """A store or the bus did not do what was asked and it is certain that nothing was changed."""


class Unknown(Exception):
    """A write whose result could not be learned: it may or may not have been applied. Repeat it, identical."""

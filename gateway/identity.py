"""Who is asking: from the headers of an HTTP request or a WebSocket handshake to an identity, or a refusal."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from core.accounts.model import SCOPES, Role, Scope, Ticket
from core.accounts.port import Tickets
from core.auth.opaque import RefreshTokens, is_api_key
from core.auth.tokens import AccessTokens, Claims
from core.errors import ParleyError, Unavailable
from gateway.keycache import KeyCache
from gateway.revocations import Revocations

CSRF_HEADER: Final = "x-csrf-token"
PAIRS_KNOWN: Final = 1_024
PAIR_CHARS: Final = 512
TICKET_SUBPROTOCOL: Final = "parley.ticket."

Via = Literal["cookie", "bearer", "key", "ticket"]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated caller. `session_id` or `key_id` names the credential behind it; a ticket's is its issuer's.

    `expires_ms`: when the access token ends (ms since the epoch); None for keys and tickets. A WebSocket outlives it
    and ends with the session.
    """

    user_id: str
    role: Role
    zone: str
    via: Via
    session_id: str | None = None
    key_id: str | None = None
    scopes: tuple[Scope, ...] = SCOPES
    expires_ms: int | None = None

    @property
    def subject(self) -> str | None:
        """What a revocation names."""
        return self.session_id or self.key_id

    def ended_by(self, user_id: str, subject: str | None) -> bool:
        """Whether a revocation of `subject` (None: everything of the user's) ends this identity."""
        return user_id == self.user_id and subject in (None, self.subject)


class CookieNames(msgspec.Struct, frozen=True):
    """With HTTPS the prefixes make browsers refuse cookies that another host or plain HTTP has set."""

    session: str
    refresh: str
    csrf: str

    @classmethod
    def of(cls, https: bool) -> CookieNames:
        if https:
            return cls("__Host-parley_session", "__Secure-parley_refresh", "__Host-parley_csrf")
        return cls("parley_session", "parley_refresh", "parley_csrf")


class Origins:
    """Which pages may act with a user's cookies: those of the allow-list and those this gateway serves itself.

    `ports` are the ports that this host's gateways serve pages on: a page of `http://host:port` may use the WebSocket
    listener of the same host on its other port.
    """

    def __init__(self, allowed: Iterable[str], https: bool, ports: Iterable[int]) -> None:
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed)
        self._scheme = "https" if https else "http"
        self._default_port = 443 if https else 80
        self._ports = frozenset(ports)
        self._known: set[tuple[str, str]] = set()

    def allows(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may act on the server that was addressed as `host` (a Host header).

        The pairs that were allowed are remembered, 1,024 at most: a gateway's pages have few.
        """
        pair = (origin, host)
        if pair in self._known:
            return True
        if not self._check(origin, host):
            return False
        if len(self._known) >= PAIRS_KNOWN:
            self._known.clear()
        if len(origin) + len(host) <= PAIR_CHARS:
            self._known.add(pair)
        return True

    def _check(self, origin: str, host: str) -> bool:
        origin = origin.lower()
        if origin in self._allowed:
            return True
        try:
            page, server = urlsplit(origin), urlsplit("//" + host.lower())
            page_port, server_port = page.port or self._default_port, server.port or self._default_port
        except ValueError:
            return False
        if "@" in page.netloc or origin != f"{page.scheme}://{page.netloc}":
            return False  # an Origin is a scheme, a host and a port, and nothing more
        if page.scheme != self._scheme or not page.hostname or page.hostname != server.hostname:
            return False
        return page_port == server_port or page_port in self._ports


class Identities:
    """Identifies callers. Access tokens need no store; API keys come through a `KeyCache`; tickets need Redis.

    Raises `ParleyError`: `unauthorized`, `forbidden` (suspended, foreign page, no CSRF token), `unavailable`.
    """

    def __init__(
        self,
        keys: KeyCache,
        tickets: Tickets,
        tokens: AccessTokens,
        refresh_tokens: RefreshTokens,
        revocations: Revocations,
        origins: Origins,
        https: bool,
    ) -> None:
        self._keys = keys
        self._tickets = tickets
        self._tokens = tokens
        self._refresh_tokens = refresh_tokens
        self._revocations = revocations
        self._origins = origins
        self.cookie_names: Final = CookieNames.of(https)

    async def of_http(self, method: str, headers: Mapping[str, str]) -> Identity:
        """The caller of an HTTP request. `headers` by lower-case name."""
        authorization = headers.get("authorization")
        if authorization is not None:
            credential = _bearer(authorization)
            return await self._key(credential) if is_api_key(credential) else self._token(credential)
        identity = self._cookie(headers)
        if method not in ("GET", "HEAD", "OPTIONS"):
            assert identity.session_id is not None
            self.check_page(headers, identity.session_id)
        return identity

    async def of_websocket(self, headers: Mapping[str, str], subprotocols: Sequence[str]) -> Identity:
        """The caller of a handshake. A ticket comes as one of the subprotocols; it is never the one to answer with."""
        known = self.at_once(headers, subprotocols)
        if known is not None:
            return known
        authorization = headers.get("authorization")
        if authorization is not None:
            return await self._key(_bearer(authorization))
        return await self._ticket(_ticket_of(subprotocols) or "")

    def at_once(self, headers: Mapping[str, str], subprotocols: Sequence[str]) -> Identity | None:
        """The same where no store need be asked; None: ask `of_websocket`."""
        authorization = headers.get("authorization")
        if authorization is not None:
            credential = _bearer(authorization)
            return None if is_api_key(credential) else self._token(credential)
        if _ticket_of(subprotocols) is not None:
            return None
        identity = self._cookie(headers)
        origin = headers.get("origin")
        if origin is None or not self._origins.allows(origin, headers.get("host", "")):
            raise _foreign_page()
        return identity

    def check_page(self, headers: Mapping[str, str], session_id: str) -> None:
        """What a change on the strength of a cookie needs: no foreign Origin, and the session's CSRF token both as
        cookie and as header. Raises `forbidden`.
        """
        self.check_origin(headers)
        expected = self._refresh_tokens.csrf(session_id)
        given = headers.get(CSRF_HEADER, "")
        cookie = read_cookie(headers, self.cookie_names.csrf) or ""
        # Both are compared whatever the first one gives.
        if not (_same(given, expected) & _same(cookie, expected)):
            message = f"A change with a session cookie needs the header X-CSRF-Token: {self.cookie_names.csrf}'s value."
            raise ParleyError("forbidden", message, param="X-CSRF-Token")

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """Refuses a page of an origin that is not ours. Programs send no Origin. Raises `forbidden`."""
        origin = headers.get("origin")
        if origin is not None and not self._origins.allows(origin, headers.get("host", "")):
            raise _foreign_page()

    def _token(self, token: str) -> Identity:
        return self._accept(self._tokens.verify(token), "bearer")

    def _cookie(self, headers: Mapping[str, str]) -> Identity:
        token = read_cookie(headers, self.cookie_names.session)
        if token is None:
            raise ParleyError("unauthorized", "Sign in: no session cookie and no Authorization header came with this.")
        return self._accept(self._tokens.verify(token), "cookie")

    def _accept(self, claims: Claims | None, via: Via) -> Identity:
        if claims is None:
            raise ParleyError("unauthorized", "The access token is not valid or has expired; refresh it or sign in.")
        return self._unless_revoked(
            Identity(
                user_id=claims.sub,
                role=claims.role,
                zone=claims.zone,
                via=via,
                session_id=claims.sid,
                expires_ms=claims.exp * 1000,
            )
        )

    async def _ticket(self, text: str) -> Identity:
        try:
            ticket = await self._tickets.redeem(text)
        except Unavailable as error:
            message = "Tickets cannot be checked right now; use a session cookie or an access token, or try again."
            raise ParleyError("unavailable", message, retry_after_ms=1000) from error
        if ticket is None:
            raise ParleyError("unauthorized", "The ticket is unknown, used or older than 30 s; ask for another one.")
        return self._unless_revoked(
            Identity(
                user_id=ticket.user_id,
                role=ticket.role,
                zone=ticket.zone,
                via="ticket",
                session_id=ticket.session_id,
                key_id=ticket.key_id,
                scopes=ticket.scopes,
            )
        )

    async def _key(self, secret: str) -> Identity:
        found = await self._keys.find(secret)
        if found is None:
            raise ParleyError("unauthorized", "The API key is not valid; make one at POST /v1/keys.")
        key, user = found
        if user.status != "active":
            raise _suspended()
        return self._unless_revoked(
            Identity(user_id=user.id, role=user.role, zone=user.zone, via="key", key_id=key.id, scopes=key.scopes)
        )

    def _unless_revoked(self, identity: Identity) -> Identity:
        reason = self._revocations.reason(identity.user_id, identity.subject)
        if reason == "suspended":
            raise _suspended()
        if reason is not None:
            raise ParleyError("unauthorized", "The session was ended or the key deleted; sign in again.")
        return identity


def ticket_for(identity: Identity) -> Ticket:
    """What a ticket must carry to stand for this caller."""
    return Ticket(
        user_id=identity.user_id,
        role=identity.role,
        zone=identity.zone,
        session_id=identity.session_id,
        key_id=identity.key_id,
        scopes=identity.scopes,
    )


def require_scope(identity: Identity, scope: Scope) -> None:
    """Raises `forbidden` where an API key was not made for this."""
    if scope not in identity.scopes:
        raise ParleyError("forbidden", f"This API key has not the scope {scope!r}.")


def read_cookie(headers: Mapping[str, str], name: str) -> str | None:
    """The first cookie of this name."""
    for pair in headers.get("cookie", "").split(";"):
        key, found, value = pair.strip().partition("=")
        if found and key == name:
            return value
    return None


def _bearer(value: str) -> str:
    """The credential of an Authorization header."""
    scheme, _, credential = value.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise ParleyError("unauthorized", "The Authorization header must be: Bearer, then an access token or API key.")
    return credential.strip()


def _ticket_of(subprotocols: Sequence[str]) -> str | None:
    for offered in subprotocols:
        if offered.startswith(TICKET_SUBPROTOCOL):
            return offered.removeprefix(TICKET_SUBPROTOCOL)
    return None


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def _foreign_page() -> ParleyError:
    message = "A page of this Origin may not act with a session cookie here; see gateway.origins in the configuration."
    return ParleyError("forbidden", message, param="Origin")


def _suspended() -> ParleyError:
    return ParleyError("forbidden", "This account is suspended.")

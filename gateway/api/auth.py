"""`/v1/auth`: register, log in, refresh, log out."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Request, Response, post
from litestar.params import JSONBody

from core.accounts.model import Session, User, fold_email
from core.auth.opaque import RefreshToken, fingerprint, new_salt
from core.auth.passwords import check_password
from core.errors import ParleyError
from core.ids import uuid7
from gateway.api.bodies import NO_NUL, Body, Line, Secret, StrictJSON
from gateway.api.cookies import SessionCookies
from gateway.api.scope import address_of, headers_of
from gateway.api.services import Services, Svc
from gateway.api.shapes import UserOut
from gateway.identity import read_cookie

WINDOW_S: Final = 900
PER_EMAIL_AND_ADDRESS: Final = 10
PER_EMAIL: Final = 100
PER_ADDRESS: Final = 300
REGISTRATIONS_PER_ADDRESS: Final = 300

_EMAIL: Final = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]{1,253}")

Email = Annotated[str, msgspec.Meta(max_length=254, pattern=NO_NUL)]


class Register(Body, frozen=True, kw_only=True):
    email: Email
    password: Secret
    name: Line = ""
    cookie: bool = True


class Login(Body, frozen=True, kw_only=True):
    """Either email and password, or a single-use code."""

    email: Email | None = None
    password: Secret | None = None
    code: Secret | None = None
    cookie: bool = True


class Refresh(Body, frozen=True, kw_only=True):
    """Programs send their refresh token; browsers send a cookie and nothing here."""

    refresh_token: Secret | None = None
    cookie: bool = True


class Tokens(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`refresh_token` only for programs that asked with `"cookie": false`; `expires_in` in seconds."""

    user: UserOut
    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str | None = None


class AuthController(Controller):
    path = "/v1/auth"
    tags = ("auth",)

    @post("/register", dto=StrictJSON[Register], public=True)
    async def register(
        self, request: Request[Any, Any, Any], services: Svc, data: JSONBody[Register]
    ) -> Response[Tokens]:
        """Makes an account and logs it in."""
        services.identities.check_origin(headers_of(request.scope))
        if not services.config.auth.registration:
            raise ParleyError("forbidden", "Registration is closed here; ask the administrator for an account.")
        check_email(data.email)
        check_password(data.password)
        await limit_attempts(
            services, {f"register {address_of(request.scope, services.hops)}": REGISTRATIONS_PER_ADDRESS}
        )
        hashed = await services.passwords.hash(data.password)
        user_id = uuid7(services.clock.wall_ms())
        user = await services.accounts.create_user(
            user_id, data.email, data.name.strip(), hashed, "user", services.config.zone
        )
        if user is None:
            raise ParleyError("conflict", "This email has an account; log in instead.", param="email")
        return await start_session(services, user, data.cookie, status=201)

    @post("/login", dto=StrictJSON[Login], status_code=200, public=True)
    async def login(self, request: Request[Any, Any, Any], services: Svc, data: JSONBody[Login]) -> Response[Tokens]:
        """Logs in by email and password, or by a single-use code."""
        services.identities.check_origin(headers_of(request.scope))
        if data.code is not None:
            user = await by_code(services, address_of(request.scope, services.hops), data.code)
        elif data.email is not None and data.password is not None:
            user = await by_password(services, address_of(request.scope, services.hops), data.email, data.password)
        else:
            missing = "password" if data.email is not None else "email"
            raise ParleyError("invalid", "Logging in takes email and password, or a code.", param=missing)
        return await start_session(services, user, data.cookie, status=200)

    @post("/refresh", dto=StrictJSON[Refresh], status_code=200, public=True)
    async def refresh(
        self, request: Request[Any, Any, Any], services: Svc, data: JSONBody[Refresh]
    ) -> Response[Tokens]:
        """Rotates the refresh token. A reused one ends the session and with it all of its tokens."""
        session, token = await presented(request, services, data)
        rotated = await services.accounts.rotate(session.id, token.generation, services.config.auth.refresh_s)
        if rotated is None:
            await services.revocations.announce(session.user.id, session.id, "session")
            raise ParleyError("unauthorized", "This refresh token was used before: the session is ended. Log in.")
        return answer(services, rotated, data.cookie, status=200)

    @post("/logout", dto=StrictJSON[Refresh], status_code=204, public=True)
    async def logout(self, request: Request[Any, Any, Any], services: Svc, data: JSONBody[Refresh]) -> Response[None]:
        """Ends the session: of the access token, or of the refresh token where that has expired."""
        user_id, session_id = await self._leaving(request, services, data)
        await services.accounts.revoke_session(session_id)
        await services.revocations.announce(user_id, session_id, "session")
        return Response(None, status_code=204, cookies=cookies(services).cleared())

    async def _leaving(self, request: Request[Any, Any, Any], services: Services, data: Refresh) -> tuple[str, str]:
        try:
            identity = await services.identities.of_http("POST", headers_of(request.scope))
        except ParleyError as error:
            if error.code != "unauthorized":
                raise
        else:
            if identity.session_id is None:
                raise ParleyError("invalid", "An API key has no session to end; delete the key instead.")
            return identity.user_id, identity.session_id
        session, _ = await presented(request, services, data)
        return session.user.id, session.id


async def by_code(services: Services, client: str, code: str) -> User:
    counter = f"code {client}"
    await limit_attempts(services, {counter: PER_ADDRESS})
    user = await services.accounts.use_code(fingerprint(code))
    if user is None:
        raise ParleyError("unauthorized", "The code is unknown, used, or older than 15 minutes.", param="code")
    await services.attempts.forgive([counter])
    return user


async def by_password(services: Services, client: str, email: str, password: str) -> User:
    """The same time and the same words whether the account is missing or the password is wrong."""
    folded = fold_email(email)
    counters = {
        f"login {folded} {client}": PER_EMAIL_AND_ADDRESS,
        f"login {folded}": PER_EMAIL,
        f"login from {client}": PER_ADDRESS,
    }
    await limit_attempts(services, counters)
    found = await services.accounts.credentials(email=email)
    stored = found.password_hash if found else None
    if not await services.passwords.verify(stored, password) or found is None or stored is None:
        raise ParleyError("unauthorized", "Email or password is wrong.")
    await services.attempts.forgive(list(counters))
    if services.passwords.outdated(stored):
        await services.accounts.upgrade_hash(found.user.id, stored, await services.passwords.hash(password))
    return found.user


async def limit_attempts(services: Services, counters: dict[str, int]) -> None:
    wait_ms = await services.attempts.take(counters, WINDOW_S)
    if wait_ms is not None:
        raise ParleyError("rate_limited", "Too many attempts; wait and try again.", retry_after_ms=wait_ms)


async def start_session(services: Services, user: User, cookie: bool, status: int) -> Response[Tokens]:
    if user.status != "active":
        raise ParleyError("forbidden", "This account is suspended.")
    session_id = uuid7(services.clock.wall_ms())
    session = await services.accounts.create_session(session_id, user.id, new_salt(), services.config.auth.refresh_s)
    if session is None:
        raise ParleyError("forbidden", "This account is suspended.")
    return answer(services, session, cookie, status)


def answer(services: Services, session: Session, cookie: bool, status: int) -> Response[Tokens]:
    user = session.user
    access = services.access_tokens.issue(user.id, session.id, user.role, user.zone)
    refresh = services.refresh_tokens.encode(session.id, session.generation, session.salt)
    tokens = Tokens(
        user=UserOut.of(user),
        access_token=access,
        token_type="Bearer",  # noqa: S106
        expires_in=services.access_tokens.lifetime_s,
        refresh_token=None if cookie else refresh,
    )
    csrf = services.refresh_tokens.csrf(session.id)
    given = cookies(services).given(access, refresh, csrf) if cookie else []
    return Response(tokens, status_code=status, cookies=given)


async def presented(request: Request[Any, Any, Any], services: Services, data: Refresh) -> tuple[Session, RefreshToken]:
    """The refresh token of a body or a cookie, used up or not, and its session. Raises `unauthorized`, `forbidden`."""
    headers = headers_of(request.scope)
    text = data.refresh_token or read_cookie(headers, services.identities.cookie_names.refresh)
    token = services.refresh_tokens.decode(text) if text else None
    session = await services.accounts.session(token.session_id) if token else None
    if token is None or session is None or not services.refresh_tokens.verify(token, session.salt):
        raise ParleyError("unauthorized", "The refresh token is missing, not valid, or its session is over. Log in.")
    if data.refresh_token is None:
        services.identities.check_page(headers, session.id)
    return session, token


def cookies(services: Services) -> SessionCookies:
    config = services.config
    return SessionCookies(config.gateway.https, config.auth.access_s, config.auth.refresh_s)


def check_email(email: str) -> None:
    """Raises `invalid` unless it looks like an address: a name, one @, a domain, no space."""
    if not _EMAIL.fullmatch(email.strip()):
        raise ParleyError("invalid", "This is not an email address.", param="email")

"""The HTTP resources over real stores, with turns that a test scripts; and callers of them."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import msgspec
from granian.constants import Interfaces
from granian.server.embed import Server

from core.accounts.model import User
from core.accounts.postgres import PostgresAccounts
from core.accounts.redis import RedisAttempts, RedisRevocations, RedisTickets
from core.auth.opaque import Cursors, RefreshTokens, new_salt
from core.auth.passwords import Passwords
from core.auth.tokens import AccessTokens, SigningKey
from core.catalog.postgres import PostgresCatalog
from core.clock import SystemClock
from core.config import Auth, Config, Gateway, Model, Route
from core.errors import ParleyError
from core.history.port import History
from core.history.postgres import PostgresHistory
from core.idempotency.redis import RedisIdempotency
from core.ids import generation_id, is_uuid7, parse_generation_id
from core.model import Accepted, Continue, Done, EndFrame, Regenerate, Send, ServerFrame
from core.postgres import Statements, open_pool
from core.redis import Redis
from ext.ws_hops import Hops
from gateway.api.app import Api, build_api
from gateway.api.completions_port import CompletionEvent, CompletionRequest
from gateway.api.services import Services
from gateway.api.streams import EventStreams
from gateway.api.turns_port import GenerationView
from gateway.identity import Identities, Identity, Origins
from gateway.keycache import KeyCache
from gateway.revocations import Revocations
from tests.support.polling import eventually
from tests.support.turns import new_id

SIGNING_KEY = SigningKey.generate()
MODELS = (
    Model(
        alias="small",
        routes=(Route(provider="scripted", model="tiny"),),
        context_window=2048,
        max_output=512,
        input_price=10,
        output_price=30,
    ),
)


def done(generation: str, seq: int = -1) -> Done:
    return Done(
        generation_id=generation,
        epoch=0,
        seq=seq,
        finish_reason="stop",
        usage=None,
        cost=0,
        model="small",
        provider="scripted",
    )


class ScriptedTurns:
    """Accepts whatever its owner sends and tells what the test puts into `script`. None in it stays silent."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.frames: list[Send | Regenerate | Continue] = []
        self.asked: list[tuple[str, int, int]] = []
        self.script: list[ServerFrame | ParleyError | None] = []
        self.watching = 0
        self.abandoned: list[str] = []

    async def send(self, identity: Identity, frame: Send) -> Accepted:
        await self._check(identity, frame.conversation_id)
        self.frames.append(frame)
        turn = frame.message_id or new_id()
        return Accepted(message_id=turn, generation_id=generation_id(frame.conversation_id, turn))

    async def regenerate(self, identity: Identity, frame: Regenerate) -> Accepted:
        return await self._branch(identity, frame)

    async def continue_(self, identity: Identity, frame: Continue) -> Accepted:
        return await self._branch(identity, frame)

    async def cancel(self, identity: Identity, generation: str) -> EndFrame:
        await self._conversation(identity, generation)
        return done(generation)

    async def abandon(self, conversation_id: str) -> None:
        self.abandoned.append(conversation_id)

    async def generation(self, identity: Identity, generation: str) -> GenerationView:
        await self._conversation(identity, generation)
        return GenerationView(id=generation, status="running", epoch=0, seq=-1, text="", parts=[], end=None)

    async def watch(self, identity: Identity, generation: str, epoch: int, seq: int) -> AsyncIterator[ServerFrame]:
        await self._conversation(identity, generation)
        self.asked.append((generation, epoch, seq))
        self.watching += 1
        try:
            for step in self.script:
                if step is None:
                    await asyncio.Event().wait()
                elif isinstance(step, ParleyError):
                    raise step
                else:
                    yield step
        finally:
            self.watching -= 1

    async def _branch(self, identity: Identity, frame: Regenerate | Continue) -> Accepted:
        conversation = await self._conversation(identity, frame.generation_id)
        self.frames.append(frame)
        turn = frame.turn_id or new_id()
        return Accepted(message_id=turn, generation_id=generation_id(conversation, turn))

    async def _conversation(self, identity: Identity, generation: str) -> str:
        parsed = parse_generation_id(generation)
        if parsed is None:
            raise ParleyError("not_found", "There is no such answer.", param="generation_id")
        await self._check(identity, parsed[0])
        return parsed[0]

    async def _check(self, identity: Identity, conversation: str) -> None:
        home = await self._history.home(conversation) if is_uuid7(conversation) else None
        if home is None or home.owner != identity.user_id or home.deleted_at_ms is not None:
            raise ParleyError("not_found", "There is no such conversation.", param="conversation_id")


class ScriptedCompletions:
    """Answers with the batches that the test puts into `script`. None in it stays silent."""

    def __init__(self) -> None:
        self.script: list[list[CompletionEvent] | ParleyError | None] = []
        self.requests: list[CompletionRequest] = []
        self.running = 0

    async def stream(self, identity: Identity, request: CompletionRequest) -> AsyncIterator[list[CompletionEvent]]:
        self.requests.append(request)
        self.running += 1
        try:
            for step in list(self.script):
                if step is None:
                    await asyncio.Event().wait()
                elif isinstance(step, ParleyError):
                    raise step
                else:
                    yield step
        finally:
            self.running -= 1


class Caller:
    """One client of the API: a browser with its cookies, or a program with a token."""

    def __init__(self, api: Api, base_url: str, headers: Mapping[str, str] | None = None) -> None:
        transport = httpx.ASGITransport(cast(Any, api), raise_app_exceptions=True, client=("192.0.2.1", 1))
        self.http = httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers)

    @property
    def csrf(self) -> str:
        return self.http.cookies.get("parley_csrf") or self.http.cookies.get("__Host-parley_csrf") or ""

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """`body`: JSON, or bytes as they are. Header names are written with underscores."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes | None) else msgspec.json.encode(body)
        if content is not None:
            sent.setdefault("content-type", "application/json")
        return await self.http.request(method, path, content=content, headers=sent)


class Platform:
    """The resources, what is behind them, and people."""

    def __init__(
        self, services: Services, turns: ScriptedTurns, completions: ScriptedCompletions, redis: Redis
    ) -> None:
        self.services = services
        self.turns = turns
        self.completions = completions
        self.redis = redis
        self.api = build_api(services)
        self.unready: dict[str, str] = {}
        self.told: list[tuple[str, str, Mapping[str, Any]]] = []

    def caller(self, token: str | None = None, base_url: str = "http://chat.test") -> Caller:
        return Caller(self.api, base_url, {"authorization": f"Bearer {token}"} if token else None)

    async def user(self, **changes: Any) -> User:
        fields = {"email": f"{secrets.token_hex(8)}@example.org", "name": "Ann", "password_hash": None}
        made = await self.services.accounts.create_user(new_id(), **{**fields, "role": "user", "zone": "eu", **changes})
        assert made is not None
        return made

    async def token(self, user: User) -> str:
        """An access token of a new session."""
        session = await self.services.accounts.create_session(new_id(), user.id, new_salt(), 3600)
        assert session is not None
        return self.services.access_tokens.issue(user.id, session.id, user.role, user.zone)

    async def signed_in(self) -> tuple[User, Caller]:
        """Somebody new, with an access token."""
        user = await self.user()
        return user, self.caller(await self.token(user))

    async def handshake(self, headers: Mapping[str, str], subprotocols: Sequence[str]) -> Identity:
        """Who opens a WebSocket like this."""
        return await self.services.identities.of_websocket(headers, subprotocols)

    async def conversation(self, user: User) -> str:
        """A conversation of the user's, in history and in the list."""
        conversation = new_id()
        await self.services.history.create_conversation(conversation, user.id, user.zone)
        await self.services.accounts.create_conversation(conversation, user.id, "", None)
        return conversation


@asynccontextmanager
async def open_platform(dsn: str, redis_url: str, **gateway: Any) -> AsyncIterator[Platform]:
    """Everything composed as a gateway does it. `gateway`: settings of that section."""
    config = Config(
        zone="eu",
        default_model="small",
        gateway=Gateway(**{"ws_port": 8081, **gateway}),
        auth=Auth(signing_key=SIGNING_KEY),
        models=MODELS,
    )
    clock, pool, redis = SystemClock(), await open_pool(dsn, 4), Redis(redis_url, 1.0)
    key = SigningKey.load(SIGNING_KEY)
    accounts, statements = PostgresAccounts(pool, 3.0), Statements(pool, 3.0, 3.0)
    history, catalog = PostgresHistory(statements), PostgresCatalog(pool, 3.0, clock)
    tokens, refresh = AccessTokens(key, config.auth.access_s, clock), RefreshTokens(key)
    revocations = Revocations(accounts, RedisRevocations(redis, redis_url, 1.0), clock, config.auth.access_s)
    keys, tickets = KeyCache(accounts, revocations, clock), RedisTickets(redis)
    https = config.gateway.https
    origins = Origins(config.gateway.origins, https, [config.gateway.port])
    turns, completions = ScriptedTurns(history), ScriptedCompletions()
    unready: dict[str, str] = {}
    told: list[tuple[str, str, Mapping[str, Any]]] = []

    async def parts() -> Mapping[str, str]:
        return unready

    services = Services(
        config=config,
        clock=clock,
        accounts=accounts,
        history=history,
        catalog=catalog,
        turns=turns,
        tickets=tickets,
        idempotency=RedisIdempotency(redis),
        attempts=RedisAttempts(redis),
        passwords=Passwords(config.auth.hashes_at_once),
        access_tokens=tokens,
        refresh_tokens=refresh,
        cursors=Cursors(key),
        identities=Identities(keys, tickets, tokens, refresh, revocations, origins, https),
        revocations=revocations,
        streams=EventStreams(config.gateway.max_streams),
        tell=lambda *event: told.append(event),
        unready=parts,
        completions=completions,
        hops=Hops(config.gateway.trusted_proxies, config.gateway.http_client_address),
    )
    platform = Platform(services, turns, completions, redis)
    platform.unready, platform.told = unready, told
    await catalog.seed(MODELS)
    await revocations.start()
    await keys.start()
    try:
        yield platform
    finally:
        services.passwords.close()
        await keys.stop()
        await revocations.stop()
        await catalog.close()
        await redis.close()
        await statements.close()


@asynccontextmanager
async def served(platform: Platform) -> AsyncIterator[str]:
    """The resources under the server that runs them; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(
        platform.api, address="127.0.0.1", port=port, interface=Interfaces.ASGINL, websockets=False, log_enabled=False
    )
    serving = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: _accepts(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()  # type: ignore[no-untyped-call]
        await asyncio.wait_for(serving, 10)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
    except OSError:
        return False
    return True


def refused(response: httpx.Response, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The error of a response, which must have the table's shape, this status and code, and name this field."""
    error: dict[str, Any] = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code), response.text
    assert set(error) == {"code", "message", "type", "param", "retryable", "retry_after_ms", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    assert error["message"]
    if param is not None:
        assert error["param"] == param, response.text
    return error

"""`/v1/conversations/{id}/messages`: what was said, and saying something."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.params import FromPath, JSONBody

from core.errors import ParleyError
from core.history.port import Stored
from core.ids import is_uuid7
from core.model import Accepted, Send
from gateway.api.bodies import Body, Identifier, StrictJSON
from gateway.api.conversations import Cursor, Limit, message_key, owned_home
from gateway.api.scope import headers_of
from gateway.api.services import Caller, Services, Svc
from gateway.api.shapes import MessageOut, MessagePage, answer, user_message
from gateway.api.streams import wants_events
from gateway.identity import Identity, require_scope

IDEMPOTENCY_KEY = "Idempotency-Key"


class NewMessage(Body, frozen=True, kw_only=True):
    """As the frame `send`. `message_id` (or the header Idempotency-Key) makes a retry harmless."""

    content: str
    message_id: Identifier | None = None
    parent_id: Identifier | None = None
    model: Identifier | None = None
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    files: Annotated[list[Identifier], msgspec.Meta(max_length=20)] = msgspec.field(default_factory=list)


class MessagesController(Controller):
    path = "/v1/conversations/{conversation_id:str}/messages"
    tags = ("messages",)

    @get()
    async def show_page(
        self, caller: Caller, services: Svc, conversation_id: FromPath[str], limit: Limit = 50, cursor: Cursor = None
    ) -> MessagePage:
        """Messages and answers of all branches, newest first; a message and its answer are never torn apart."""
        await owned_home(caller, services, conversation_id)
        scope = f"messages {caller.user_id} {conversation_id}"
        before = services.cursors.decode(scope, cursor) if cursor is not None else None
        if cursor is not None and before is None:
            raise ParleyError("invalid", "The cursor is not of this list; begin again without one.", param="cursor")
        page = await services.history.page(conversation_id, before, max(1, limit // 2))
        messages: list[MessageOut] = []
        for stored in page.turns:
            message = user_message(stored)
            messages += [answer(stored)] if message is None else [answer(stored), message]
        return MessagePage(messages, services.cursors.encode(scope, page.before) if page.before else None)

    @get("/{message_id:str}")
    async def show(
        self, caller: Caller, services: Svc, conversation_id: FromPath[str], message_id: FromPath[str]
    ) -> MessageOut:
        """One message, or one answer with its text as stored so far."""
        await owned_home(caller, services, conversation_id)
        key = message_key(conversation_id, message_id)
        turn = await services.history.read(key) if key else None
        if key is None or turn is None:
            raise _no_message()
        if is_uuid7(message_id):
            message = user_message(Stored(turn, ()))
            if message is None:
                raise _no_message()
            return message
        end = turn.end
        epoch, chunks = (end.epoch, end.chunks) if end else (turn.epoch, None)
        return answer(Stored(turn, tuple(await services.history.read_text(key, epoch, chunks))))

    @post(dto=StrictJSON[NewMessage], status_code=202)
    async def send(
        self,
        request: Request[Any, Any, Any],
        caller: Caller,
        services: Svc,
        conversation_id: FromPath[str],
        data: JSONBody[NewMessage],
    ) -> Response[Any]:
        """Sends a message. 202 once it is durable; with `Accept: text/event-stream` 200 and the answer's events."""
        require_scope(caller, "chat")
        frame = Send(
            conversation_id=conversation_id,
            content=data.content,
            message_id=named(request, data.message_id, "message_id"),
            parent_id=data.parent_id,
            files=data.files,
            model=data.model,
            params=data.params,
        )
        events = wants_events(request)
        if events:
            services.streams.check(caller)
        return told(services, caller, await services.turns.send(caller, frame), events)


class AcceptedOut(msgspec.Struct, frozen=True, kw_only=True):
    """The message is durable. `duplicate`: it was before; nothing was started again."""

    message_id: str
    generation_id: str
    duplicate: bool


def named(request: Request[Any, Any, Any], given: str | None, param: str) -> str | None:
    """The id of the turn: from the body, or its twin, the header Idempotency-Key."""
    key = headers_of(request.scope).get(IDEMPOTENCY_KEY.lower())
    if key is None:
        return given
    if not is_uuid7(key) or (given is not None and given != key):
        message = (
            f"{IDEMPOTENCY_KEY} is the twin of {param}: a UUIDv7 in lower case, and the same where both are given."
        )
        raise ParleyError("invalid", message, param=IDEMPOTENCY_KEY)
    return key


def told(services: Services, caller: Identity, accepted: Accepted, events: bool) -> Response[Any]:
    """What opened a turn answers: the ids, or a stream that begins with them."""
    if events:
        frames = services.turns.watch(caller, accepted.generation_id, -1, -1)
        return services.streams.respond(caller, frames, accepted)
    out = AcceptedOut(
        message_id=accepted.message_id, generation_id=accepted.generation_id, duplicate=accepted.duplicate
    )
    return Response(out, status_code=202)


def _no_message() -> ParleyError:
    return ParleyError("not_found", "There is no such message in this conversation.", param="message_id")

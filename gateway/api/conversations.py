"""`/v1/conversations`: the list, and what is kept about each."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Controller, delete, get, patch, post, put
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from core.accounts.model import RESTORE_MS, Change, Conversation
from core.errors import ParleyError
from core.history.port import Home
from core.ids import is_uuid7, parse_generation_id, uuid7
from core.model import TurnKey
from gateway.api.bodies import Body, Identifier, Line, StrictJSON
from gateway.api.services import Caller, Services, Svc
from gateway.api.shapes import ConversationOut, ConversationPage
from gateway.identity import Identity, require_scope

Limit = Annotated[int, QueryParameter(ge=1, le=100, description="How many at most.")]
Cursor = Annotated[str | None, QueryParameter(max_length=512, description="`next_cursor` of the page before.")]


class NewConversation(Body, frozen=True, kw_only=True):
    """`id`: a UUIDv7 of the client's; the same one again finds what was made."""

    id: Identifier | None = None
    title: Line = ""
    model: Identifier | None = None


class ChangeConversation(Body, frozen=True, kw_only=True):
    title: Line | msgspec.UnsetType = msgspec.UNSET
    model: Identifier | msgspec.UnsetType | None = msgspec.UNSET
    pinned: bool | msgspec.UnsetType = msgspec.UNSET
    starred: bool | msgspec.UnsetType = msgspec.UNSET
    archived: bool | msgspec.UnsetType = msgspec.UNSET


class Branch(Body, frozen=True, kw_only=True):
    """The message or answer that ends the branch to show."""

    leaf_id: Identifier


class ConversationsController(Controller):
    path = "/v1/conversations"
    tags = ("conversations",)

    @get()
    async def show_page(
        self, caller: Caller, services: Svc, limit: Limit = 40, cursor: Cursor = None, archived: FromQuery[bool] = False
    ) -> ConversationPage:
        """Conversations by latest activity, archived ones apart."""
        require_scope(caller, "chat")
        scope = f"conversations {caller.user_id} {archived}"
        before = _place(services, scope, cursor)
        found = await services.accounts.list_conversations(caller.user_id, archived, before, limit + 1)
        page = found[:limit]
        more = len(found) > limit
        place = f"{page[-1].active_at_ms} {page[-1].id}" if more else None
        next_cursor = services.cursors.encode(scope, place) if place else None
        return ConversationPage([ConversationOut.of(conversation) for conversation in page], next_cursor)

    @post(dto=StrictJSON[NewConversation])
    async def create(self, caller: Caller, services: Svc, data: JSONBody[NewConversation]) -> ConversationOut:
        """Makes a conversation; the same id again gives what is there."""
        require_scope(caller, "chat")
        conversation_id = data.id or uuid7(services.clock.wall_ms())
        if not is_uuid7(conversation_id):
            raise ParleyError("invalid", "The id of a conversation is a UUIDv7 in lower case.", param="id")
        await check_model(services, data.model)
        home = await services.history.create_conversation(conversation_id, caller.user_id, caller.zone)
        if home.owner != caller.user_id or home.deleted_at_ms is not None:
            raise ParleyError("conflict", "This id was used before; make another one.", param="id")
        made = await services.accounts.create_conversation(
            conversation_id, caller.user_id, data.title.strip(), data.model
        )
        if made is None:
            raise ParleyError("conflict", "This id was used before; make another one.", param="id")
        return _told(caller, services, "created", made)

    @get("/{conversation_id:str}")
    async def show(self, caller: Caller, services: Svc, conversation_id: FromPath[str]) -> ConversationOut:
        return ConversationOut.of(await owned(caller, services, conversation_id))

    @patch("/{conversation_id:str}", dto=StrictJSON[ChangeConversation])
    async def change(
        self, caller: Caller, services: Svc, conversation_id: FromPath[str], data: JSONBody[ChangeConversation]
    ) -> ConversationOut:
        """Renames, pins, stars, archives, or sets the model for what is sent from now on."""
        await owned(caller, services, conversation_id)
        if isinstance(data.model, str):
            await check_model(services, data.model)
        change = Change(
            title=data.title.strip() if isinstance(data.title, str) else msgspec.UNSET,
            model=data.model,
            pinned=data.pinned,
            starred=data.starred,
            archived=data.archived,
        )
        return await _changed(caller, services, conversation_id, change)

    @delete("/{conversation_id:str}")
    async def remove(self, caller: Caller, services: Svc, conversation_id: FromPath[str]) -> None:
        """Hides it and cancels what runs in it; it can be restored for 30 days."""
        await owned_home(caller, services, conversation_id, deleted=None)
        now_ms = services.clock.wall_ms()
        await services.history.set_deleted(conversation_id, now_ms)
        await services.turns.abandon(conversation_id)
        await services.accounts.set_conversation_deleted(conversation_id, caller.user_id, now_ms)
        services.tell(caller.user_id, "conversation.deleted", {"conversation_id": conversation_id})

    @post("/{conversation_id:str}/restore", status_code=200)
    async def restore(self, caller: Caller, services: Svc, conversation_id: FromPath[str]) -> ConversationOut:
        """Brings a deleted conversation back; one that is not deleted stays as it is."""
        home = await owned_home(caller, services, conversation_id, deleted=None)
        if home.deleted_at_ms is not None:
            if services.clock.wall_ms() - home.deleted_at_ms > RESTORE_MS:
                raise _no_conversation()
            await services.history.set_deleted(conversation_id, None)
        restored = await services.accounts.set_conversation_deleted(conversation_id, caller.user_id, None)
        if restored is None:
            restored = await services.accounts.create_conversation(conversation_id, caller.user_id, "", None)
        if restored is None:
            raise _no_conversation()
        return _told(caller, services, "restored", restored)

    @put("/{conversation_id:str}/branch", dto=StrictJSON[Branch])
    async def choose_branch(
        self, caller: Caller, services: Svc, conversation_id: FromPath[str], data: JSONBody[Branch]
    ) -> ConversationOut:
        """Keeps which branch the user looks at, for all of their devices."""
        await owned_home(caller, services, conversation_id)
        key = message_key(conversation_id, data.leaf_id)
        if key is None or await services.history.read(key) is None:
            raise ParleyError("not_found", "There is no such message in this conversation.", param="leaf_id")
        return await _changed(caller, services, conversation_id, Change(leaf=data.leaf_id))


async def owned(caller: Identity, services: Services, conversation_id: str) -> Conversation:
    """The metadata of the caller's own conversation: another's, a deleted and an absent one look the same."""
    require_scope(caller, "chat")
    if not is_uuid7(conversation_id):
        raise _no_conversation()
    found = await services.accounts.conversation(conversation_id, caller.user_id)
    if found is None or found.deleted_at_ms is not None:
        raise _no_conversation()
    return found


async def owned_home(caller: Identity, services: Services, conversation_id: str, deleted: bool | None = False) -> Home:
    """The caller's own conversation as history holds it, which needs no metadata; `deleted` None: either way."""
    require_scope(caller, "chat")
    home = await services.history.home(conversation_id) if is_uuid7(conversation_id) else None
    if home is None or home.owner != caller.user_id:
        raise _no_conversation()
    if deleted is not None and deleted != (home.deleted_at_ms is not None):
        raise _no_conversation()
    return home


def message_key(conversation_id: str, message_id: str) -> TurnKey | None:
    """The turn of a message's or an answer's id; None where it is none of this conversation."""
    if is_uuid7(message_id):
        return TurnKey(conversation_id, message_id)
    parsed = parse_generation_id(message_id)
    return TurnKey(*parsed) if parsed and parsed[0] == conversation_id else None


async def check_model(services: Services, alias: str | None) -> None:
    if alias is not None and await services.catalog.model(alias) is None:
        raise ParleyError("invalid", "There is no such model; GET /v1/models lists them.", param="model")


async def _changed(caller: Identity, services: Services, conversation_id: str, change: Change) -> ConversationOut:
    changed = await services.accounts.change_conversation(conversation_id, caller.user_id, change)
    if changed is None:
        raise _no_conversation()
    return _told(caller, services, "updated", changed)


def _told(caller: Identity, services: Services, what: str, conversation: Conversation) -> ConversationOut:
    """The answer, which the user's devices are told as an event."""
    out = ConversationOut.of(conversation)
    data = {"conversation_id": out.id, "conversation": msgspec.to_builtins(out)}
    services.tell(caller.user_id, f"conversation.{what}", data)
    return out


def _place(services: Services, scope: str, cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    place = services.cursors.decode(scope, cursor)
    if place is None:
        raise ParleyError("invalid", "The cursor is not of this list; begin again without one.", param="cursor")
    at_ms, _, last = place.partition(" ")
    return int(at_ms), last


def _no_conversation() -> ParleyError:
    return ParleyError("not_found", "There is no such conversation.", param="conversation_id")

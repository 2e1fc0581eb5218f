"""`/v1/keys`: the caller's API keys."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Controller, delete, get, post
from litestar.params import FromPath, JSONBody

from core.accounts.model import MAX_KEYS_PER_USER, Scope
from core.auth.opaque import KEY_SHOWN_CHARS, fingerprint, new_api_key
from core.errors import ParleyError
from core.ids import is_uuid7, uuid7
from gateway.api.bodies import NO_NUL, Body, StrictJSON
from gateway.api.services import Caller, Svc
from gateway.api.shapes import KeyOut
from gateway.identity import require_scope

KeyName = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=NO_NUL)]


class NewKey(Body, frozen=True, kw_only=True):
    """`chat`: conversations, answers, models. `account`: this account and its keys."""

    name: KeyName
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1, max_length=2)] = ("chat",)


class KeyList(msgspec.Struct, frozen=True):
    data: list[KeyOut]
    next_cursor: str | None


class KeysController(Controller):
    path = "/v1/keys"
    tags = ("keys",)

    @get()
    async def show(self, caller: Caller, services: Svc) -> KeyList:
        """All keys, newest first (there are at most 100)."""
        require_scope(caller, "account")
        keys = await services.accounts.keys_of(caller.user_id)
        return KeyList([KeyOut.of(key) for key in keys], None)

    @post(dto=StrictJSON[NewKey])
    async def create(self, caller: Caller, services: Svc, data: JSONBody[NewKey]) -> KeyOut:
        """Makes a key. It is shown here once."""
        require_scope(caller, "account")
        for scope in data.scopes:
            # A key makes no key that may do more than itself.
            require_scope(caller, scope)
        secret = new_api_key()
        key = await services.accounts.create_key(
            uuid7(services.clock.wall_ms()),
            caller.user_id,
            data.name,
            secret[:KEY_SHOWN_CHARS],
            fingerprint(secret),
            tuple(dict.fromkeys(data.scopes)),
        )
        if key is None:
            raise ParleyError("conflict", f"There are {MAX_KEYS_PER_USER} keys already; delete one first.")
        return KeyOut.of(key, secret)

    @delete("/{key_id:str}")
    async def remove(self, caller: Caller, services: Svc, key_id: FromPath[str]) -> None:
        """Deletes a key; what uses it is closed within 5 s."""
        require_scope(caller, "account")
        if not is_uuid7(key_id) or not await services.accounts.delete_key(caller.user_id, key_id):
            raise ParleyError("not_found", "There is no such key.", param="key_id")
        await services.revocations.announce(caller.user_id, key_id, "key")

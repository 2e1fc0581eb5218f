"""The owner of an embedded stack: an account made on the first start, let in by a single-use link."""

from __future__ import annotations

import time

from cli.layout import Layout, read_json, write_json
from core.accounts.model import LOGIN_CODE_S
from core.accounts.port import Accounts
from core.auth.opaque import KEY_SHOWN_CHARS, fingerprint, new_api_key, new_secret
from core.compose import administration
from core.config import Config
from core.ids import uuid7

EMAIL = "owner@localhost"
NAME = "Owner"
KEY_NAME = "parley chat on this machine"


async def prepare(config: Config, layout: Layout, url: str) -> str:
    """Makes the catalog agree with the configuration and the owner's account exist; returns the link that logs the
    owner in, once, within 15 minutes. Raises `Unavailable`, `Unknown`, `OSError`.
    """
    async with administration(config) as (accounts, catalog):
        await catalog.seed(config.models)
        user_id = await _account(accounts, layout, config.zone)
        code = new_secret()
        await accounts.create_code(user_id, fingerprint(code), LOGIN_CODE_S)
    return f"{url}/#code={code}"


async def _account(accounts: Accounts, layout: Layout, zone: str) -> str:
    """The owner's id. What identifies account and key is written down before they are made, so a start that was cut
    short is completed by the next one.
    """
    known = read_json(layout.owner)
    if known and await accounts.user(known["user_id"]) is not None:
        return str(known["user_id"])
    if not known or known.get("made"):
        now = time.time_ns() // 1_000_000
        known = {"user_id": uuid7(now), "key_id": uuid7(now), "key": new_api_key()}
        write_json(layout.owner, known)
    user_id, key = str(known["user_id"]), str(known["key"])
    if await accounts.create_user(user_id, EMAIL, NAME, None, "admin", zone) is None:
        holder = await accounts.credentials(email=EMAIL)
        assert holder is not None, "the address was taken a moment ago"
        user_id = holder.user.id
    await accounts.create_key(
        known["key_id"], user_id, KEY_NAME, key[:KEY_SHOWN_CHARS], fingerprint(key), ("chat", "account")
    )
    write_json(layout.owner, known | {"user_id": user_id, "made": True})
    return user_id

"""The contract of `core.accounts.port.Accounts`, held by PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest

from core.accounts.model import MAX_KEYS_PER_USER, MAX_SESSIONS_PER_USER, Change, Touch, User
from core.accounts.postgres import PostgresAccounts
from core.auth.opaque import fingerprint, new_salt
from core.errors import Unavailable, Unknown
from core.ids import uuid7
from core.postgres import Pool, open_pool
from tests.support.postgres import PostgresServer

DAY_S = 24 * 3600


_numbers = itertools.count()


def new_id() -> str:
    """Greater than every id before it, also within a millisecond."""
    return uuid7(time.time_ns() // 1_000_000, next(_numbers) << 40)


@pytest.fixture
async def pool(shared_dsn: str) -> AsyncIterator[Pool]:
    pool = await open_pool(shared_dsn, 4)
    await pool.execute("TRUNCATE users, revocations CASCADE")
    yield pool
    with suppress(TimeoutError):
        await asyncio.wait_for(pool.close(), 2)
    pool.terminate()


@pytest.fixture
def accounts(pool: Pool) -> PostgresAccounts:
    return PostgresAccounts(pool, 3.0)


async def new_user(accounts: PostgresAccounts, email: str = "ann@example.org") -> User:
    user = await accounts.create_user(new_id(), email, "Ann", "hash", "user", "eu")
    assert user is not None
    return user


class TestUsers:
    async def test_an_account_is_found_by_id_and_by_folded_email(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts, " Ann@Example.ORG ")
        assert (user.email, user.role, user.zone, user.status) == ("ann@example.org", "user", "eu", "active")
        assert await accounts.user(user.id) == user
        found = await accounts.credentials(email="ANN@example.org")
        assert found is not None
        assert (found.user, found.password_hash) == (user, "hash")
        assert await accounts.credentials(email="bob@example.org") is None
        assert await accounts.user(new_id()) is None

    async def test_an_email_belongs_to_one_account(self, accounts: PostgresAccounts) -> None:
        ids = [new_id() for _ in range(8)]
        made = await asyncio.gather(
            *(accounts.create_user(each, "ann@example.org", "Ann", None, "user", "eu") for each in ids)
        )
        assert sum(user is not None for user in made) == 1

    async def test_the_same_creation_again_finds_it_made(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        assert await accounts.create_user(user.id, user.email, "Other", None, "admin", "us") == user

    async def test_name_and_role_change(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        renamed = await accounts.rename(user.id, "Anna")
        promoted = await accounts.set_role(user.id, "admin")
        assert renamed is not None
        assert promoted is not None
        assert (renamed.name, promoted.name, promoted.role) == ("Anna", "Anna", "admin")
        assert await accounts.rename(new_id(), "Nobody") is None

    async def test_a_new_password_ends_the_other_sessions(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        kept, lost = new_id(), new_id()
        for each in (kept, lost):
            await accounts.create_session(each, user.id, new_salt(), DAY_S)
        assert await accounts.set_password(user.id, "new hash", keep_session=kept)
        assert await accounts.session(kept) is not None
        assert await accounts.session(lost) is None
        assert not await accounts.set_password(new_id(), "new hash", None)

    async def test_an_upgraded_hash_never_overwrites_a_newer_password(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        await accounts.upgrade_hash(user.id, "another", "wrong")
        await accounts.upgrade_hash(user.id, "hash", "better")
        found = await accounts.credentials(user_id=user.id)
        assert found is not None
        assert found.password_hash == "better"

    async def test_suspension_ends_sessions_and_is_logged_before_them(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        session = new_id()
        since = await accounts.now_ms()
        await accounts.create_session(session, user.id, new_salt(), DAY_S)
        suspended = await accounts.set_status(user.id, "suspended")
        assert suspended is not None
        assert suspended.status == "suspended"
        assert await accounts.session(session) is None
        assert await accounts.create_session(new_id(), user.id, new_salt(), DAY_S) is None
        assert (await accounts.set_status(user.id, "suspended")) == suspended
        await accounts.set_status(user.id, "active")
        log = [(row.user_id, row.subject, row.reason) for row in await accounts.revocations(since, 100)]
        assert log == [(user.id, None, "suspended"), (user.id, session, "session"), (user.id, None, "restored")]

    async def test_a_closed_account_leaves_nothing_to_sign_in_with(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        session, key = new_id(), new_id()
        since = await accounts.now_ms()
        await accounts.create_session(session, user.id, new_salt(), DAY_S)
        await accounts.create_key(key, user.id, "laptop", "sk-", fingerprint("k"), ("chat",))
        await accounts.create_code(user.id, fingerprint("c"), 60)
        assert await accounts.close_user(user.id)
        assert not await accounts.close_user(user.id)
        assert await accounts.user(user.id) is None
        assert await accounts.credentials(email=user.email) is None
        assert await accounts.session(session) is None
        assert await accounts.find_key(fingerprint("k")) is None
        assert await accounts.use_code(fingerprint("c")) is None
        log = {(row.subject, row.reason) for row in await accounts.revocations(since, 100)}
        assert log == {(session, "session"), (key, "key")}
        await new_user(accounts, user.email)

    async def test_a_login_code_is_taken_once(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        await accounts.create_code(user.id, fingerprint("code"), 60)
        taken = await asyncio.gather(*(accounts.use_code(fingerprint("code")) for _ in range(8)))
        assert [each for each in taken if each] == [user]

    async def test_an_expired_code_is_none(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        await accounts.create_code(user.id, fingerprint("code"), 0)
        assert await accounts.use_code(fingerprint("code")) is None


class TestSessions:
    async def test_a_session_lives_until_it_is_revoked(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        salt, since = new_salt(), await accounts.now_ms()
        session = await accounts.create_session(new_id(), user.id, salt, DAY_S)
        assert session is not None
        assert (session.user, session.salt, session.generation) == (user, salt, 0)
        assert session.expires_at_ms - session.created_at_ms == DAY_S * 1000
        assert await accounts.session(session.id) == session
        assert await accounts.revoke_session(session.id)
        assert not await accounts.revoke_session(session.id)
        assert await accounts.session(session.id) is None
        log = await accounts.revocations(since, 100)
        assert [(row.user_id, row.subject, row.reason) for row in log] == [(user.id, session.id, "session")]

    async def test_an_expired_session_is_over_and_told_like_a_revoked_one(self, accounts: PostgresAccounts) -> None:
        user, session, since = await new_user(accounts), new_id(), await accounts.now_ms()
        assert await accounts.create_session(session, user.id, new_salt(), 0) is None
        assert await accounts.session(session) is None
        log = await accounts.revocations(since, 100)
        assert [(row.subject, row.reason) for row in log] == [(session, "session")]

    async def test_refresh_rotates(self, accounts: PostgresAccounts) -> None:
        user, session = await new_user(accounts), new_id()
        await accounts.create_session(session, user.id, new_salt(), 60)
        first = await accounts.rotate(session, 0, DAY_S)
        second = await accounts.rotate(session, 1, DAY_S)
        assert first is not None
        assert second is not None
        assert (first.generation, second.generation) == (1, 2)
        assert second.expires_at_ms - second.created_at_ms > (DAY_S - 10) * 1000

    async def test_a_lost_reply_gets_the_same_successor(self, accounts: PostgresAccounts) -> None:
        user, session = await new_user(accounts), new_id()
        await accounts.create_session(session, user.id, new_salt(), DAY_S)
        answers = await asyncio.gather(*(accounts.rotate(session, 0, DAY_S) for _ in range(8)))
        assert {answer.generation for answer in answers if answer} == {1}
        assert None not in answers

    async def test_an_older_token_ends_the_session(self, accounts: PostgresAccounts) -> None:
        user, session = await new_user(accounts), new_id()
        await accounts.create_session(session, user.id, new_salt(), DAY_S)
        await accounts.rotate(session, 0, DAY_S)
        await accounts.rotate(session, 1, DAY_S)
        assert await accounts.rotate(session, 0, DAY_S) is None
        assert await accounts.session(session) is None
        assert await accounts.rotate(session, 2, DAY_S) is None

    async def test_the_last_token_ends_the_session_after_the_grace(
        self, accounts: PostgresAccounts, pool: Pool
    ) -> None:
        user, session = await new_user(accounts), new_id()
        await accounts.create_session(session, user.id, new_salt(), DAY_S)
        await accounts.rotate(session, 0, DAY_S)
        await pool.execute("UPDATE sessions SET rotated_at_ms = rotated_at_ms - 10001")
        assert await accounts.rotate(session, 0, DAY_S) is None
        assert await accounts.session(session) is None

    async def test_the_oldest_sessions_make_room(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        ids = [new_id() for _ in range(MAX_SESSIONS_PER_USER + 1)]
        for each in ids:
            await accounts.create_session(each, user.id, new_salt(), DAY_S)
        assert await accounts.session(ids[0]) is None
        assert await accounts.session(ids[1]) is not None
        assert await accounts.revoke_sessions(user.id) == MAX_SESSIONS_PER_USER

    async def test_the_log_is_read_in_pages(self, accounts: PostgresAccounts) -> None:
        user, since = await new_user(accounts), await accounts.now_ms()
        ids = [new_id() for _ in range(5)]
        for each in ids:
            await accounts.create_session(each, user.id, new_salt(), DAY_S)
            await accounts.revoke_session(each)
        page = await accounts.revocations(since, 3)
        assert [row.subject for row in page] == ids[:3]

    async def test_purge_keeps_what_still_counts(self, accounts: PostgresAccounts, pool: Pool) -> None:
        user, session = await new_user(accounts), new_id()
        await accounts.create_session(session, user.id, new_salt(), DAY_S)
        await accounts.create_code(user.id, fingerprint("old"), -1)
        await accounts.create_code(user.id, fingerprint("new"), 60)
        assert await accounts.purge() == 1
        assert await accounts.session(session) is not None
        await accounts.revoke_session(session)
        assert await accounts.purge() == 0
        await pool.execute("UPDATE sessions SET revoked_at_ms = revoked_at_ms - $1::bigint", 31 * DAY_S * 1000)
        await pool.execute("UPDATE revocations SET at_ms = at_ms - $1::bigint", 2 * DAY_S * 1000)
        assert await accounts.purge() == 2


class TestKeys:
    async def test_a_key_is_found_by_its_hash_until_it_is_deleted(self, accounts: PostgresAccounts) -> None:
        user, since = await new_user(accounts), await accounts.now_ms()
        key = await accounts.create_key(new_id(), user.id, "laptop", "sk-parley-ab", fingerprint("k"), ("chat",))
        assert key is not None
        assert await accounts.find_key(fingerprint("k")) == (key, user)
        assert await accounts.keys_of(user.id) == [key]
        assert not await accounts.delete_key(new_id(), key.id)
        assert await accounts.delete_key(user.id, key.id)
        assert not await accounts.delete_key(user.id, key.id)
        assert await accounts.find_key(fingerprint("k")) is None
        assert [(row.subject, row.reason) for row in await accounts.revocations(since, 9)] == [(key.id, "key")]

    async def test_a_user_has_so_many_keys(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        names = [f"key {number}" for number in range(MAX_KEYS_PER_USER + 1)]
        made = [await accounts.create_key(new_id(), user.id, name, "sk-", fingerprint(name), ()) for name in names]
        assert None not in made[:-1]
        assert made[-1] is None

    async def test_use_is_noted_and_never_goes_back(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        key = await accounts.create_key(new_id(), user.id, "laptop", "sk-", fingerprint("k"), ("chat", "account"))
        assert key is not None
        await accounts.touch_keys({key.id: 2_000, new_id(): 1})
        await accounts.touch_keys({key.id: 1_000})
        assert [each.last_used_at_ms for each in await accounts.keys_of(user.id)] == [2_000]


class TestConversations:
    async def test_creation_is_repeatable_and_ids_are_the_owners(self, accounts: PostgresAccounts) -> None:
        ann, bob = await new_user(accounts), await new_user(accounts, "bob@example.org")
        made = await accounts.create_conversation(new_id(), ann.id, "First", "small")
        assert made is not None
        assert (made.owner, made.title, made.model, made.leaf, made.pinned) == (ann.id, "First", "small", None, False)
        assert await accounts.create_conversation(made.id, ann.id, "Second", None) == made
        assert await accounts.create_conversation(made.id, bob.id, "Mine", None) is None
        assert await accounts.conversation(made.id, bob.id) is None
        assert await accounts.change_conversation(made.id, bob.id, Change(title="Mine")) is None
        assert await accounts.set_conversation_deleted(made.id, bob.id, 1) is None
        await accounts.touch_conversations([Touch(made.id, bob.id, made.active_at_ms + 1_000, "Mine")])
        assert await accounts.conversation(made.id, ann.id) == made

    async def test_lists_go_by_activity_in_pages(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        ids = [new_id() for _ in range(7)]
        for each in ids:
            await accounts.create_conversation(each, user.id, "", None)
        later = await accounts.now_ms() + 60_000
        for each in ids[:3]:
            await accounts.touch_conversations([Touch(each, user.id, later, "")])
        seen: list[str] = []
        before = None
        while page := await accounts.list_conversations(user.id, False, before, 2):
            assert len(page) <= 2
            seen += [each.id for each in page]
            before = (page[-1].active_at_ms, page[-1].id)
        assert seen == [*reversed(ids[:3]), *reversed(ids[3:])]

    async def test_changes_apply_to_the_named_fields_only(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        made = await accounts.create_conversation(new_id(), user.id, "First", "small")
        assert made is not None
        assert await accounts.change_conversation(made.id, user.id, Change()) == made
        changed = await accounts.change_conversation(
            made.id, user.id, Change(title="Second", model=None, leaf="leaf", pinned=True, archived=True)
        )
        assert changed is not None
        assert (changed.title, changed.model, changed.leaf) == ("Second", None, "leaf")
        assert (changed.pinned, changed.starred, changed.archived) == (True, False, True)
        assert await accounts.list_conversations(user.id, False, None, 10) == []
        assert await accounts.list_conversations(user.id, True, None, 10) == [changed]

    async def test_activity_names_the_nameless_and_never_goes_back(self, accounts: PostgresAccounts) -> None:
        user, conversation = await new_user(accounts), new_id()
        await accounts.touch_conversations([Touch(conversation, user.id, 5_000, "From the first message")])
        await accounts.touch_conversations([Touch(conversation, user.id, 4_000, "Another")])
        found = await accounts.conversation(conversation, user.id)
        assert found is not None
        assert (found.title, found.active_at_ms) == ("From the first message", 5_000)

    async def test_deleted_ones_are_hidden_and_come_back(self, accounts: PostgresAccounts) -> None:
        user = await new_user(accounts)
        made = await accounts.create_conversation(new_id(), user.id, "First", None)
        assert made is not None
        for at_ms in (1_000, 2_000):
            deleted = await accounts.set_conversation_deleted(made.id, user.id, at_ms)
            assert deleted is not None
            assert deleted.deleted_at_ms == 1_000
        assert await accounts.list_conversations(user.id, False, None, 10) == []
        assert await accounts.change_conversation(made.id, user.id, Change(title="Second")) is None
        assert await accounts.change_conversation(made.id, user.id, Change()) is None
        assert await accounts.set_conversation_deleted(made.id, user.id, None) == made
        assert await accounts.list_conversations(user.id, False, None, 10) == [made]


class TestFailures:
    async def test_a_store_that_is_away_is_told_and_found_again(
        self, postgres_server: PostgresServer, accounts: PostgresAccounts
    ) -> None:
        user = await new_user(accounts)
        postgres_server.stop()
        try:
            with pytest.raises(Unavailable):
                await accounts.user(user.id)
            with pytest.raises((Unavailable, Unknown)):
                await accounts.rename(user.id, "Anna")
        finally:
            postgres_server.start()
        assert await accounts.user(user.id) == user

    async def test_a_lock_that_is_held_too_long_is_unknown(self, pool: Pool, shared_dsn: str) -> None:
        user = await new_user(PostgresAccounts(pool, 3.0))
        other = await asyncpg.connect(shared_dsn)
        try:
            async with other.transaction():
                await other.execute("UPDATE users SET name = 'locked'")
                with pytest.raises(Unknown):
                    await PostgresAccounts(pool, 0.3).rename(user.id, "Anna")
        finally:
            await other.close()
        assert await PostgresAccounts(pool, 3.0).rename(user.id, "Anna") is not None

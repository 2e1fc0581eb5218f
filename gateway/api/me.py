"""`/v1/me`: the caller's own account."""

from __future__ import annotations

from litestar import Controller, Response, delete, get, patch
from litestar.params import JSONBody

from core.auth.passwords import check_password
from core.errors import ParleyError
from gateway.api.auth import PER_EMAIL_AND_ADDRESS, cookies, limit_attempts
from gateway.api.bodies import Body, Line, Secret, StrictJSON
from gateway.api.services import Caller, Services, Svc
from gateway.api.shapes import UserOut
from gateway.identity import Identity, require_scope


class ChangeMe(Body, frozen=True, kw_only=True):
    """A new password needs the present one, where there is one, and ends all other sessions."""

    name: Line | None = None
    password: Secret | None = None
    current_password: Secret | None = None


class MeController(Controller):
    path = "/v1/me"
    tags = ("me",)

    @get()
    async def show(self, caller: Caller, services: Svc) -> UserOut:
        """The account behind the credentials."""
        user = await services.accounts.user(caller.user_id)
        if user is None:
            raise ParleyError("unauthorized", "This account is closed.")
        return UserOut.of(user)

    @patch(dto=StrictJSON[ChangeMe])
    async def change(self, caller: Caller, services: Svc, data: JSONBody[ChangeMe]) -> UserOut:
        """Changes name or password."""
        require_scope(caller, "account")
        if data.password is not None:
            await change_password(caller, services, data.password, data.current_password)
        if data.name is not None:
            await services.accounts.rename(caller.user_id, data.name.strip())
        user = await services.accounts.user(caller.user_id)
        if user is None:
            raise ParleyError("unauthorized", "This account is closed.")
        return UserOut.of(user)

    @delete()
    async def close(self, caller: Caller, services: Svc) -> Response[None]:
        """Closes the account for good: sessions and keys end, and its conversations can be reached by nobody."""
        if caller.session_id is None:
            raise ParleyError("forbidden", "An account is closed from a login session, not with an API key.")
        keys = await services.accounts.keys_of(caller.user_id)
        await services.accounts.close_user(caller.user_id)
        await services.revocations.announce(caller.user_id, caller.session_id, "session")
        for key in keys:
            await services.revocations.announce(caller.user_id, key.id, "key")
        return Response(None, status_code=204, cookies=cookies(services).cleared())


async def change_password(caller: Identity, services: Services, new: str, current: str | None) -> None:
    """Raises `forbidden` where the present password is not given rightly, `rate_limited` after too many tries."""
    check_password(new)
    counter = f"password {caller.user_id}"
    await limit_attempts(services, {counter: PER_EMAIL_AND_ADDRESS})
    found = await services.accounts.credentials(user_id=caller.user_id)
    stored = found.password_hash if found else None
    if stored is not None and not await services.passwords.verify(stored, current or ""):
        raise ParleyError("forbidden", "The present password is wrong.", param="current_password")
    await services.attempts.forgive([counter])
    await services.accounts.set_password(caller.user_id, await services.passwords.hash(new), caller.session_id)
    await services.revocations.catch_up()

"""`parley admin`: accounts, from the machine that can reach the database."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Awaitable, Callable

from cli import settings
from core.accounts.model import LOGIN_CODE_S, Role, Status, User, fold_email
from core.accounts.port import Accounts
from core.auth.opaque import fingerprint, new_secret
from core.auth.passwords import Passwords, check_password
from core.compose import administration
from core.config import Config
from core.errors import ParleyError
from core.ids import uuid7


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="what", metavar="user", required=True)
    users = actions.add_parser("user", help="accounts").add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (_, text) in ACTIONS.items():
        action = users.add_parser(name, help=text, description=text)
        action.add_argument("email")
        settings.add(action)
        if name == "add":
            action.add_argument("--admin", action="store_true", help="may administer the platform")
            action.add_argument("--name", default="", help="how the person is called")
        if name in ("add", "password"):
            action.add_argument(
                "--password-stdin", action="store_true", help="read the password from stdin; else one is made and shown"
            )


def run(args: argparse.Namespace) -> int:
    return settings.complete(_act(settings.configuration(args), args))


async def _act(config: Config, args: argparse.Namespace) -> int:
    action, _ = ACTIONS[args.action]
    async with administration(config) as (accounts, _catalog):
        print(await action(accounts, config, args))
    return 0


async def _existing(accounts: Accounts, email: str) -> User:
    found = await accounts.credentials(email=fold_email(email))
    if found is None:
        raise ParleyError("not_found", f"there is no account {email}")
    return found.user


async def _password(config: Config, args: argparse.Namespace) -> tuple[str, str]:
    """The password's hash, and what to show of it."""
    given = sys.stdin.readline().rstrip("\n") if args.password_stdin else None
    password = given if given is not None else secrets.token_urlsafe(12)
    check_password(password)
    passwords = Passwords(config.auth.hashes_at_once)
    try:
        return await passwords.hash(password), "" if given is not None else f"\npassword: {password}"
    finally:
        passwords.close()


async def _add(accounts: Accounts, config: Config, args: argparse.Namespace) -> str:
    email = fold_email(args.email)
    if "@" not in email.strip("@"):
        raise ParleyError("invalid", f"{args.email!r} is not an e-mail address", param="email")
    hashed, shown = await _password(config, args)
    role: Role = "admin" if args.admin else "user"
    user_id = uuid7(time.time_ns() // 1_000_000)
    if await accounts.create_user(user_id, email, args.name, hashed, role, config.zone) is None:
        raise ParleyError("conflict", f"there is already an account {email}", param="email")
    return f"{email}: {role} {user_id}{shown}"


async def _set_password(accounts: Accounts, config: Config, args: argparse.Namespace) -> str:
    user = await _existing(accounts, args.email)
    hashed, shown = await _password(config, args)
    await accounts.set_password(user.id, hashed, keep_session=None)
    return f"{user.email}: password changed, logged out everywhere{shown}"


async def _link(accounts: Accounts, config: Config, args: argparse.Namespace) -> str:
    user = await _existing(accounts, args.email)
    code = new_secret()
    await accounts.create_code(user.id, fingerprint(code), LOGIN_CODE_S)
    scheme = "https" if config.gateway.https else "http"
    return f"{scheme}://{config.gateway.host}:{config.gateway.port}/#code={code}"


def _role(role: Role) -> Action:
    async def change(accounts: Accounts, config: Config, args: argparse.Namespace) -> str:
        user = await _existing(accounts, args.email)
        await accounts.set_role(user.id, role)
        return f"{user.email}: {role}"

    return change


def _status(status: Status) -> Action:
    async def change(accounts: Accounts, config: Config, args: argparse.Namespace) -> str:
        user = await _existing(accounts, args.email)
        await accounts.set_status(user.id, status)
        return f"{user.email}: {status}"

    return change


Action = Callable[[Accounts, Config, argparse.Namespace], Awaitable[str]]
ACTIONS: dict[str, tuple[Action, str]] = {
    "add": (_add, "Make an account."),
    "password": (_set_password, "Give an account another password and log it out everywhere."),
    "link": (_link, "Print a link that logs the account in once, within 15 minutes."),
    "promote": (_role("admin"), "Let the account administer the platform."),
    "demote": (_role("user"), "Let it no longer."),
    "suspend": (_status("suspended"), "Log the account out everywhere and keep it out."),
    "restore": (_status("active"), "Let a suspended account in again."),
}

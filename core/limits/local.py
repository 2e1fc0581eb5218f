"""Limits of one process while the shared store is away: a safe share of each, for a bounded number of accounts."""

from __future__ import annotations

from collections import OrderedDict

from core.limits.model import Account, Decision
from core.limits.port import UserLimits

MAX_ACCOUNTS = 20_000
HOLD_MS = 30_000


class LocalLimits:
    """Accounts by least recent use; the one that falls out of `max_accounts` begins anew when it comes back.

    Whoever settles is usually another process, so here a place is given back after `HOLD_MS` at the latest and
    reserved tokens count as used. It is remembered over short recoveries of the store, so that a store that comes
    and goes does not give each time the whole share again.
    """

    def __init__(self, share: float, max_accounts: int = MAX_ACCOUNTS) -> None:
        self._share = share
        self._max_accounts = max_accounts
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    def admit(self, now_ms: int, account: str, turn: str, tokens: int, limits: UserLimits) -> Decision:
        """Decides by the share of the limits; at least one request and one turn stay possible."""
        state = self._accounts.pop(account, None) or Account(HOLD_MS, spend_lapsed=True)
        self._accounts[account] = state
        if len(self._accounts) > self._max_accounts:
            self._accounts.popitem(last=False)
        return state.admit(now_ms, turn, tokens, self._scaled(limits))

    def renew(self, now_ms: int, account: str, turn: str) -> None:
        """Keeps a place taken here."""
        if state := self._accounts.get(account):
            state.renew(now_ms, turn)

    def settle(self, now_ms: int, account: str, turn: str, tokens: int) -> None:
        """Gives back a place taken here."""
        if state := self._accounts.get(account):
            state.settle(now_ms, turn, tokens)

    def _scaled(self, limits: UserLimits) -> UserLimits:
        return UserLimits(
            requests_per_minute=_part(limits.requests_per_minute, self._share),
            turns_at_once=_part(limits.turns_at_once, self._share),
            tokens_per_day=int(limits.tokens_per_day * self._share),
        )


def _part(limit: int, share: float) -> int:
    return min(limit, max(1, int(limit * share)))

"""Reading the log of revocations page by page, from a store that fails in between."""

from __future__ import annotations

from typing import Any, cast

from core.accounts.model import Revocation
from core.errors import Unavailable
from gateway import revocations
from gateway.revocations import Revocations
from tests.support.clock import ManualClock


class Log:
    """The store's side: rows in order, and how many reads go well before one fails."""

    def __init__(self, rows: list[Revocation]) -> None:
        self.rows = rows
        self.good: int | None = None

    async def now_ms(self) -> int:
        return 2_000_000

    async def revocations(self, since_ms: int, limit: int) -> list[Revocation]:
        if self.good is not None:
            self.good -= 1
            if self.good < 0:
                raise Unavailable("the store is away")
        return [row for row in self.rows if row.at_ms >= since_ms][:limit]


def row(number: int) -> Revocation:
    return Revocation(at_ms=2_000_000 + number // 2, user_id="user", subject=f"session-{number}", reason="session")


async def test_pages_before_one_that_fails_are_not_lost(monkeypatch: Any) -> None:
    monkeypatch.setattr(revocations, "PAGE", 4)
    log = Log([row(number) for number in range(11)])
    heard: list[str | None] = []
    known = Revocations(cast(Any, log), cast(Any, None), ManualClock(), lifetime_s=600)
    known.on_revoked(lambda user, subject, reason: heard.append(subject))
    log.good = 2
    await known.catch_up()
    assert heard == []
    log.good = None
    await known.catch_up()
    assert heard == [f"session-{number}" for number in range(11)]
    await known.catch_up()
    assert len(heard) == 11
    assert known.reason("user", "session-3") == "session"

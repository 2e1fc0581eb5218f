"""Ledger entries for tests."""

from __future__ import annotations

from typing import Any

from core.ids import new_run
from core.ledger.port import Entry
from core.model import TurnKey
from tests.support.turns import new_id


def new_entry(**changes: Any) -> Entry:
    """Revision 0 of an attempt of its own, unless `changes` say otherwise."""
    values: dict[str, Any] = {
        "attempt": f"{new_run()}.1",
        "revision": 0,
        "at_ms": 1_700_000_000_000,
        "key": TurnKey(new_id(), new_id()),
        "account": "account",
        "epoch": 0,
        "purpose": "answer",
        "charged_to": "platform",
        "model": "small",
        "provider": "scripted",
        "price_version": 1,
        "outcome": "opened",
    }
    return Entry(**(values | changes))

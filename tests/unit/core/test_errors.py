"""The table of errors holds together; tests/unit/test_house.py compares it with docs/protocol.md."""

from __future__ import annotations

import pytest

from core import errors
from core.errors import TABLE, ParleyError


def test_codes_are_unique_and_fit_every_transport() -> None:
    assert [code for code, kind in TABLE.items() if kind.code != code] == []
    assert len(TABLE) == len(errors._ROWS)
    assert [kind.code for kind in TABLE.values() if not 400 <= kind.status < 600] == []
    closes = {kind.close for kind in TABLE.values() if kind.close is not None}
    assert closes <= {1009, 1011, 4400, 4401, 4403, 4429}
    assert not closes & {errors.CLOSE_DRAINING, errors.CLOSE_HEARTBEAT}


def test_what_the_server_did_can_be_retried_and_what_the_client_did_cannot() -> None:
    for kind in TABLE.values():
        waits = kind.code in {"busy", "in_progress", "rate_limited"}
        assert kind.retryable is (kind.status >= 500 or waits), kind.code


def test_an_error_is_its_row_and_what_was_said() -> None:
    error = ParleyError("rate_limited", "Slow down.", param="content", retry_after_ms=250)
    assert (error.code, error.kind) == ("rate_limited", TABLE["rate_limited"])
    assert (error.message, str(error)) == ("Slow down.", "Slow down.")
    assert (error.param, error.retry_after_ms) == ("content", 250)


def test_nothing_is_refused_with_a_code_that_the_table_does_not_have() -> None:
    with pytest.raises(KeyError):
        ParleyError("surprise", "There is no such code.")

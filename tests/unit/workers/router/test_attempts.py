"""What provider attempts cost: names, revisions, usage told or estimated, and who is charged."""

from __future__ import annotations

import pytest

from core.ledger.port import REVISION_OPENED, REVISION_ROUTER
from core.model import Turn, Usage
from tests.support.turns import new_id, new_turn
from workers.router.attempts import Attempts, Plan, RouteRef

OPENED = new_turn(new_id(), owner="u", price_version=3)
ROW = Turn(opened=OPENED, epoch=2, run="run-2", since_ms=0)
PLAN = Plan(
    routes=(RouteRef("near", "tiny"), RouteRef("far", "huge")),
    prompt_tokens=7,
    count=len,
    price=lambda usage: usage.prompt_tokens + 10 * usage.completion_tokens,
)


@pytest.fixture
def attempts() -> Attempts:
    found = Attempts()
    found.plan, found.row = PLAN, ROW
    return found


def test_attempts_are_named_by_run_and_number(attempts: Attempts) -> None:
    assert Attempts().name == ""
    assert [attempts.open(n).attempt for n in (1, 2)] == ["run-2.1", "run-2.2"]
    assert attempts.name == "run-2.2"


def test_an_attempt_is_opened_at_the_platforms_cost_without_usage(attempts: Attempts) -> None:
    entry = attempts.open(5_000)
    assert (entry.revision, entry.outcome, entry.charged_to) == (REVISION_OPENED, "opened", "platform")
    assert (entry.usage, entry.cost, entry.at_ms) == (None, 0, 5_000)
    assert (entry.key, entry.account, entry.epoch, entry.purpose) == (OPENED.key, "u", 2, "answer")
    assert (entry.model, entry.provider, entry.price_version) == (OPENED.model, "near", 3)


def test_what_the_provider_said_is_what_counts(attempts: Attempts) -> None:
    attempts.open(5_000)
    attempts.usage = Usage(11, 3, cached_tokens=4, reasoning_tokens=1)
    entry = attempts.closed("done", "user", "a text of another length")
    assert (entry.attempt, entry.revision, entry.outcome, entry.charged_to) == ("run-2.1", 2, "done", "user")
    assert (entry.usage, entry.cost) == (Usage(11, 3, cached_tokens=4, reasoning_tokens=1), 41)
    assert (entry.revision, entry.at_ms) == (REVISION_ROUTER, 5_000)


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("hello", 5)])
def test_what_the_provider_did_not_say_is_estimated_and_marked(attempts: Attempts, text: str, tokens: int) -> None:
    attempts.open(5_000)
    entry = attempts.closed("cancelled", "user", text)
    assert entry.usage == Usage(7, tokens, estimated=True)
    assert entry.cost == 7 + 10 * tokens


def test_the_next_attempt_begins_without_the_usage_of_the_last(attempts: Attempts) -> None:
    attempts.open(1)
    attempts.usage = Usage(11, 3)
    attempts.open(2)
    assert attempts.metered("") == Usage(7, 0, estimated=True)


def test_routes_are_taken_in_order(attempts: Attempts) -> None:
    assert attempts.another_route
    attempts.route += 1
    assert attempts.open(1).provider == "far"
    assert not attempts.another_route


def test_without_a_plan_there_is_no_route_and_no_cost() -> None:
    found = Attempts()
    assert not found.another_route
    assert found.current_route is None
    assert found.metered("text") == Usage(0, 0, estimated=True)
    assert found.cost(Usage(5, 5)) == 0

"""A router's turns: what runs and what ended are told apart, and bytes are counted over both."""

from __future__ import annotations

from tests.support.router_turn import Bench
from workers.router.kept import Kept, Running


def kept(*benches: Bench) -> tuple[Kept, list[Running]]:
    found, shelf = [], Kept()
    for number, bench in enumerate(benches):
        bench.turn.generation = f"g-{number}"
        running = Running(bench.turn)
        shelf.add(running)
        found.append(running)
    return shelf, found


def test_an_ended_turn_is_found_counted_and_forgotten_but_not_among_those_that_run() -> None:
    shelf, (first, second) = kept(Bench().ended(), Bench().streaming())
    size = first.turn.text.size
    assert (shelf.busy, shelf.text_bytes, shelf.oldest) == (2, 2 * size, None)
    for _ in range(2):
        shelf.end(first)
    assert (shelf.busy, len(shelf), shelf.text_bytes) == (1, 2, 2 * size)
    assert shelf.live == [second]
    assert [shelf.get("g-0"), shelf.get("g-1"), shelf.get("g-2")] == [first, second, None]
    assert shelf.oldest is first
    for _ in range(2):
        shelf.remove(first)
        shelf.remove(second)
    assert (len(shelf), shelf.text_bytes, shelf.oldest) == (0, 0, None)


def test_the_latest_ends_come_first_and_earlier_ones_are_not_looked_at() -> None:
    shelf, found = kept(*(Bench().ended() for _ in range(4)))
    for number, running in enumerate(found):
        running.turn.ended_at = float(number)
        shelf.end(running)
    assert list(shelf.lately_ended(1.0)) == [found[3], found[2]]
    assert shelf.oldest is found[0]
    assert list(shelf) == found

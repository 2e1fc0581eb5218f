"""Scenarios in which one rule is all that stands between a fault and a broken promise."""

from __future__ import annotations

from typing import Any, Final

from core.events import CancelRun, Go, Text
from core.ids import generation_id
from core.model import Notice, Queued, Send
from gateway.hub import Answer
from tests.simulation.device import Device, Request
from tests.simulation.stores import Transition
from tests.simulation.world import World

LONG: Final = 8


def ask(world: World, watchers: int = 1) -> str:
    """One device asks, others look on; returns the answer's generation."""
    rng = world.rng
    world.devices = [Device(world, name, rng, 0.002) for name in "abc"[: 1 + watchers]]
    frame = Send(message_id=world.new_id(), conversation_id=world.conversation, content="a question")
    world.at(0.08, world.devices[0].send, frame)
    generation = generation_id(world.conversation, frame.message_id or "")

    def follow(device: Device, request: Request) -> None:
        for other in world.devices:
            if other is not device:
                world.at(world.loop.time() + rng.uniform(0.0, 1.0), other.watch, generation)

    world.on_opened.append(follow)
    return generation


def long_answer(world: World) -> None:
    """About three seconds of text, without chance in its length."""
    world.provider.least = world.provider.deltas = LONG
    world.provider.gap_s = 0.8


def calm(world: World) -> None:
    """Nothing fails; devices come and go."""
    world.calm = world.tended = True
    ask(world, 2)
    long_answer(world)
    for device in world.devices:
        world.at(world.rng.uniform(0.5, 2.5), device.reconnect)
    world.at(0.3, world.heal)


def lost_replies(world: World) -> None:
    """In the first second what is written is done and not answered."""
    calm(world)
    world.at(0.31, setattr, world.faults, "history_unanswered", 1.0)
    world.faults.history_unanswered = 1.0
    world.at(0.9, world.heal)


def lost_end_replies(world: World) -> None:
    """The reply to what ends a turn is lost for a while."""
    calm(world)
    world.provider.gap_s = 0.05
    world.at(0.31, setattr, world.faults, "history_unanswered", 1.0)
    world.at(0.9, world.heal)


def resent(world: World) -> None:
    """The same message from two devices, while its reservation is settled."""
    ask(world, 1)
    frame = Send(message_id=world.new_id(), conversation_id=world.conversation, content="a question")
    for device in world.devices:
        world.at(0.08, device.send, frame)
    world.at(0.5, world.heal)


def lost_go(world: World) -> None:
    """The grant is lost once."""
    calm(world)
    world.at(0.05, world.net.once.append, (Go, 0))


def doubled(world: World) -> None:
    """Every message comes twice, the second time up to three seconds later."""
    calm(world)
    world.at(0.31, setattr, world.faults, "bus_duplicate", 1.0)
    world.at(0.0, setattr, world.faults, "bus_duplicate", 1.0)


def late_routers(world: World) -> None:
    """A cancel comes between the open and the first router that has time, and reads take long by then."""
    _cancelled_before(world, 0.9)
    world.at(0.7, setattr, world.faults, "history_slow", 1.0)


def later_routers(world: World) -> None:
    """The first router that has time comes long after the cancel, and the bus carries no word of that."""
    _cancelled_before(world, 2.0)
    world.at(0.25, world.partition, world.gateways[1], 3.0)


def _cancelled_before(world: World, routers_at: float) -> None:
    generation = ask(world, 1)
    world.devices[0].prefers, world.devices[1].prefers = world.gateways
    world.on_opened.clear()
    for host in world.routers:
        world.at(0.05, world.freeze, host, routers_at)
    world.at(0.1, world.devices[1].watch, generation)
    world.at(0.15, world.devices[1].cancel, generation)
    world.at(3.5, world.heal)


def stopped_routers(world: World) -> None:
    """Routers stop for some seconds between a grant and the call, and are cut off meanwhile."""
    ask(world, 1)
    world.faults.history_slow = 0.5
    world.net.on_go = lambda node: world.at(world.loop.time() + 0.1, _freeze, world, node)
    world.at(7.0, world.heal)


def _freeze(world: World, node: Any) -> None:
    host = world.host_of(node)
    if host is not None and not world.healed:
        world.freeze(host, 6.0)
        world.partition(host, 6.0)  # no word to stop reaches it


def lost_gateway(world: World) -> None:
    """The gateway dies right after it opened the turn."""
    ask(world, 1)

    def on_row(change: Transition) -> None:
        host = world.host_of(change.node)
        if change.before is None and host is not None:
            world.at(world.loop.time() + 0.00001, world.kill, host, 0.5)

    world.on_row.append(on_row)
    world.at(0.5, world.heal)


def lonely(world: World) -> None:
    """The client leaves for good, then the router dies; the gateway is well."""
    world.tended = True
    ask(world, 0)
    long_answer(world)
    world.on_opened.append(lambda device, _request: world.at(world.loop.time() + 0.05, device.leave))
    for host in world.routers:
        world.at(0.6, world.kill, host, 0.2)
    world.at(1.0, world.heal)


def back_from_the_dead(world: World) -> None:
    """A router is cut off in the middle of a long answer, and comes back when another one has taken over."""
    ask(world, 1)
    world.provider.least = world.provider.deltas = 40
    world.provider.gap_s = 0.8
    world.net.on_first_text = lambda node: _cut_once(world, node)
    world.at(5.0, world.heal)


def _cut_once(world: World, node: Any) -> None:
    host = world.host_of(node)
    if host is not None and not host.hurt and not world.healed:
        world.at(world.loop.time() + 0.3, world.partition, host, 3.5)
        world.net.on_first_text = lambda _node: None


def bus_outage(world: World) -> None:
    """The whole bus is away in the middle of an answer, and comes back: nothing is dispatched again."""
    calm(world)
    for device in world.devices:
        device.reconnects = False
    world.provider.least = world.provider.deltas = 12
    begin = world.rng.uniform(1.0, 4.0)
    world.at(begin, setattr, world.faults, "bus_away", True)
    world.at(begin + world.rng.uniform(1.4, 3.0), setattr, world.faults, "bus_away", False)


def cut_off(world: World) -> None:
    """A gateway is cut off from the bus without a word while others are not: it does not claim what others answer."""
    calm(world)
    world.provider.least = world.provider.deltas = 12
    host = world.rng.choice(world.gateways)
    world.at(world.rng.uniform(3.2, 4.0), world.partition, host, 1.7)


def gap(world: World) -> None:
    """One delta is lost early in a long answer: who watches is not left behind until its end."""
    generation = ask(world, 1)
    long_answer(world)
    world.provider.gap_s = 1.2
    world.at(0.3, world.heal)
    world.at(0.31, world.net.once.append, (Text, 1))

    def look(told: int) -> None:
        for device in world.devices:
            shown = device.shown.get(generation)
            if shown is not None and shown.end is None and shown.seq < told - 1:
                world.fail(f"{device.name} is left at {shown.seq}, and {told - 1} was told 1.5 s ago")

    def remember() -> None:
        texts = [len(said) for name, said in world.net.texts.items() if name == (generation, 0)]
        world.at(world.loop.time() + 1.5, look, texts[0] if texts else 0)

    for number in range(12, 50):
        world.at(number / 10, remember)


def poison(world: World) -> None:
    """Every router that calls the provider dies of it."""
    world.faults.poison = True
    ask(world, 1)
    world.at(25.0, world.heal)


def lost_cancel(world: World) -> None:
    """The answer does not end by itself for a minute, and the word to stop it is lost once."""
    generation = ask(world, 1)
    world.provider.endless, world.provider.gap_s = 1.0, 2.0
    world.net.once.append((CancelRun, 0))
    world.at(1.5, world.devices[0].cancel, generation)
    world.at(2.5, world.heal)
    world.within_s = 20.0


def cancelled_and_lost(world: World) -> None:
    """The router dies under a cancelled turn."""
    world.tended = True
    generation = ask(world, 1)
    long_answer(world)
    world.at(0.6, world.devices[0].cancel, generation)
    for host in world.routers:
        world.at(0.6, world.kill, host, 0.5)
    world.at(1.2, world.heal)


def cancel_races_done(world: World) -> None:
    """A cancel comes as the answer ends; nothing fails, so its own router ends it."""
    generation = ask(world, 1)
    world.calm = world.tended = True
    world.provider.gap_s = 0.01
    world.at(world.rng.uniform(0.09, 0.16), world.devices[0].cancel, generation)
    world.at(0.3, world.heal)


def unrecorded(world: World) -> None:
    """The usage stream is away at the end, and the router dies just after it."""
    ask(world, 1)
    world.faults.stream_away = True
    world.provider.least = 1

    def on_row(change: Transition) -> None:
        host = world.host_of(change.node)
        if change.after.end is not None and host is not None:
            world.at(world.loop.time() + 0.02, world.kill, host, 0.5)

    world.on_row.append(on_row)
    world.at(1.0, world.heal)


def silent_provider(world: World) -> None:
    """The provider pauses for longer than a turn may lie idle before the janitor asks after it."""
    ask(world, 1)
    world.provider.least = world.provider.deltas = 1
    world.provider.gap_s = 110.0
    world.within_s = 300.0
    world.slow_end = True
    world.at(0.3, world.heal)


def janitor_from_the_future(world: World) -> None:
    """The janitor's clock has jumped an hour ahead, and the bus does not carry its questions."""
    world.tended = True
    ask(world, 1)
    world.provider.least = world.provider.deltas = 30
    world.provider.gap_s = 0.8
    world.janitor.clock.skew_ms = 3_600_000
    world.at(4.5, world.partition, world.janitor, 1.9)
    world.at(8.0, world.heal)


def history_away_at_the_end(world: World) -> None:
    """History is away for some seconds from the last delta on: the whole text is kept, and ends there."""
    calm(world)
    for device in world.devices:
        device.reconnects = False
    world.at(2.0, setattr, world.faults, "history_away", True)
    world.at(world.rng.uniform(6.0, 12.0), setattr, world.faults, "history_away", False)


def history_away_for_long(world: World) -> None:
    """History is away for more than a minute, and nobody is left who would ask for the answer again; then the routers
    die, and come back to what they kept on disk.
    """
    world.tended = True
    ask(world, 0)
    long_answer(world)
    world.on_opened.append(lambda device, _request: world.at(world.loop.time() + 0.05, device.leave))
    world.at(1.5, setattr, world.faults, "history_away", True)
    for host in world.gateways:
        world.at(2.0, world.kill, host, 0.5)
    for host in world.routers:
        world.at(70.0, world.kill, host, 0.5)
    world.at(75.0, world.heal)


def lost_router_lost_end(world: World) -> None:
    """Routers die again and again: most epochs are nobody's, and one is the user's."""
    ask(world, 1)
    long_answer(world)
    for number in range(3):
        for host in world.routers:
            world.at(0.5 + number * 1.5 + world.rng.uniform(0, 0.5), world.kill, host, 0.4)
    world.at(5.0, world.heal)


def write_that_never_came(world: World) -> None:
    """No write reaches history for a while: what could not be learned is told as unknown, and nothing is spent on."""
    world.faults.history_unwritten = 1.0
    ask(world, 1)
    world.at(7.0, world.heal)


def only_looked_at(world: World) -> None:
    """A GET watches an answer whose gateway and router are lost: it goes on when somebody asks for it again."""
    generation = ask(world, 0)
    long_answer(world)
    first, second = world.gateways
    world.pick_gateway = lambda _rng: first if first.up else None  # type: ignore[method-assign]
    world.at(0.5, _look, world, generation)
    for host in (first, *world.routers):
        world.at(0.8, world.kill, host, 0.3)
    world.at(0.7, world.devices[0].leave)
    world.at(10.0, world.devices[0].come_back)
    world.at(8.0, world.heal)

    def on_row(change: Transition) -> None:
        if change.node is second.node:
            world.fail(f"a GET led to {change.after}")

    world.on_row.append(on_row)


class _Look:
    def changed(self, answer: Answer) -> None:
        return

    def queued(self, frame: Queued) -> None:
        return

    def notice(self, frame: Notice) -> None:
        return


def _look(world: World, generation: str) -> None:
    host = world.gateways[1]

    async def look() -> None:
        assert host.turns is not None
        live = await host.turns.find("user", generation)
        host.turns.watch(live, _Look(), spends=False)

    world.loop.spawn(host.node, look())

"""What happens in one run: what the user does, what breaks and when. All of it follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from core.ids import parse_generation_id
from core.model import Continue, Regenerate, Send
from tests.simulation.device import Device, Request
from tests.simulation.hosts import Host, RouterHost
from tests.simulation.loop import Node
from tests.simulation.stores import Transition
from tests.simulation.world import World

MAX_TURNS: Final = 3

Fault = Callable[[World, random.Random, float], None]


def anything(world: World) -> None:
    """The usual scenario: a user with two devices, and up to seven faults."""
    rng = world.rng
    faults_until = rng.uniform(1.0, 4.0)
    world.provider.deltas = rng.choice((2, 4, 8))
    world.provider.gap_s = rng.choice((0.05, 0.3, 0.8))
    if rng.random() < 0.3:
        world.faults.provider_fail = rng.choice((0.2, 0.6))
        world.faults.provider_die = rng.choice((0.2, 0.6))
        world.faults.provider_slow = rng.choice((0.0, 0.5))
    user(world)
    for _ in range(rng.choice((0, 1, 2, 3, 3, 4, 7))):
        rng.choice(FAULTS)(world, rng, faults_until)
    if rng.random() < 0.01:  # longer than a router waits for history before it keeps an end on its disk
        world.at(rng.uniform(0.1, faults_until), setattr, world.faults, "history_away", True)
        faults_until += 70.0
    world.at(faults_until + 0.5, world.heal)
    if rng.random() < 0.05:
        world.provider.endless = 0.4
        world.at(faults_until + 2.0, _stop_all, world)


def _stop_all(world: World) -> None:
    """Answers that never end by themselves are stopped by their user, sooner or later."""
    for device in world.devices:
        device.come_back()
        for generation in list(device.shown):
            if device.lacks(generation):
                device.cancel(generation)
    world.at(world.loop.time() + 2.0, _stop_all, world)


# What the user does.


def user(world: World) -> None:
    """Two devices: one asks; both may watch, repeat, cancel, leave and come back."""
    rng = world.rng
    slow = 0.02 if rng.random() < 0.7 else 0.3
    world.devices = [Device(world, "a", rng, 0.002), Device(world, "b", rng, slow)]
    world.on_opened.append(_follow)
    world.on_row.append(lambda change: _go_on(world, change))
    frame = Send(message_id=world.new_id(), conversation_id=world.conversation, content="a question")
    first, second = world.devices
    world.at(0.08, first.send, frame)
    if rng.random() < 0.3:
        world.at(0.08 + rng.choice((0.001, 0.05, 1.5)), second.send, frame)
    if rng.random() < 0.1:
        third = Device(world, "c", rng, 0.002)
        world.devices.append(third)
        other = Send(message_id=frame.message_id, conversation_id=world.conversation, content="another question")
        world.at(0.08 + rng.choice((0.0, 0.002, 1.0)), third.send, other)
    for device in world.devices:
        if rng.random() < 0.3:
            world.at(rng.uniform(0.1, 3.0), device.reconnect)
    if rng.random() < 0.2:
        world.at(rng.uniform(0.1, 2.0), first.leave)
        if rng.random() < 0.6:
            world.at(rng.uniform(2.0, 6.0), first.come_back)


def _follow(device: Device, request: Request) -> None:
    """An answer has begun: the other device looks at it; somebody may press stop."""
    world, rng, generation = device.world, device.world.rng, request.generation
    now = world.loop.time()
    for other in world.devices:
        if other is not device and generation not in other.shown and rng.random() < 0.5:
            world.at(now + rng.uniform(0.0, 1.5), other.watch, generation)
    if rng.random() < 0.2:
        who = rng.choice(world.devices)
        if generation in who.shown:
            world.at(now + rng.choice((0.0, 0.02, 0.4, 1.5)), who.cancel, generation)
    if rng.random() < 0.1 and len(world.history.rows) < MAX_TURNS:
        again = Regenerate(turn_id=world.new_id(), generation_id=generation)
        world.at(now + rng.uniform(0.05, 1.0), device.send, again)


def _go_on(world: World, change: Transition) -> None:
    """A turn has ended: another question, another answer, or the rest of this one."""
    end, rng = change.after.end, world.rng
    if end is None or len(world.history.rows) >= MAX_TURNS or rng.random() < 0.6:
        return
    device = world.devices[0]
    generation = next((name for name in device.shown if parse_generation_id(name) == _address(change)), None)
    if generation is None:
        return
    kind = rng.random()
    frame: Send | Regenerate | Continue
    if end.kind in ("interrupted", "cancelled") and kind < 0.5:
        frame = Continue(turn_id=world.new_id(), generation_id=generation)
    elif kind < 0.7:
        frame = Regenerate(turn_id=world.new_id(), generation_id=generation)
    else:
        frame = Send(
            message_id=world.new_id(),
            conversation_id=world.conversation,
            parent_id=generation,
            content="and then?",
        )
    world.at(world.loop.time() + rng.uniform(0.01, 0.5), device.send, frame)


def _address(change: Transition) -> tuple[str, str]:
    return change.after.key.conversation_id, change.after.key.turn_id


# What breaks.


def _some(world: World, rng: random.Random) -> Host:
    return rng.choice(world.hosts[:4])


def kill(world: World, rng: random.Random, until: float) -> None:
    world.at(rng.uniform(0.08, until), world.kill, _some(world, rng), rng.uniform(0.1, 2.0))


def freeze(world: World, rng: random.Random, until: float) -> None:
    world.at(rng.uniform(0.08, until), world.freeze, _some(world, rng), rng.choice((0.3, 1.5, 5.0)))


def drain(world: World, rng: random.Random, until: float) -> None:
    host: RouterHost = rng.choice(world.routers)
    world.at(rng.uniform(0.08, until), host.drain)


def partition(world: World, rng: random.Random, until: float) -> None:
    world.at(rng.uniform(0.08, until), world.partition, _some(world, rng), rng.uniform(0.3, 5.0))


def jump(world: World, rng: random.Random, until: float) -> None:
    host = rng.choice(world.hosts)
    world.at(rng.uniform(0.0, until), setattr, host.clock, "skew_ms", rng.choice((-1, 1)) * rng.choice((2_000, 10**7)))


def window(name: str, *values: float | bool) -> Fault:
    """A fault that lasts for a while."""

    def plan(world: World, rng: random.Random, until: float) -> None:
        begin = rng.uniform(0.0, until)
        world.at(begin, setattr, world.faults, name, rng.choice(values))
        world.at(begin + rng.choice((0.3, 1.0, 3.0)), setattr, world.faults, name, type(values[0])())

    return plan


def at_moment(world: World, rng: random.Random, until: float) -> None:
    """A process dies or stops right after a step that matters."""
    moment = rng.choice(("open", "claim", "end", "go", "call", "text"))
    left = [rng.choice((1, 1, 2))]
    stops = rng.random() < 0.5
    seconds = rng.choice((0.8, 2.0, 5.0)) if stops else rng.uniform(0.1, 1.5)
    delay = rng.choice((0.00001, 0.0008, 0.003))

    def hit(host: Host | None) -> None:
        if host is None or not left[0] or world.healed:
            return
        left[0] -= 1
        act = world.freeze if stops else world.kill
        world.at(world.loop.time() + delay, act, host, seconds)

    def on_row(change: Transition) -> None:
        before, after = change.before, change.after
        kind = "open" if before is None else "end" if after.end else "claim" if before.run != after.run else ""
        if kind == moment:
            hit(world.host_of(change.node))

    if moment == "go":
        world.net.on_go = lambda node: hit(world.host_of(node))
    elif moment == "text":
        world.net.on_first_text = lambda node: hit(world.host_of(node))
    elif moment == "call":
        checked = world.provider.on_call

        def on_call(attempt: str, node: Node | None) -> None:
            checked(attempt, node)
            hit(world.host_of(node))

        world.provider.on_call = on_call
    else:
        world.on_row.append(on_row)


FAULTS: Final[tuple[Fault, ...]] = (
    kill,
    freeze,
    partition,
    at_moment,
    at_moment,
    drain,
    jump,
    window("bus_drop", 0.05, 0.3),
    window("bus_duplicate", 0.3),
    window("bus_reorder", 0.3),
    window("bus_slow", 0.3, 1.5),
    window("bus_away", True),
    window("history_away", True),
    window("history_lost", 0.1, 0.5),
    window("history_late", 0.3),
    window("history_unanswered", 0.5),
    window("history_unwritten", 0.5),
    window("history_slow", 0.5, 2.0),
    window("stream_away", True),
    window("poison", True),
)

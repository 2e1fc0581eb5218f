"""A simulated bus: what one process tells another, with a delay, in order, unless a fault says otherwise."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from core.errors import Unavailable
from core.events import Dispatch, EdgeMessage, Go, GrantMessage, RunMessage, Text
from tests.simulation.faults import Faults
from tests.simulation.loop import Node, VirtualLoop

CONFIRM_S: Final = 1.0
NOTICED_AFTER_S: Final = 2.0


class Listener:
    """One subscription; also the `Subscription` that its owner holds."""

    __slots__ = ("_among", "callback", "extra", "node")

    def __init__(self, node: Node, callback: Callable[[Any], None], among: list[Listener], extra: Any = None) -> None:
        self.node = node
        self.callback = callback
        self.extra = extra
        self._among = among
        among.append(self)

    async def stop(self) -> None:
        if self in self._among:
            self._among.remove(self)


class Net:
    """What all buses share: who listens where, who is cut off, and what was ever said of each address of text."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, faults: Faults) -> None:
        self.loop = loop
        self.rng = rng
        self.faults = faults
        self.listeners: dict[str, list[Listener]] = {}
        self.cut: dict[str, float] = {}
        self.texts: dict[tuple[str, int], list[Text]] = {}
        self.dispatched: set[tuple[str, int, str]] = set()
        self.conflicts: list[str] = []
        self.once: list[tuple[type, int]] = []
        self.on_go: Callable[[Node], None] = lambda _: None
        self.on_first_text: Callable[[Node], None] = lambda _: None
        self.trace: Callable[[str], None] | None = None
        self._order: dict[tuple[str, str, str], float] = {}

    def reachable(self, node: Node) -> bool:
        return not self.faults.bus_away and node.name not in self.cut

    def known_away(self, node: Node) -> bool:
        """A cut is noticed at once where the whole bus is away, and after a while where the way to it is."""
        if self.faults.bus_away:
            return True
        since = self.cut.get(node.name)
        return since is not None and self.loop.time() - since >= NOTICED_AFTER_S

    def forget(self, node: Node) -> None:
        """The process is gone and its connection with it."""
        for among in self.listeners.values():
            among[:] = [listener for listener in among if listener.node is not node]

    def publish(self, sender: Node, subject: str, message: Any) -> bool:
        """Sends to every listener of the subject; returns whether there was one."""
        if self.known_away(sender):
            raise Unavailable("the bus is away")
        if not self.reachable(sender):
            return True
        found = self.listeners.get(subject)
        for listener in list(found or ()):
            self.deliver(sender, listener, subject, message)
        return bool(found)

    def deliver(self, sender: Node, listener: Listener, subject: str, message: Any) -> None:
        """One message on its way to one listener."""
        faults, rng = self.faults, self.rng
        if not self.reachable(listener.node) or self._dropped_once(message):
            return
        copies = 1
        if faults.bus_drop and rng.random() < faults.bus_drop:
            copies = 0
        elif faults.bus_duplicate and rng.random() < faults.bus_duplicate:
            copies = 2
        for copy in range(copies):
            when = self.loop.time() + 0.0002 + 0.001 * rng.random()
            if faults.bus_slow and rng.random() < 0.2:
                when += rng.random() * faults.bus_slow
            if copy:
                when += rng.random() * 3.0
            elif not (faults.bus_reorder and rng.random() < faults.bus_reorder):
                order = (sender.name, listener.node.name, subject)
                when = self._order[order] = max(when, self._order.get(order, 0.0) + 1e-6)
            self.loop.call_at(when, self._arrive, listener, message, context=listener.node.context)

    def _dropped_once(self, message: Any) -> bool:
        """Scripted losses: the nth message of a type."""
        if not self.once:
            return False
        messages = message if isinstance(message, list) else [message]
        for at, (kind, left) in enumerate(self.once):
            if any(isinstance(each, kind) for each in messages):
                if left:
                    self.once[at] = (kind, left - 1)
                    return False
                del self.once[at]
                return True
        return False

    def _arrive(self, listener: Listener, message: Any) -> None:
        if not self.reachable(listener.node):
            return
        if self.trace is not None:
            self.trace(f"{listener.node.name} <- {message!r}")
        if isinstance(message, Go):
            self.on_go(listener.node)
        listener.callback(message)

    def say(self, node: Node, batch: Sequence[EdgeMessage]) -> None:
        """Remembers the text of each address, which must never change."""
        for message in batch:
            if not isinstance(message, Text):
                continue
            known = self.texts.setdefault((message.generation, message.epoch), [])
            if message.seq < len(known):
                if known[message.seq] != message:
                    self.conflicts.append(f"address told twice with different text: {known[message.seq]} {message}")
            elif message.seq == len(known):
                known.append(message)
                if not message.seq:
                    self.on_first_text(node)
            else:
                self.conflicts.append(f"delta {message.seq} of {message.generation} was told after {len(known) - 1}")


class SimBus:
    """The bus as one process sees it."""

    def __init__(self, net: Net, node: Node) -> None:
        self._net = net
        self._node = node

    @property
    def connected(self) -> bool:
        return not self._net.known_away(self._node)

    def on_state(self, callback: Callable[[bool], None]) -> None:
        raise NotImplementedError("nobody asks")

    async def _serve(self, subject: str, callback: Callable[[Any], None], extra: Any = None) -> Listener:
        net = self._net
        if net.known_away(self._node):
            raise Unavailable("the bus is away")
        await asyncio.sleep(0.0002 + 0.0008 * net.rng.random())
        if not net.reachable(self._node):
            await asyncio.sleep(CONFIRM_S)
            raise Unavailable("the subscription was not confirmed")
        listener = Listener(self._node, callback, net.listeners.setdefault(subject, []), extra)
        await asyncio.sleep(0.0005)
        return listener

    async def serve_edge(
        self,
        edge: str,
        on_batch: Callable[[list[EdgeMessage]], None],
        on_no_responders: Callable[[str], None],
    ) -> Listener:
        return await self._serve(f"edge.{edge}", on_batch, on_no_responders)

    async def serve_turns(self, zone: str, pool: str, on_dispatch: Callable[[Dispatch], None]) -> Listener:
        return await self._serve("turns", on_dispatch)

    async def serve_router(self, router: str, on_grant: Callable[[GrantMessage], None]) -> Listener:
        return await self._serve(f"router.{router}", on_grant)

    async def serve_run(self, generation: str, on_message: Callable[[RunMessage], None]) -> Listener:
        return await self._serve(f"run.{generation}", on_message)

    async def dispatch(self, zone: str, pool: str, dispatch: Dispatch) -> None:
        net, node = self._net, self._node
        if net.known_away(node):
            raise Unavailable("the bus is away")
        net.dispatched.add((dispatch.generation, dispatch.epoch, dispatch.run))
        if not net.reachable(node):
            return
        members = [each for each in net.listeners.get("turns", ()) if net.reachable(each.node)]
        if members:
            net.deliver(node, net.rng.choice(members), "turns", dispatch)
            return
        for listener in net.listeners.get(f"edge.{dispatch.edge}", ()):
            net.loop.call_later(
                0.001, _no_responders, net, listener, dispatch.generation, context=listener.node.context
            )

    async def to_edge(self, edge: str, batch: Sequence[EdgeMessage]) -> None:
        self._net.say(self._node, batch)
        self._net.publish(self._node, f"edge.{edge}", list(batch))

    async def to_router(self, router: str, message: GrantMessage) -> None:
        self._net.publish(self._node, f"router.{router}", message)

    async def to_run(self, generation: str, message: RunMessage) -> None:
        self._net.publish(self._node, f"run.{generation}", message)

    async def round_trip(self, timeout_s: float) -> float:
        net = self._net
        began = net.loop.time()
        if net.known_away(self._node):
            raise Unavailable("the bus is away")
        if net.reachable(self._node):
            delay = 0.0004 + 0.0016 * net.rng.random() + net.rng.random() * net.faults.bus_slow * 0.2
            await asyncio.sleep(min(delay, timeout_s))
            if delay <= timeout_s and net.reachable(self._node):
                return net.loop.time() - began
        else:
            await asyncio.sleep(timeout_s)
        raise Unavailable("no echo in time")

    async def close(self) -> None:
        return


def _no_responders(net: Net, listener: Listener, generation: str) -> None:
    if net.reachable(listener.node):
        listener.extra(generation)

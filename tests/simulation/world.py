"""Everything of one run: machines, net, stores, devices; what is checked while it runs, and when it is over."""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import gateway.opening
import gateway.turns
import workers.router.service
from core import turn as rules
from core.history.port import Home
from core.ids import generation_id, parse_generation_id, uuid7
from core.ledger.port import Entry
from core.model import ErrorFrame, Turn, TurnKey
from tests.simulation.bus import Net
from tests.simulation.device import AGAIN, Device, Request, asks_the_same
from tests.simulation.faults import Faults
from tests.simulation.hosts import WALL_MS, GatewayHost, Host, JanitorHost, RouterHost
from tests.simulation.loop import OUTSIDE, Node, VirtualLoop
from tests.simulation.provider import SimProvider
from tests.simulation.stores import SimAccounts, SimCatalog, SimHistory, SimLedger, SimLimits, Transition
from workers.ledger import settlements

FIRST_TICK_S: Final = 0.05
TICK_S: Final = 0.1
STOPPED_WITHIN_S: Final = 8.0


class World:
    """`rng` decides everything that chance decides, in one order: the same seed gives the same run."""

    def __init__(self, seed: int, record: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = VirtualLoop()
        self.faults = Faults()
        self.net = Net(self.loop, self.rng, self.faults)
        self.history = SimHistory(self.loop, self.rng, self.faults)
        self.limits = SimLimits(self.loop)
        self.ledger = SimLedger(self.rng, self.faults)
        self.catalog = SimCatalog()
        self.accounts = SimAccounts()
        self.provider = SimProvider(self.loop, self.rng, self.faults)
        self.opener_history: Any = self.history
        self.opener_limits: Any = self.limits
        self.gateways = [GatewayHost(self, number) for number in range(2)]
        self.routers = [RouterHost(self, number) for number in range(2)]
        self.janitor = JanitorHost(self, 0)
        self.hosts: list[Host] = [*self.gateways, *self.routers, self.janitor]
        self.devices: list[Device] = []
        self.failures: list[str] = []
        self.healed = False
        self.healed_at = 0.0
        self.finished = False
        self.calm = False  # nothing fails that could cost an epoch
        self.tended = False  # some gateway is there to end every turn
        self.slow_end = False  # the provider takes its time though nothing fails
        self.within_s = 120.0  # virtual seconds in which everything has to settle
        self._keys: dict[str, TurnKey] = {}
        self._stale: dict[tuple[str, str], float] = {}
        self.trace: list[str] | None = [] if record else None
        self.digest = 0
        self.on_opened: list[Callable[[Device, Request], None]] = []
        self.on_row: list[Callable[[Transition], None]] = []
        self.conversation = uuid7(WALL_MS - 1000, self.rng.getrandbits(74))
        self.history.homes[self.conversation] = Home("user", "local")
        self.history.on_change = self._changed
        self.ledger.on_entry = self._entry
        self.provider.on_call = self._called
        self._ids = itertools.count()
        if record:
            self.net.trace = self.note

    # What is noted and what fails.

    def note(self, what: str) -> None:
        """For the trace of a run that is looked at; and for the proof that it replays."""
        if self.trace is not None:
            line = f"{self.loop.time():9.4f} {what}"
            self.trace.append(line)
            self.digest = zlib.crc32(line.encode(), self.digest)

    def fail(self, problem: str) -> None:
        """An invariant does not hold."""
        self.note(f"FAILED {problem}")
        self.failures.append(f"{self.loop.time():.3f} s: {problem}")
        self.finished = True

    # Names.

    def new_id(self) -> str:
        """A client's UUIDv7."""
        stamp = WALL_MS + int(self.loop.time() * 1000) + next(self._ids)
        return uuid7(stamp, self.rng.getrandbits(74))

    def row(self, generation: str) -> Turn | None:
        key = self._keys.get(generation)
        if key is None:
            parsed = parse_generation_id(generation)
            if parsed is None:
                return None
            key = self._keys[generation] = TurnKey(*parsed)
        return self.history.rows.get(key)

    def pick_gateway(self, rng: random.Random) -> GatewayHost | None:
        up = [each for each in self.gateways if each.up]
        return rng.choice(up) if up else None

    def host_of(self, node: Node | None) -> Host | None:
        return next((host for host in self.hosts if host.node is node), None)

    # What the stores tell.

    def _changed(self, change: Transition) -> None:
        after, before = change.after, change.before
        by = change.node.name if change.node else "?"
        self.note(f"row {by}: {after.epoch} {after.run} {after.cancelled} {after.end}")
        if after.epoch > 4:
            self.fail(f"epoch {after.epoch} was begun")
        if before is None and after.key not in self.history.listed:
            self.fail("opened and not listed")
        if after.end is not None and after.end.writer.startswith("jan"):
            self._janitor_ended(after)
            if self.tended:
                self.fail("the janitor had to end what a gateway should have tended")
        for hook in self.on_row:
            hook(change)

    def _janitor_ended(self, turn: Turn) -> None:
        """Rule 10: only what nobody answers for."""
        generation = generation_id(turn.key.conversation_id, turn.key.turn_id)
        for host in self.routers:
            if not host.node.frozen and self.net.reachable(host.node):
                running = host.running().get(generation)
                if running is not None and running.turn.run == turn.run and running.turn.alive:
                    self.fail(f"the janitor ended what {host.name} answers")

    def _entry(self, entry: Entry) -> None:
        for (_, turn), tokens in settlements([entry]).items():
            self.limits.reserved.pop(turn, None)
            if tokens:
                self.limits.settled[turn] = max(tokens, self.limits.settled.get(turn, 0))

    def _called(self, attempt: str, node: Node | None) -> None:
        """Rules 4 and 13: what is spent on was open, and named this run, within the last second."""
        self.note(f"call {attempt} by {node.name if node else '?'}")
        run = attempt.rpartition(".")[0]
        now = self.loop.time()
        known = [change.after for change in self.history.transitions if change.after.run == run]
        if not known:
            self.fail(f"{attempt} was sent to the provider and history knows no such run")
            return
        ceased = self.history.ceased.get((known[0].key, known[0].epoch, run))
        if ceased is not None and now - ceased > rules_call_fresh_s():
            self.fail(f"{attempt} was sent to the provider {now - ceased:.3f} s after its run had ceased to answer")
        if self.faults.poison and node is not None:
            host = self.host_of(node)
            if host is not None:
                self.loop.call_later(0.0005, self.kill, host, 0.5, context=OUTSIDE)

    # What devices tell.

    def on_accepted(self, device: Device, request: Request) -> None:
        for hook in list(self.on_opened):
            hook(device, request)

    def on_error(self, device: Device, request: Request, frame: ErrorFrame) -> None:
        """Rule 2: what is stored is answered by what is stored."""
        key = TurnKey(self.conversation, request.id)
        row = self.history.rows.get(key)
        if frame.code == "conflict":
            if row is None or asks_the_same(request.frame, row):
                self.fail(f"conflict, and the stored body is the same: {frame}")
            return
        if frame.code == "internal":
            self.fail(f"{device.name}: {frame}")
        if frame.code in AGAIN and frame.code != "busy":
            return
        mine = row is not None and asks_the_same(request.frame, row)
        opened_at = next((each.at for each in self.history.transitions if each.after.key == key), None)
        if mine and opened_at is not None and opened_at < request.asked_at:
            self.fail(f"{device.name}: what is stored was refused: {frame}")

    # Faults.

    def kill(self, host: Host, restart_after_s: float) -> None:
        if not host.node.dead:
            self.note(f"kill {host.node.name}")
            host.kill()
            self.loop.call_later(restart_after_s, host.start, context=OUTSIDE)

    def freeze(self, host: Host, for_s: float) -> None:
        if not host.node.dead and not host.node.frozen:
            self.note(f"freeze {host.node.name} for {for_s:.2f}")
            host.freeze()
            self.loop.call_later(for_s, host.thaw, context=OUTSIDE)

    def partition(self, host: Host, for_s: float) -> None:
        self.note(f"partition {host.node.name} for {for_s:.2f}")
        host.hurt = True
        self.net.cut.setdefault(host.node.name, self.loop.time())
        self.loop.call_later(for_s, self.net.cut.pop, host.node.name, None, context=OUTSIDE)

    def at(self, when: float, action: Callable[..., Any], *args: Any) -> None:
        """Schedules what the world does; never in the middle of what a process does."""
        self.loop.call_at(when, action, *args, context=OUTSIDE)

    def heal(self) -> None:
        """All faults end; every machine runs; every device comes to see how its turns end."""
        self.note("healed")
        self.faults.heal()
        self.net.once.clear()
        self.net.cut.clear()
        for host in self.hosts:
            host.thaw()
            host.start()
        for device in self.devices:
            device.patient = True
        self.healed, self.healed_at = True, self.loop.time()

    # Running.

    def start(self) -> None:
        for host in self.hosts:
            host.start()
        self.loop.call_later(FIRST_TICK_S, self._tick, context=OUTSIDE)

    def _tick(self) -> None:
        for device in self.devices:
            device.tick()
        if self.healed:
            self._no_stale_runs()
        if self.healed and not self.finished and self.settled():
            self.finished = True
        self.loop.call_later(TICK_S, self._tick, context=OUTSIDE)

    def _no_stale_runs(self) -> None:
        """Rules 5 and 7: what history wants no more stops soon, once there are no faults and a gateway that knows of it
        hears it.
        """
        now = self.loop.time()
        for host in self.routers:
            for name, running in host.running().items():
                row = self.row(name)
                stale = row is not None and (row.epoch > running.turn.epoch or row.end is not None)
                heard = any(each.node.name in running.turn.edges and each.knows(name) for each in self.gateways)
                if running.turn.state in ("ended", "dropped", "recording") or not (stale and heard):
                    self._stale.pop((host.node.name, name), None)
                elif now - self._stale.setdefault((host.node.name, name), now) > STOPPED_WITHIN_S:
                    self.fail(f"{host.name} still runs epoch {running.turn.epoch} of {row}")

    def settled(self) -> bool:
        """Whether nothing is left to happen."""
        history = self.history
        for device in self.devices:
            if not device.away and any(device.lacks(name) for name in device.shown):
                return False
            if any(request.open for request in device.requests.values()) and not device.away:
                return False
        if any(turn.end is None for turn in history.rows.values()) or history.listed:
            return False
        return not any(host.busy or host.disk.entries or host.disk.ends for host in self.routers)

    def run(self, until: float) -> bool:
        """Returns whether everything settled in time."""
        done = self.loop.run_until(until, lambda: self.finished)
        if self.loop.errors:
            self.fail(f"errors on the loop: {self.loop.errors[0]}")
        return done


def rules_call_fresh_s() -> float:
    """How old what a call relies on may be; with what the store takes to answer."""
    return 1.0 + 0.01


_runs = itertools.count()


def _next_run() -> str:
    return f"run{next(_runs)}"


@contextmanager
def deterministic(abandoned_ms: int) -> Iterator[None]:
    """Runs are counted instead of drawn, and a turn counts as abandoned after `abandoned_ms`."""
    global _runs
    _runs = itertools.count()
    modules: tuple[Any, ...] = (gateway.turns, gateway.opening, workers.router.service)
    before = [module.new_run for module in modules]
    usual = rules.ABANDONED_MS
    for module in modules:
        module.new_run = _next_run
    rules.ABANDONED_MS = abandoned_ms  # type: ignore[misc]  # ten minutes of virtual time cost real ones
    try:
        yield
    finally:
        rules.ABANDONED_MS = usual  # type: ignore[misc]
        for module, was in zip(modules, before, strict=True):
            module.new_run = was

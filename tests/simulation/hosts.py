"""The simulated machines: each runs one process of the platform, the real code over simulated ports, and starts it
again when it died.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from core.config import Config, Gateway, Model, Provider, Route
from core.errors import Unavailable, Unknown
from core.history.port import Applied
from core.ledger.port import Entry
from core.limits.port import UserLimits
from core.model import TurnKey
from core.providers.port import Provider as ProviderPort
from gateway.connection import Client, Shared
from gateway.opening import Opener
from gateway.turns import Turns
from tests.simulation.bus import SimBus
from tests.simulation.loop import OUTSIDE, Node, VirtualLoop
from workers.janitor import Janitor
from workers.router.effects import SpoolEnd
from workers.router.planner import Planner
from workers.router.service import RouterService

if TYPE_CHECKING:
    from tests.simulation.device import Wire
    from tests.simulation.world import World

WALL_MS: Final = 1_700_000_000_000
QUEUE_WAIT_S: Final = 6.0
CONFIG: Final = Config(
    gateway=Gateway(queue_wait_s=QUEUE_WAIT_S),
    default_model="sim",
    providers=tuple(Provider(name=name, base_url="http://sim/v1", first_token_s=2.0) for name in "ab"),
    models=(Model(alias="sim", routes=(Route(provider="a", model="sim"),), context_window=4096, max_output=256),),
)


class SimClock:
    """A machine's clocks: the wall clock may be wrong, and jump."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.skew_ms = 0

    def monotonic(self) -> float:
        return self._loop.time()

    def wall_ms(self) -> int:
        return WALL_MS + int(self._loop.time() * 1000) + self.skew_ms


class Host:
    """One machine and its present process. `up`: the process serves."""

    role = ""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"{self.role}{number}"
        self.clock = SimClock(world.loop)
        self.lives = 0
        self.up = False
        self.hurt = False
        self.node = Node(self.name)
        self.node.dead = True

    def start(self) -> None:
        """A new process."""
        if not self.node.dead:
            return
        self.lives += 1
        self.node = Node(f"{self.name}-{self.lives}")
        self.world.loop.spawn(self.node, self._boot())

    async def _boot(self) -> None:
        while True:
            try:
                await self.begin()
            except Unavailable:
                await asyncio.sleep(0.3)
                continue
            self.up = True
            return

    async def begin(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL."""
        self.hurt, self.up = True, False
        self.world.loop.kill(self.node)
        self.world.net.forget(self.node)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.hurt = True
        self.world.loop.freeze(self.node)

    def thaw(self) -> None:
        """SIGCONT."""
        self.world.loop.thaw(self.node)


class GatewayHost(Host):
    role = "gw"

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number)
        self.wires: list[Wire] = []
        self.turns: Turns | None = None

    async def begin(self) -> None:
        world = self.world
        bus = SimBus(world.net, self.node)
        limits = UserLimits(1000, 1000, 1_000_000)
        opener = Opener(
            world.opener_history, world.accounts, world.catalog, world.opener_limits, self.clock, limits, "sim"
        )
        self.turns = Turns(self.node.name, bus, world.history, world.limits, opener, self.clock, CONFIG)
        await self.turns.start()

    def knows(self, generation: str) -> bool:
        """Whether the present process supervises the answer."""
        return self.turns is not None and not self.node.dead and generation in self.turns._live

    def accept(self, wire: Wire) -> None:
        """A device connects."""
        self.wires.append(wire)
        self.world.loop.call_later(0.0005, self._open, wire, context=self.node.context)

    def _open(self, wire: Wire) -> None:
        assert self.turns is not None
        wire.client = Client(
            "user", "s", Shared(self.turns, lambda: ("c", self.clock.wall_ms(), 25.0, {}), lambda _: None)
        )
        wire.client.on_open(wire)  # type: ignore[arg-type]  # a wire is all of a Connection that a Client uses

    def kill(self) -> None:
        super().kill()
        for wire in self.wires:
            self.world.loop.call_later(0.001, wire.close, 1006, "")
        self.wires = []


class SpoolingRecorder:
    """What the router's recorder does: the stream, else the machine's disk, from which a later process goes on."""

    def __init__(self, world: World, disk: Disk) -> None:
        self._world = world
        self._disk = disk

    async def record(self, entry: Entry) -> bool:
        try:
            await self._world.ledger.publish(entry, 0.05)
        except Unavailable:
            self._disk.entries.append(entry)
            return False
        return True

    async def keep_end(self, key: TurnKey, effect: SpoolEnd) -> None:
        self._disk.ends.append((key, effect))

    async def write_loop(self) -> None:
        """Empties the disk."""
        world, disk = self._world, self._disk
        while True:
            await asyncio.sleep(1.0)
            try:
                while disk.entries:
                    await world.ledger.publish(disk.entries[0], 0.5)
                    disk.entries.pop(0)
                while disk.ends:
                    await self._write_end(*disk.ends[0])
                    disk.ends.pop(0)
            except (Unavailable, Unknown):
                continue

    async def _write_end(self, key: TurnKey, kept: SpoolEnd) -> None:
        history = self._world.history
        for increment in kept.increments:
            await history.append(key, kept.end.epoch, increment)
        applied = isinstance(await history.end(key, kept.end), Applied)
        recorded = True
        if kept.entry is not None:
            entry = kept.entry
            if not applied:
                entry = msgspec.structs.replace(entry, charged_to="platform", outcome="superseded")
            recorded = await self.record(entry)
        if applied and recorded:
            await history.close_listing([key])


class Disk:
    """What survives a process."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.ends: list[tuple[TurnKey, SpoolEnd]] = []


class RouterHost(Host):
    role = "rt"

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number)
        self.disk = Disk()
        self.service: RouterService | None = None

    async def begin(self) -> None:
        world = self.world
        bus = SimBus(world.net, self.node)
        recorder = SpoolingRecorder(world, self.disk)
        planner = Planner(world.history, world.catalog, CONFIG)
        providers: dict[str, ProviderPort] = {"a": world.provider, "b": world.provider}
        service = RouterService(
            self.node.name, bus, world.history, world.limits, planner, providers, recorder, self.clock, CONFIG
        )
        await service.start()
        self.service = service
        self._writer = asyncio.create_task(recorder.write_loop())

    def drain(self) -> None:
        """SIGTERM: the process ends what it can within two seconds, and goes."""
        if self.up and self.service is not None and not self.node.frozen:
            self.hurt, self.up = True, False
            self.world.loop.spawn(self.node, self._drain(self.service))

    async def _drain(self, service: RouterService) -> None:
        await service.drain(2.0)
        self.world.loop.call_later(0.001, self.world.kill, self, 0.3, context=OUTSIDE)

    def running(self) -> dict[str, Any]:
        """What the present process knows of turns, by generation."""
        kept = self.service._kept if self.service is not None and not self.node.dead else ()
        return {running.turn.generation: running for running in kept}

    @property
    def busy(self) -> int:
        return self.service.busy if self.service is not None and not self.node.dead else 0


class JanitorHost(Host):
    role = "jan"

    async def begin(self) -> None:
        world = self.world
        bus = SimBus(world.net, self.node)
        janitor = Janitor(self.node.name, bus, world.history, world.ledger, world.limits, world.accounts, self.clock)  # type: ignore[arg-type]  # of accounts and stream it uses what is there
        self._run: asyncio.Task[None] = asyncio.create_task(_sweeps(janitor))


async def _sweeps(janitor: Janitor) -> None:
    """A process that cannot start is started again."""
    while True:
        try:
            await janitor.run(asyncio.Event())
        except Unavailable:
            await asyncio.sleep(0.5)

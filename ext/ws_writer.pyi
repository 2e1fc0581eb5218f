from asyncio import AbstractEventLoop, Task
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ext.ws_door import Door
from ext.ws_types import Accept, Limits, Refuse, Request
from ext.ws_wheel import Timer, Wheel

class Shared:
    """What the connections of one listener share: its limits, clock and wheel, the accept callback, what is to be
    flushed in this turn of the loop. `on_empty` is called each time the last connection has gone."""

    draining: bool
    """Whether handshakes are answered 503 from now on."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        accept: Callable[[Request], Awaitable[Accept | Refuse]],
        limits: Limits,
        on_empty: Callable[[], object],
        door: Door | None = None,
    ) -> None: ...
    @property
    def loop(self) -> AbstractEventLoop: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def wheel(self) -> Wheel:
        """The deadlines of all connections. It turns while there are any."""
    @property
    def connections(self) -> int:
        """TCP connections within `Limits.connections`, handshakes and closing ones included."""
    @property
    def authorising(self) -> int:
        """Accept callbacks that run."""
    @property
    def tasks(self) -> set[Task[None]]:
        """Their tasks."""
    def turn(self) -> None:
        """Advance the wheel; called by the loop."""
    def flush_all(self) -> None:
        """Write what connections queued in this turn of the loop, one write each."""
    def start(self, coroutine: Coroutine[Any, Any, None]) -> Task[None]:
        """Run an accept callback's task; it is kept until it ends."""
    def ended(self, task: Task[None]) -> None:
        """Called when an accept callback's task is done, however it ended."""

class Writer(Timer):
    """The outbound half of a connection: queues bytes, and writes them once per turn of the loop."""

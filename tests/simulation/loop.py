"""A deterministic event loop in virtual time whose tasks belong to nodes that can be frozen and killed.

Which node a callback belongs to is read from its context, which tasks and timers inherit. A frozen node's callbacks
wait (SIGSTOP); a killed node's are dropped where they stand, no `finally` runs (SIGKILL).
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final


class Node:
    """One process of the simulation."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.backlog: list[asyncio.Handle] = []
        self.context = contextvars.copy_context()
        self.context.run(_NODE.set, self)


_NODE: contextvars.ContextVar[Node | None] = contextvars.ContextVar("node", default=None)

OUTSIDE: Final = contextvars.Context()
"""The context of what happens in no process: the net, the stores, the clients."""


def current_node() -> Node | None:
    """The process whose callback runs."""
    return _NODE.get()


class VirtualLoop(asyncio.AbstractEventLoop):
    """Just enough of an event loop for code that awaits futures, tasks and time."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0
        self._now = 0.0
        self.steps = 0
        self.errors: list[dict[str, Any]] = []
        self._dropped: list[asyncio.Handle] = []  # kept, so that no `finally` of a killed process runs

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are skipped when their time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, **kwargs)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def spawn(self, node: Node, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that belongs to the node."""
        return self.create_task(coro, context=node.context.copy())

    def run_until(self, deadline: float, done: Callable[[], bool], max_steps: int = 2_000_000) -> bool:
        """Runs until `done()` (asked when time moves) or the deadline; returns whether it was done."""
        previous = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        usual = asyncio.events.get_running_loop
        asyncio.events.get_running_loop = lambda: self  # the usual one asks the kernel for its pid, each time
        try:
            while self.steps < max_steps:
                self._run_ready()
                if done():
                    return True
                if not self._timers or self._timers[0][0] > deadline:
                    self._now = deadline
                    return done()
                self._advance()
            raise RuntimeError(f"more than {max_steps} steps: something spins at {self._now:.3f} s")
        finally:
            asyncio.events.get_running_loop = usual
            asyncio._set_running_loop(previous)

    def _advance(self) -> None:
        when, _, handle = heapq.heappop(self._timers)
        self._now = max(self._now, when)
        self._ready.append(handle)
        while self._timers and self._timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(self._timers)[2])

    def _run_ready(self) -> None:
        ready = self._ready
        while ready:
            handle = ready.popleft()
            if handle._cancelled:
                continue
            node: Node | None = handle._context.get(_NODE)
            if node is not None:
                if node.dead:
                    self._dropped.append(handle)
                    continue
                if node.frozen:
                    node.backlog.append(handle)
                    continue
            self.steps += 1
            handle._run()

    def kill(self, node: Node) -> None:
        """SIGKILL."""
        node.dead = True
        self._dropped += node.backlog
        node.backlog = []

    def freeze(self, node: Node) -> None:
        """SIGSTOP."""
        node.frozen = True

    def thaw(self, node: Node) -> None:
        """SIGCONT: what waited runs now, in its order."""
        if node.dead or not node.frozen:
            return
        node.frozen = False
        waiting, node.backlog = node.backlog, []
        self._ready.extend(waiting)

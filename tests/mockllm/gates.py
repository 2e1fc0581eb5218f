"""Named gates: a script waits at one until a test opens it, so that tests need no sleeps."""

import asyncio


class Gate:
    """Closed until `open`; then it stays open."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._arrival = asyncio.Event()
        self.waiting = 0

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    def open(self) -> None:
        self._opened.set()

    async def wait(self) -> None:
        """What a script does."""
        self.waiting += 1
        self._arrival.set()
        self._arrival = asyncio.Event()
        try:
            await self._opened.wait()
        finally:
            self.waiting -= 1

    async def reached(self, count: int = 1, timeout: float = 10) -> None:
        """Return when `count` calls wait here. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while self.waiting < count:
                await self._arrival.wait()


class Gates:
    """All gates, made when first named."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}

    def get(self, name: str) -> Gate:
        return self._gates.setdefault(name, Gate())

    def reset(self) -> None:
        """Let all waiting calls go on and forget the gates."""
        for gate in self._gates.values():
            gate.open()
        self._gates.clear()

"""What the listeners of one process may cost together."""

from __future__ import annotations

from typing import Protocol

from ext.ws_admission import Admission
from ext.ws_door import Door
from ext.ws_hops import Hops
from ext.ws_types import Limits


class _Counted(Protocol):
    @property
    def connections(self) -> int: ...


class Budget:
    """`connections`, `connections_per_address`, `handshakes_per_s` and `handshakes_at_once` of `limits`, for all
    listeners that are given this one, which are of one loop. Other limits are each listener's. `hops`: as in `listen`.
    """

    def __init__(self, limits: Limits, hops: Hops) -> None:
        self.door = Door(hops, limits.connections_per_address)
        self.admission = Admission(limits.handshakes_per_s, limits.handshakes_at_once, limits.retry_after_max_s)
        # Nobody is asked where they come from where it makes no difference.
        self.asks = bool(limits.connections_per_address) or hops.told != "socket"
        self._most = limits.connections
        self._parts: list[_Counted] = []

    def join(self, part: _Counted) -> None:
        """Counts the connections of another listener in."""
        self._parts.append(part)

    def full(self) -> bool:
        """Whether there may be no more connections."""
        return sum(part.connections for part in self._parts) >= self._most

"""Where connections come from, and how many from each place."""

from __future__ import annotations

from collections.abc import Mapping

from ext.ws_answers import crowded
from ext.ws_hops import Hops, parsed_address

# A network of this many bits is what one customer of an IPv6 provider has: all its addresses are one place.
PLACE_BITS = 64


class Place:
    """An address, or the network it stands for, and how many connections it has."""

    __slots__ = ("count", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0


class Door:
    """Connections by the address of their client, at most `most` each; 0 is no limit, and then nobody counts.

    Only places that have a connection are kept: the table is no longer than the list of connections.
    """

    def __init__(self, hops: Hops, most: int) -> None:
        self._hops = hops
        self._most = most
        self._places: dict[str, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def told_later(self, peer: tuple[str, int]) -> bool:
        """Whether this peer is a proxy that will tell its client's address, before the request or in it."""
        return self._hops.trusts(peer[0])

    def awaits_header(self) -> bool:
        """Whether such proxies send a PROXY header."""
        return self._hops.told == "proxy"

    def client(self, peer: tuple[str, int], headers: Mapping[str, str]) -> tuple[str, int]:
        """Whom a request is from: the peer, or whom its headers name, as far as those are believed."""
        found = self._hops.client(peer[0], headers.get("x-forwarded-for"))
        return peer if found == peer[0] else (found, 0)

    def full(self, address: str) -> bool:
        """Whether there may be no more connections from `address`."""
        if not self._most:
            return False
        place = self._places.get(_name(address))
        return place is not None and place.count >= self._most

    def enter(self, address: str) -> Place | None:
        """Counts a connection from `address`; whoever gets a place gives it back with `leave`."""
        if not self._most:
            return None
        name = _name(address)
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = Place(name)
        place.count += 1
        return place

    def let_in(self, address: str, retry_after_max_s: float) -> Place | None:
        """As `enter`; raises `HandshakeError` where there may be no more."""
        if self.full(address):
            raise crowded(retry_after_max_s)
        return self.enter(address)

    def leave(self, place: Place) -> None:
        """Gives back what `enter` returned."""
        place.count -= 1
        if place.count == 0:
            del self._places[place.name]


def _name(address: str) -> str:
    if ":" not in address:
        return address
    parsed = parsed_address(address)
    if parsed is None or parsed.version == 4:
        return str(parsed or address)
    return f"{int(parsed) >> (128 - PLACE_BITS):x}::/{PLACE_BITS}"

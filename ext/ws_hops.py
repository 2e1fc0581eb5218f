"""Whose word is taken for a client's address: the proxies that are trusted, and how far a list of hops is believed."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Literal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Told = Literal["socket", "proxy", "forwarded"]

# Chains are short; a header that is a list of thousands is not worth reading.
MAX_HOPS = 32
# ::ffff:0:0/96 holds all of IPv4.
MAPPED_BITS = 96


class Hops:
    """`trusted`: addresses and networks (CIDR) of the proxies in front. `told`: how they tell the client's address.

    `socket`: they do not, it is the socket's. `proxy`: by a PROXY header of version 2 before the request. `forwarded`:
    by X-Forwarded-For. Nobody else's word is taken. ValueError for what is no network.
    """

    def __init__(self, trusted: Sequence[str] = (), told: Told = "socket") -> None:
        if told not in ("socket", "proxy", "forwarded"):
            raise ValueError(f"a client's address comes from socket, proxy or forwarded, not from {told!r}")
        if told != "socket" and not trusted:
            raise ValueError(f"a client's address comes from {told!r}, but no proxy is trusted to tell it")
        self.told = told
        self._networks = [_network(text) for text in trusted]

    def trusts(self, address: str) -> bool:
        """Whether a peer of this address is a proxy that tells its client's."""
        if self.told == "socket":
            return False
        parsed = parsed_address(address)
        return parsed is not None and self._trusted(parsed)

    def client(self, peer: str, forwarded: str | None) -> str:
        """The client's address, where `peer` is the socket's and `forwarded` the value of X-Forwarded-For.

        Every proxy appends whom it was called by, so the list is read from its end, for as long as the one who wrote an
        entry is trusted; what stands before that a stranger may have written. An entry that is no address ends it too.
        """
        found = peer
        entries = [] if forwarded is None else forwarded.rsplit(",", MAX_HOPS)[-MAX_HOPS:]
        while self.told == "forwarded" and entries and self.trusts(found):
            parsed = parsed_address(_without_port(entries.pop().strip(" \t")))
            if parsed is None:
                break
            found = str(parsed)
        return found

    def _trusted(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A network; IPv4 written as IPv6 is IPv4, as it is with addresses. ValueError for what is none."""
    network = ipaddress.ip_network(text, strict=False)
    written = ipaddress.ip_interface(text).ip
    if not isinstance(written, ipaddress.IPv6Address) or written.ipv4_mapped is None:
        return network
    if network.prefixlen < MAPPED_BITS:
        raise ValueError(f"{text} is wider than all of IPv4 within IPv6: write it as a network of IPv4")
    return ipaddress.IPv4Network((written.ipv4_mapped, network.prefixlen - MAPPED_BITS), strict=False)


def parsed_address(text: str) -> Address | None:
    """An IP address, or None. IPv4 written as IPv6, as dual-stack sockets do, is IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _without_port(entry: str) -> str:
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry

"""Whose word is taken for a client's address, over the rules alone and over a listener."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.ws import Accept, Hops, Limits, Listener, Refuse, Request, listen
from ext.ws_door import Door
from ext.ws_hops import MAX_HOPS, Told
from tests.support.polling import eventually
from tests.support.proxying import LOCAL, proxy_header
from tests.support.websocket import REQUEST, TEXT, Echo, RawClient, client_frame

pytestmark = pytest.mark.usefixtures("quiet")

TRUSTED = ("10.0.0.0/8", "2001:db8:aa::/48", "127.0.0.1")
FORWARDED = Hops(TRUSTED, "forwarded")


@pytest.mark.parametrize(
    ("peer", "header", "client"),
    [
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.7,10.2.3.4", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "6.6.6.6, unknown", "10.0.0.1"),
        ("10.0.0.1", "6.6.6.6, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
        ("10.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("10.0.0.1", '"[2001:db8::7]"', "10.0.0.1"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("2001:db8:aa::1", "2001:DB8::7", "2001:db8::7"),
        ("198.51.100.9", "6.6.6.6", "198.51.100.9"),
        ("198.51.100.9", "10.0.0.1", "198.51.100.9"),
        ("", "6.6.6.6", ""),
    ],
)
def test_hops_are_read_from_the_end_as_far_as_they_are_trusted(peer: str, header: str | None, client: str) -> None:
    assert FORWARDED.client(peer, header) == client


@given(st.text('0123456789.:abcf[], \t"unknown', max_size=80), st.ip_addresses(v=4))
def test_what_a_stranger_wrote_changes_nothing(forged: str, client: object) -> None:
    outside = f"203.0.113.{int(str(client).rpartition('.')[2])}"
    assert FORWARDED.client("10.0.0.1", f"{forged}, {outside}") == outside
    assert FORWARDED.client(outside, forged) == outside


def test_chains_have_an_end() -> None:
    assert FORWARDED.client("10.0.0.1", "6.6.6.6, " + "10.0.0.2, " * 5_000 + "10.0.0.2") == "10.0.0.2"
    assert FORWARDED.client("10.0.0.1", "6.6.6.6, " + ", ".join(["10.0.0.2"] * (MAX_HOPS - 1))) == "6.6.6.6"


def test_nobody_is_trusted_where_addresses_come_from_the_socket() -> None:
    hops = Hops(TRUSTED)
    assert not hops.trusts("10.0.0.1")
    assert hops.client("10.0.0.1", "6.6.6.6") == "10.0.0.1"


@pytest.mark.parametrize(
    ("trusted", "told"),
    [
        (["10.0.0.0/33"], "forwarded"),
        (["::ffff:10.0.0.0/8"], "forwarded"),
        (["10.0.0.1"], "headers"),
        ([], "proxy"),
    ],
)
def test_what_cannot_be_meant_is_told(trusted: Sequence[str], told: Told) -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/33|wider than|'headers'|no proxy is trusted"):
        Hops(trusted, told)


def test_ipv4_networks_may_be_written_as_ipv6() -> None:
    hops = Hops(["::ffff:10.0.0.0/104", "::ffff:192.0.2.7", "::ffff:198.51.100.0/120"], "proxy")
    assert hops.trusts("10.9.9.9")
    assert hops.trusts("::ffff:10.9.9.9")
    assert hops.trusts("192.0.2.7")
    assert hops.trusts("198.51.100.255")
    assert not hops.trusts("11.0.0.0")
    assert not hops.trusts("192.0.2.8")


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6, network="2001:db8::/124")).map(str)


@given(st.lists(st.tuples(st.booleans(), ADDRESSES), max_size=80), st.integers(1, 3))
def test_places_are_counted_and_forgotten(steps: list[tuple[bool, str]], most: int) -> None:
    door, inside = Door(Hops(), most), []
    for leaves, address in steps:
        if leaves and inside:
            door.leave(inside.pop())
        elif not door.full(address):
            inside.append(door.enter(address))
        names = [place.name for place in inside if place is not None]
        assert len(door) == len(set(names))
        assert all(names.count(name) <= most for name in names)
    for place in inside:
        assert place is not None
        door.leave(place)
    assert len(door) == 0


# --- over a listener ------------------------------------------------------------------------------------------------


class Gate:
    """A listener behind proxies; `seen` are the peers of its handshakes."""

    def __init__(self, hops: Hops, **limits: float) -> None:
        self.seen: list[tuple[str, int]] = []
        self._hops = hops
        self._limits = Limits(**limits)  # type: ignore[arg-type]
        self.clients: list[RawClient] = []

    async def __aenter__(self) -> Gate:
        def accept(request: Request) -> Accept | Refuse:
            self.seen.append(request.peer)
            return Accept(Echo())

        self.listener: Listener = await listen(accept, "127.0.0.1", 0, self._limits, hops=self._hops)
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            client.reset()
        self.listener.stop_accepting()
        assert await self.listener.wait_closed(5)

    async def send(self, data: bytes, source: str = "127.0.0.1") -> RawClient:
        opened = await asyncio.open_connection("127.0.0.1", self.listener.port, local_addr=(source, 0))
        self.clients.append(RawClient(*opened))
        self.clients[-1].send(data)
        return self.clients[-1]

    async def status(self, data: bytes, source: str = "127.0.0.1") -> int:
        return (await (await self.send(data, source)).answer())[0]


def asking(*lines: str) -> bytes:
    return REQUEST[:-2] + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


async def test_a_trusted_balancer_names_its_client() -> None:
    async with Gate(Hops(TRUSTED, "proxy")) as gate:
        client = await gate.send(proxy_header("2001:db8::7", 99, extensions=b"\x04\x00\x01a") + REQUEST)
        assert (await client.answer())[0] == 101
        client.send(client_frame(TEXT, b"served"))
        assert await client.frame() == (TEXT, b"served")
        assert await gate.status(LOCAL + REQUEST) == 101
    assert gate.seen[0] == ("2001:db8::7", 99)
    assert gate.seen[1][0] == "127.0.0.1"


async def test_the_header_may_come_byte_by_byte() -> None:
    async with Gate(Hops(TRUSTED, "proxy")) as gate:
        client = await gate.send(b"")
        for byte in proxy_header() + REQUEST:
            client.send(bytes((byte,)))
            await client.writer.drain()
        assert (await client.answer())[0] == 101
    assert gate.seen == [("198.51.100.7", 4711)]


async def test_a_trusted_balancer_that_does_not_speak_it_is_refused() -> None:
    async with Gate(Hops(TRUSTED, "proxy"), handshake_s=0.3) as gate:
        assert await gate.status(REQUEST) == 400
        assert await gate.status(proxy_header(family=0x12) + REQUEST) == 400
        assert await gate.status(proxy_header() * 2 + REQUEST) == 400
        assert await gate.status(proxy_header()[:-1]) == 408
        assert await gate.status(proxy_header()) == 408
    assert gate.seen == []


@pytest.mark.parametrize("told", ["socket", "proxy", "forwarded"])
async def test_a_strangers_proxy_header_is_refused(told: Told) -> None:
    async with Gate(Hops(["10.0.0.0/8"], told)) as gate:
        assert await gate.status(proxy_header("6.6.6.6") + REQUEST) == 400
    assert gate.seen == []


@pytest.mark.parametrize("told", ["socket", "proxy", "forwarded"])
async def test_a_strangers_forwarded_header_changes_nothing(told: Told) -> None:
    async with Gate(Hops(["10.0.0.0/8"], told)) as gate:
        for lines in (["X-Forwarded-For: 6.6.6.6"], ["X-Forwarded-For: 10.0.0.1", "x-forwarded-for: 6.6.6.6"]):
            assert await gate.status(asking(*lines, "X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6")) == 101
    assert {address for address, _ in gate.seen} == {"127.0.0.1"}


async def test_only_the_configured_way_is_believed_of_a_trusted_peer() -> None:
    async with Gate(Hops(TRUSTED, "proxy")) as gate:
        assert await gate.status(proxy_header() + asking("X-Forwarded-For: 6.6.6.6")) == 101
    assert gate.seen == [("198.51.100.7", 4711)]
    async with Gate(Hops(TRUSTED, "forwarded")) as gate:
        assert await gate.status(proxy_header() + REQUEST) == 400
        assert await gate.status(asking("X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 198.51.100.7")) == 101
    assert gate.seen == [("198.51.100.7", 0)]


async def test_an_address_has_so_many_connections_and_others_have_theirs() -> None:
    async with Gate(Hops(), connections_per_address=2) as gate:
        first = await gate.send(REQUEST, "127.0.0.2")
        assert (await first.answer())[0] == 101
        # One that has not asked yet counts as well.
        await gate.send(b"", "127.0.0.2")
        await eventually(lambda: gate.listener.connections == 2)
        status, headers, _ = await (await gate.send(REQUEST, "127.0.0.2")).answer()
        assert (status, headers["retry-after"]) == (429, "30")
        assert 29_000 <= int(headers["retry-after-ms"]) <= 30_000
        assert await gate.status(REQUEST, "127.0.0.3") == 101
        first.reset()
        await eventually(lambda: gate.listener.connections == 2)
        assert await gate.status(REQUEST, "127.0.0.2") == 101


@pytest.mark.parametrize("told", ["proxy", "forwarded"])
async def test_behind_a_proxy_its_clients_are_counted(told: Told) -> None:
    def request(client: str) -> bytes:
        return proxy_header(client) + REQUEST if told == "proxy" else asking(f"X-Forwarded-For: 6.6.6.6, {client}")

    async with Gate(Hops(TRUSTED, told), connections_per_address=2) as gate:
        clients = ["2001:db8::1", "2001:db8::ffff:1", "198.51.100.7", "2001:db8::2", "198.51.100.7", "198.51.100.7"]
        assert [await gate.status(request(client)) for client in clients] == [101, 101, 101, 429, 101, 429]
        for client in gate.clients:
            client.reset()
        await eventually(lambda: gate.listener.connections == 0)
        assert [await gate.status(request(client)) for client in clients[:3]] == [101] * 3


async def test_behind_a_balancer_clients_are_counted_from_the_header_on() -> None:
    async with Gate(Hops(TRUSTED, "proxy"), connections_per_address=5, handshake_s=30.0) as gate:
        half = [await gate.send(proxy_header("198.51.100.7") + REQUEST[:-2]) for _ in range(5)]
        await eventually(lambda: gate.listener.connections == 5)
        assert await gate.status(proxy_header("198.51.100.8") + REQUEST) == 101
        refused = [
            await gate.status(proxy_header("198.51.100.7") + more) for more in (b"", b"G", REQUEST[:-2], REQUEST)
        ]
        assert refused == [429] * 4
        # However they leave, their places are free: gone, refused for what they sent, served and gone.
        half[0].reset()
        half[1].send(b"no header\r\n\r\n")
        half[2].send(b"\r\n")
        assert [(await client.answer())[0] for client in half[1:3]] == [400, 101]
        for client in half[1:]:
            client.reset()
        await eventually(lambda: gate.listener.connections <= 1 + len(refused))
        for client in gate.clients[6:]:
            client.reset()
        await eventually(lambda: gate.listener.connections == 1)
        again = [await gate.status(proxy_header("198.51.100.7") + REQUEST) for _ in range(6)]
        assert again == [101] * 5 + [429]

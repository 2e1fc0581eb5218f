"""PROXY headers of version 2: what balancers send is understood, and nothing else."""

from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.ws_proxy import MAX_BYTES, ProxyError, parse_proxy
from tests.support.proxying import LOCAL, SIGNATURE, proxy_header

REST = b"GET / HTTP/1.1\r\n"
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
PORTS = st.integers(0, 65_535)


@given(ADDRESSES, PORTS, st.binary(max_size=300), st.binary(max_size=20))
def test_the_client_is_who_the_header_names(
    client: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, extensions: bytes, rest: bytes
) -> None:
    header = proxy_header(str(client), port, extensions=extensions)
    found = parse_proxy(bytearray(header + rest))
    assert found is not None
    size, peer = found
    assert peer is not None
    assert (size, ipaddress.ip_address(peer[0]), peer[1]) == (len(header), client, port)


@given(ADDRESSES, st.binary(max_size=60))
def test_every_beginning_of_a_header_is_incomplete(
    client: ipaddress.IPv4Address | ipaddress.IPv6Address, extensions: bytes
) -> None:
    header = proxy_header(str(client), extensions=extensions)
    assert all(parse_proxy(header[:end]) is None for end in range(len(header)))


def test_a_balancer_that_speaks_for_itself_is_its_own_client() -> None:
    assert parse_proxy(LOCAL + REST) == (16, None)
    # Whatever is said of addresses then is skipped.
    assert parse_proxy(proxy_header(command=0x20) + REST) == (28, None)
    assert parse_proxy(proxy_header(command=0x20, family=0x31) + REST) == (28, None)
    assert parse_proxy(proxy_header(family=0x00) + REST) == (28, None)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(REST, id="no header"),
        pytest.param(b"PROXY TCP4 198.51.100.7 198.51.100.8 1 2\r\n", id="version 1"),
        pytest.param(b"\r\n\r\n\x00\r\nQUIT\r", id="another signature"),
        pytest.param(proxy_header(command=0x11), id="another version"),
        pytest.param(proxy_header(command=0x22), id="another command"),
        pytest.param(proxy_header(family=0x12), id="UDP"),
        pytest.param(proxy_header(family=0x31), id="a UNIX socket"),
        pytest.param(proxy_header(length=11), id="too short for IPv4"),
        pytest.param(proxy_header("2001:db8::1", length=35), id="too short for IPv6"),
        pytest.param(proxy_header(length=MAX_BYTES - 15), id="too long"),
        pytest.param(proxy_header(length=65_535), id="much too long"),
    ],
)
def test_what_is_no_such_header_is_refused(data: bytes) -> None:
    with pytest.raises(ProxyError):
        parse_proxy(data)


@given(st.one_of(st.binary(max_size=64), st.binary(max_size=64).map(lambda rest: SIGNATURE + rest)))
def test_anything_is_understood_incomplete_or_refused(data: bytes) -> None:
    try:
        found = parse_proxy(data)
    except ProxyError:
        return
    if found is None:
        assert len(data) < MAX_BYTES
    else:
        assert 16 <= found[0] <= min(len(data), MAX_BYTES)


def test_damaged_headers_are_understood_incomplete_or_refused() -> None:
    """Twenty thousand headers with one to four bytes changed, cut off or added; the same ones in every run."""
    chance = random.Random(4)
    seeds = [proxy_header(), proxy_header("2001:db8::1"), LOCAL, proxy_header(extensions=b"\x04\x00\x03abc")]
    for _ in range(20_000):
        data = bytearray(chance.choice(seeds) + REST)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            how = chance.random()
            if how < 0.7:
                data[at] = chance.randrange(256)
            elif how < 0.85:
                del data[at : at + chance.randint(1, 8)]
            else:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            data = data or bytearray(b"\r")
        try:
            found = parse_proxy(data)
        except ProxyError:
            continue
        assert found is None or 16 <= found[0] <= len(data)

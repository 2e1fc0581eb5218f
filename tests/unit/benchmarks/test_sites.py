"""Credentials that benchmarks mint, and whether a machine is large enough."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from benchmarks import capacity, credentials
from benchmarks.peers.common import Command, command, frame, payload
from core.auth.tokens import AccessTokens, SigningKey
from core.clock import SystemClock
from core.config import Auth, Config


def test_minted_tokens_are_as_good_as_issued_ones() -> None:
    pem = SigningKey.generate()
    config = replace(Config(), auth=Auth(signing_key=pem))
    tokens = AccessTokens(SigningKey.load(pem), config.auth.access_s, SystemClock())
    minted = credentials.tokens(config, 3)
    found = [tokens.verify(token) for token in minted]
    assert len({claims.sub for claims in found if claims is not None}) == 3
    shared = [tokens.verify(token) for token in credentials.tokens(config, 4, ["one", "two"])]
    assert [claims.sub for claims in shared if claims is not None] == ["one", "two", "one", "two"]
    assert len({claims.sid for claims in shared if claims is not None}) == 4


def test_what_a_machine_lacks_is_named() -> None:
    assert capacity.missing(1, 16, 1, 1) == []
    lacks = capacity.missing(10**9, 10**9, 1, 10**6)
    assert any(lack.startswith("files for all") for lack in lacks)
    assert any(lack.startswith("local ports") for lack in lacks)
    assert any(lack.startswith("memory") for lack in lacks)


@pytest.mark.parametrize(("size", "head"), [(5, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)])
def test_frames_of_the_floor(size: int, head: int) -> None:
    made = frame(payload(size))
    assert len(made) == head + size
    assert made[0] == 0x81


def test_commands_are_told_from_what_is_echoed() -> None:
    assert command(b'{"to":"push","frames":3,"size":9}') == Command("push", 3, 9)
    assert command('{"to":"cast","frames":3,"size":9,"per_turn":2}') == Command("cast", 3, 9, 2)
    assert command("hello") is None
    assert command(b"") is None

"""Bodies that do not arrive: refused as the client's doing, and in time."""

from __future__ import annotations

import json

import pytest

from gateway.api import bodies
from tests.support.api import Platform
from tests.support.asgi import Exchange

LOGIN = ("POST", "/v1/auth/login", {"content-type": "application/json"}, b'{"email": "a')


async def test_a_client_that_leaves_in_the_middle(platform: Platform, caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(platform.api, *LOGIN, whole=False)
    await exchange.leave()
    assert (exchange.status, json.loads(exchange.body)["error"]["code"]) == (400, "malformed")
    assert caplog.records == []


async def test_a_body_that_takes_too_long(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.05)
    exchange = Exchange(platform.api, *LOGIN, whole=False)
    await exchange.ended()
    error = json.loads(exchange.body)["error"]
    assert (exchange.status, error["code"]) == (400, "malformed")
    assert "did not arrive" in error["message"]

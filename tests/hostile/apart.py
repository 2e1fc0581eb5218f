"""A gateway and a router beside the stack's, which take turns from each other only: with settings of their own, and
telling all that they have to tell.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from cli.layout import read_json
from tests.support.child import Child, free_port, says
from tests.support.own import LONG, long_model
from tests.support.stack import Stack

__all__ = ["LONG", "Apart", "apart_from"]

HEARTBEAT_S = 1
CONNECTIONS = 40

_READY = b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
_METRICS = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Apart:
    """`port`, `ws_port`: the gateway's. `log`: what both have said, at the level `debug`."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.port, self.ws_port, admin, router_admin = (free_port() for _ in range(4))
        self._log = folder / "apart.log"
        common = read_json(stack.layout.environment) | {
            "PARLEY_POOL": "apart",
            "PARLEY_LOG_LEVEL": "debug",
            "PARLEY_DATA": str(folder),
        }
        gateway = common | {
            "PARLEY_GATEWAY__PORT": self.port,
            "PARLEY_GATEWAY__OWN_PORT": self.port,
            "PARLEY_GATEWAY__WS_PORT": self.ws_port,
            "PARLEY_GATEWAY__OWN_WS_PORT": self.ws_port,
            "PARLEY_GATEWAY__ADMIN_PORT": admin,
            "PARLEY_GATEWAY__HEARTBEAT_S": HEARTBEAT_S,
            "PARLEY_GATEWAY__CONNECTIONS_PER_USER": CONNECTIONS,
        }
        router = common | {"PARLEY_ROUTER__ADMIN_PORT": router_admin}
        self._gateway = self._child(gateway, ["gateway"], lambda: says(self.port, _READY, b"HTTP/1.1 200"))
        self._router = self._child(
            router,
            ["worker", "router"],
            lambda: says(router_admin, _METRICS, b"HTTP/1."),
        )

    def _child(self, settings: Mapping[str, object], words: list[str], answers: Callable[[], bool]) -> Child:
        command = ["env", *(f"{name}={value}" for name, value in settings.items())]
        return Child([*command, sys.executable, "-m", "cli", *words], self._log, answers)

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def resident_bytes(self) -> int:
        """The gateway's resident memory."""
        return int(psutil.Process(self._gateway.pid).memory_info().rss)

    def start(self) -> None:
        self._router.start(30)
        self._gateway.start(30)

    def kill(self) -> None:
        self._gateway.kill()
        self._router.kill()


@contextmanager
def apart_from(stack: Stack, folder: Path) -> Iterator[Apart]:
    """Both, running; as long as they do there is a model beside the stack's own whose answers may be long."""
    made = Apart(stack, folder)
    with long_model(stack):
        try:
            made.start()
            yield made
        finally:
            made.kill()

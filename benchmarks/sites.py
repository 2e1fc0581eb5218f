"""What sockets are opened at: the floor, our listener alone, a whole gateway, peers; and what opening each takes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import resource
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from benchmarks import credentials
from benchmarks.native.upgrade import upgrade
from benchmarks.peers.__main__ import SERVERS
from benchmarks.processes import accepting, gateways, running
from benchmarks.scenario import Bench, CannotStart, Contestant, LeftOut, Measure, Role
from cli.ports import choose

ECHOED = b"a question of thirty-two letters"
CENTRIFUGO = "centrifugo"
GATEWAY = "gateway"
FILES = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
SECRET = "not secret at all"


@dataclass(frozen=True, kw_only=True)
class Site:
    """A server under measurement. `requests(n)`: handshakes of n new clients; `hellos(n)`: the frame that each of them
    sends as soon as it is open, or nothing; `greetings`: text frames that a server sends by itself to a new client.
    `ask` is answered by one frame that begins with `answer`.
    """

    pid: int
    port: int
    requests: Callable[[int], list[bytes]]
    hellos: Callable[[int], list[bytes]] | None = None
    greetings: int = 0
    ask: bytes = ECHOED
    answer: bytes = ECHOED


Opened = AbstractContextManager[Site]
Opener = Callable[[Bench], Opened]


@contextlib.contextmanager
def small(name: str, bench: Bench) -> Iterator[Site]:
    """One of benchmarks/peers."""
    port = choose()
    argv = [sys.executable, "-m", "benchmarks.peers", name, str(port)]
    with running(name, argv, bench.folder, ports={"ws": port}, ready=accepting(port), files=FILES) as server:
        yield Site(
            pid=server.pid,
            port=port,
            requests=lambda count: [upgrade(host=f"127.0.0.1:{port}", subprotocols="")] * count,
        )


@contextlib.contextmanager
def gateway(bench: Bench, **settings: Any) -> Iterator[Site]:
    """A gateway of its own at the stack's servers. Every client is somebody else, with a token not seen before."""
    config = bench.target.config
    with gateways(bench.target, 1, bench.folder, files=FILES, **{**OPEN_DOORS, **settings}) as [server]:
        port = server.ports["own_ws"]
        yield Site(
            pid=server.pid,
            port=port,
            requests=lambda count: credentials.bearers(port, credentials.tokens(config, count)),
            greetings=1,
            ask=b'{"type":"ping","t":1}',
            answer=b'{"type":"pong"',
        )


OPEN_DOORS: dict[str, Any] = {
    "max_connections": FILES,
    "handshakes_per_s": 0.0,
    "frames_per_s": 0.0,
    "bytes_per_s": 0.0,
    "unready_s": 0.0,
    "drain_s": 1.0,
}
"""Gateway settings that let in what comes from one address as fast as it comes: what limits do is tested elsewhere."""


@contextlib.contextmanager
def centrifugo(bench: Bench) -> Iterator[Site]:
    """Centrifugo with its memory engine, as its documentation tunes it for many connections: pooled write buffers and
    read buffers of 1 KiB. Its clients connect with a token (HS256), each as somebody else. Its pings ask for an answer
    of its own protocol, which our clients do not know: they are off.
    """
    program = shutil.which(CENTRIFUGO)
    if program is None:
        raise CannotStart("there is no `centrifugo` on PATH")
    port = choose()
    config = bench.folder / f"{CENTRIFUGO}.json"
    config.write_text(json.dumps(_centrifugo(port)))
    argv = [program, "--config", str(config)]
    with running(CENTRIFUGO, argv, bench.folder, ports={"ws": port}, ready=accepting(port), files=FILES) as server:
        request = upgrade("/connection/websocket", host=f"127.0.0.1:{port}", subprotocols="")
        yield Site(
            pid=server.pid,
            port=port,
            requests=lambda count: [request] * count,
            hellos=_connects,
            greetings=1,
        )


def _centrifugo(port: int) -> dict[str, Any]:
    return {
        "http_server": {"address": "127.0.0.1", "port": port},
        "client": {"token": {"hmac_secret_key": SECRET}, "allowed_origins": ["*"], "ping_interval": "1h"},
        "websocket": {"use_write_buffer_pool": True, "read_buffer_size": 1024},
        "channel": {"without_namespace": {"allow_subscribe_for_client": True}},
        "http_api": {"insecure": True},
        "log": {"level": "error"},
    }


def _connects(count: int) -> list[bytes]:
    """Commands to connect, each as somebody else."""
    head = _part({"alg": "HS256", "typ": "JWT"})

    def connect() -> bytes:
        text = head + b"." + _part({"sub": credentials.new_id()})
        tag = base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), text, hashlib.sha256)).rstrip(b"=")
        return json.dumps({"id": 1, "connect": {"token": (text + b"." + tag).decode()}}).encode()

    return [connect() for _ in range(count)]


def _part(value: dict[str, str]) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


ROLES: dict[str, Role] = {"floor": "floor", "listener": "ours", GATEWAY: "ours"}


def opener(name: str) -> Opener:
    if name == GATEWAY:
        return gateway
    if name == CENTRIFUGO:
        return centrifugo
    assert name in SERVERS, f"there is no server {name}"
    return lambda bench: small(name, bench)


def lacking(why: str) -> Opener:
    """For a peer that has no such mode."""

    def refuse(bench: Bench) -> Opened:
        raise LeftOut(why)

    return refuse


def contestants(
    names: Sequence[str],
    start: Callable[[Bench, Any, Opener], AbstractContextManager[Measure]],
    without: dict[str, str] | None = None,
) -> list[Contestant[Any]]:
    """One for each name, all measured alike by `start`; `without`: peers that have no such mode, and why."""

    def one(name: str, opens: Opener) -> Contestant[Any]:
        return Contestant(name, ROLES.get(name, "peer"), lambda bench, sizes: start(bench, sizes, opens))

    found = [one(name, opener(name)) for name in names]
    return found + [one(name, lacking(why)) for name, why in (without or {}).items()]

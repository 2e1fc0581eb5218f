"""Configuration: one frozen tree from a TOML file and the environment. The only module that reads the environment.

A setting `gateway.port` is `[gateway] port = …` in the file named by `--config` or `PARLEY_CONFIG`, and
`PARLEY_GATEWAY__PORT` in the environment, which wins. In the environment lists and tables are JSON, and so is text that
begins like JSON: `"[eu]"`.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

PREFIX = "PARLEY_"
MIN_BYTES_AT_ONCE = 128 * 1024
_JSON = ("[", "{", '"')


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: an unknown setting is an error that names it."""


class Postgres(Section, frozen=True, kw_only=True):
    dsn: str = "postgresql://parley@127.0.0.1:5432/parley"
    pool_size: int = 10
    timeout_s: float = 5.0


class Nats(Section, frozen=True, kw_only=True):
    urls: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    usage_timeout_s: float = 0.05


class Redis(Section, frozen=True, kw_only=True):
    url: str = "redis://127.0.0.1:6379/0"
    timeout_s: float = 0.25
    degraded_share: float = 0.5
    degraded_s: float = 600.0


class Gateway(Section, frozen=True, kw_only=True):
    """`port` and `ws_port` are shared by all gateways of a host; `own_*` belong to one process (0: any free one).

    At SIGTERM /readyz says no for `unready_s` while all is served as before, so that a load balancer can look away;
    then clients are sent elsewhere, each at its own moment, and all is over within `drain_s`.

    A WebSocket that was silent for `heartbeat_s` is pinged, and closed (4408) where it does not answer in `pong_s`.

    `handshakes_per_s`: WebSockets that a process lets in, half of what a core can authenticate (the goal is 5,000), so
    that whoever is connected is served while a storm comes back; `retry_after_max_s` bounds the wait that the others
    are told. `frames_per_s` and `bytes_per_s` are what one WebSocket may send in the long run. A rate, or cap, of 0 is
    no limit.

    `trusted_proxies`: addresses and networks whose word is taken for a client's address, by a PROXY header of version 2
    (`proxy`, WebSockets only) or X-Forwarded-For (`forwarded`); with `socket` nobody's is. `connections_per_address`
    counts WebSockets by that address, so it is for those who have said how it is found. It, `max_connections` and the
    handshakes' rate are a process's, over both its ports: behind one address N processes let in N times as many.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    ws_port: int = 8081
    own_port: int = 0
    own_ws_port: int = 0
    admin_host: str = "127.0.0.1"
    admin_port: int = 0
    ws_url: str = ""
    origins: tuple[str, ...] = ()
    https: bool = False
    web_root: str = ""
    unready_s: float = 1.0
    drain_s: float = 5.0
    heartbeat_s: float = 25.0
    pong_s: float = 10.0
    stuck_s: float = 60.0
    max_connections: int = 15_000
    handshakes_per_s: float = 2_500.0
    handshakes_at_once: int = 500
    retry_after_max_s: float = 30.0
    trusted_proxies: tuple[str, ...] = ()
    ws_client_address: Literal["socket", "proxy", "forwarded"] = "socket"
    http_client_address: Literal["socket", "forwarded"] = "socket"
    connections_per_address: int = 0
    connections_per_user: int = 100
    frames_per_s: float = 50.0
    frames_at_once: int = 200
    bytes_per_s: float = 256.0 * 1024
    bytes_at_once: int = 1024 * 1024
    max_streams: int = 2_000
    queue_wait_s: float = 30.0
    queue_length: int = 1_000

    def __post_init__(self) -> None:
        """ValueError that names a setting which makes no sense."""
        for name in ("heartbeat_s", "pong_s", "stuck_s", "retry_after_max_s"):
            self._require(name, getattr(self, name) > 0, "more than 0")
        for name in ("unready_s", "drain_s", "queue_wait_s", "handshakes_per_s", "frames_per_s", "bytes_per_s"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("connections_per_address", "connections_per_user", "max_streams", "queue_length"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("max_connections", "handshakes_at_once", "frames_at_once", "bytes_at_once"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        if self.bytes_per_s:
            least = f"{MIN_BYTES_AT_ONCE} or more: a whole message, and what one read takes on top of it"
            self._require("bytes_at_once", self.bytes_at_once >= MIN_BYTES_AT_ONCE, least)

    def _require(self, name: str, holds: bool, what: str) -> None:
        value = getattr(self, name)
        if not holds or value == math.inf:
            raise ValueError(f"gateway.{name} is {value}; it must be {what}")


class Router(Section, frozen=True, kw_only=True):
    admin_host: str = "127.0.0.1"
    admin_port: int = 0
    max_turns: int = 500
    text_bytes: int = 256 * 1024 * 1024
    tail_s: float = 600.0
    drain_s: float = 8.0


class Auth(Section, frozen=True, kw_only=True):
    """`signing_key`: an Ed25519 private key, PEM, or the path of a file that holds one."""

    signing_key: str = ""
    access_s: int = 600
    refresh_s: int = 30 * 24 * 3600
    registration: bool = True
    hashes_at_once: int = 2


class Limits(Section, frozen=True, kw_only=True):
    requests_per_minute: int = 60
    turns_at_once: int = 4
    tokens_per_day: int = 2_000_000


class Provider(Section, frozen=True, kw_only=True):
    """Where models are served: an OpenAI-compatible base URL ending in `/v1`. `api_key` never reaches a log."""

    name: str
    base_url: str
    api_key: str = ""
    send_tags: bool = False
    first_token_s: float = 10.0
    idle_s: float = 30.0


class Route(Section, frozen=True, kw_only=True):
    provider: str
    model: str


class Model(Section, frozen=True, kw_only=True):
    """What the catalog is seeded with. Prices in nano-USD per token; routes are tried in order."""

    alias: str
    routes: tuple[Route, ...]
    context_window: int
    max_output: int
    input_price: int = 0
    output_price: int = 0
    system_prompt: str = ""


class Config(Section, frozen=True, kw_only=True):
    """The whole tree. `data` is where this process may keep what must survive it (spools, keys)."""

    zone: str = "local"
    pool: str = "default"
    data: str = ".parley"
    log_level: str = "info"
    default_model: str = ""
    postgres: Postgres = Postgres()
    nats: Nats = Nats()
    redis: Redis = Redis()
    gateway: Gateway = Gateway()
    router: Router = Router()
    auth: Auth = Auth()
    limits: Limits = Limits()
    providers: tuple[Provider, ...] = ()
    models: tuple[Model, ...] = ()


class ConfigError(Exception):
    """A setting is wrong; the message names it and says what it must be."""


def load(path: str | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Reads the file (if any), then the environment. Raises `ConfigError` naming the setting and the file."""
    env = os.environ if environ is None else environ
    source = path or env.get(PREFIX + "CONFIG")
    tree: dict[str, Any] = {}
    if source:
        try:
            tree = tomllib.loads(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the configuration file {source}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source} is not valid TOML: {error}") from error
    for name, value in env.items():
        if name.startswith(PREFIX) and name != PREFIX + "CONFIG":
            _put(tree, name, value)
    try:
        return msgspec.convert(tree, Config, strict=False)
    except msgspec.ValidationError as error:
        where = f"{source} and the environment" if source else "the environment"
        raise ConfigError(f"configuration from {where}: {error}") from error


def _put(tree: dict[str, Any], name: str, value: str) -> None:
    *sections, leaf = name.removeprefix(PREFIX).lower().split("__")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{name}: {section} is a setting, not a section")
    try:
        node[leaf] = json.loads(value) if value.startswith(_JSON) else value
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name} is not valid JSON: {error}") from error


def environment(config: Config) -> dict[str, str]:
    """The environment from which `load` builds the same tree: how a supervisor configures its children."""
    found: dict[str, str] = {}
    for name, value in msgspec.to_builtins(config).items():
        if isinstance(value, dict):
            for leaf, setting in value.items():
                found[f"{PREFIX}{name}__{leaf}".upper()] = _text(setting)
        else:
            found[f"{PREFIX}{name}".upper()] = _text(value)
    return found


def inherited(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without our settings: what a supervisor hands on beside `environment`."""
    env = os.environ if environ is None else environ
    return {name: value for name, value in env.items() if not name.startswith(PREFIX)}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple | dict) or (isinstance(value, str) and value.startswith(_JSON)):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)

"""What `parley up` runs: which parts, on which ports, configured how, and in which order they start and stop."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec.structs import replace

from cli.embedded import model, nats, postgres, redis
from cli.layout import Layout, read_json, write_json
from cli.ports import PortTaken, base_url, choose, is_free, reachable
from cli.probes import http_alive, http_ok
from cli.secrets import Secrets
from cli.supervisor import Part
from core.config import Config, environment, inherited

ROOT = Path(__file__).resolve().parents[1]
GATEWAYS = ("gateway-1", "gateway-2")
ROUTERS = ("router-1", "router-2")
WORKERS = ("ledger", "janitor")
SERVERS = ("postgres", "nats", "redis")
MODEL = "model"
# Without Redis our programs start and run degraded.
NEEDED = ("postgres", "nats")

# Who uses something is stopped before it, so that nothing is cut which could still end well.
STOP_ORDER = (GATEWAYS, ROUTERS, WORKERS, (MODEL, *SERVERS))
STOP_S = 9.0
GATEWAY_DRAIN_S = 2.0
ROUTER_DRAIN_S = 2.0
WORKER_STOP_S = 2.5

# -P: what lies in the current folder does not come before our own modules.
COMMAND = (sys.executable, "-P", "-m", "cli")


def port_names(with_model: bool) -> list[str]:
    """The ports that only this stack uses, and that nobody has to know."""
    names = list(SERVERS) + ([MODEL] if with_model else [])
    for gateway in GATEWAYS:
        names += [f"{gateway}.own", f"{gateway}.own_ws", f"{gateway}.admin"]
    return names + [f"{worker}.admin" for worker in (*ROUTERS, *WORKERS)]


def internal_ports(layout: Layout, with_model: bool, used: Iterable[int]) -> dict[str, int]:
    """Free ports for the parts, the same as last time where these are still free. Raises `PortTaken`, `OSError`."""
    before = read_json(layout.ports)
    chosen: dict[str, int] = {}
    taken = set(used)
    for name in port_names(with_model):
        port = before.get(name)
        if not isinstance(port, int) or port in taken or not is_free(port):
            port = choose(taken)
        chosen[name] = port
        taken.add(port)
    write_json(layout.ports, before | chosen)
    return chosen


def configure(user: Config, layout: Layout, ports: Mapping[str, int], secrets: Secrets, with_model: bool) -> Config:
    """The configuration that all parts share: the user's, with the servers that this stack brings along."""
    gateway = user.gateway
    page = ROOT / "web" / "dist"
    config = replace(
        user,
        postgres=replace(user.postgres, dsn=postgres.dsn(ports["postgres"], secrets)),
        nats=replace(user.nats, urls=(nats.url(ports["nats"], secrets),)),
        redis=replace(user.redis, url=redis.url(ports["redis"], secrets)),
        gateway=replace(
            gateway,
            origins=gateway.origins or _origins(gateway.host, gateway.port),
            web_root=gateway.web_root or (str(page) if page.is_dir() else ""),
            unready_s=0.0,
            drain_s=min(gateway.drain_s, GATEWAY_DRAIN_S),
        ),
        router=replace(user.router, drain_s=min(user.router.drain_s, ROUTER_DRAIN_S)),
        auth=replace(user.auth, signing_key=user.auth.signing_key or str(secrets.signing_key)),
        data=str(layout.spool("shared")),
    )
    if with_model:
        config = replace(
            config,
            providers=(*config.providers, model.provider(ports[MODEL], secrets)),
            models=(*config.models, model.catalog_entry()),
        )
    if not config.default_model and config.models:
        config = replace(config, default_model=config.models[0].alias)
    return config


def _origins(host: str, port: int) -> tuple[str, ...]:
    names = tuple(f"http://{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))
    return tuple(dict.fromkeys((*names, base_url(host, port))))


def check_addresses(config: Config) -> None:
    """Raises `PortTaken` where the two public ports are one, or the host is no address to listen on."""
    try:
        ipaddress.ip_address(config.gateway.host)
    except ValueError:
        raise PortTaken(f"--host {config.gateway.host}: an IP address is needed, such as 127.0.0.1 or ::") from None
    if config.gateway.port == config.gateway.ws_port:
        raise PortTaken(f"--port and --ws-port are both {config.gateway.port}; they must differ")


def parts(config: Config, layout: Layout, ports: Mapping[str, int], secrets: Secrets, with_model: bool) -> list[Part]:
    """All parts, servers first. Raises `Missing` where one is not installed."""
    plain = inherited()
    found = [
        postgres.part(layout, ports["postgres"], secrets, plain),
        nats.part(layout, ports["nats"], secrets, plain),
        redis.part(layout, ports["redis"], secrets, plain),
    ]
    ours = plain | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    if with_model:
        found.append(model.part(layout, ports[MODEL], secrets, COMMAND, ours))
    found += [_gateway(name, config, layout, ports, ours) for name in GATEWAYS]
    found += [_worker(name, "router", config, layout, ports, ours) for name in ROUTERS]
    found += [_worker(name, name, config, layout, ports, ours) for name in WORKERS]
    return found


def _gateway(name: str, config: Config, layout: Layout, ports: Mapping[str, int], env: dict[str, str]) -> Part:
    own, own_ws, admin = ports[f"{name}.own"], ports[f"{name}.own_ws"], ports[f"{name}.admin"]
    gateway = replace(config.gateway, own_port=own, own_ws_port=own_ws, admin_port=admin)
    settings = environment(replace(config, gateway=gateway, data=str(layout.spool(name))))
    return Part(
        name=name,
        argv=(*COMMAND, "gateway"),
        env=env | settings,
        log=layout.log(name),
        ports={"http": gateway.port, "ws": gateway.ws_port, "own": own, "own_ws": own_ws, "admin": admin},
        probe=http_ok(own, "/readyz", host=reachable(gateway.host)),
        needs=NEEDED,
        stop_s=gateway.drain_s + 2.0,
    )


def _worker(
    name: str, kind: str, config: Config, layout: Layout, ports: Mapping[str, int], env: dict[str, str]
) -> Part:
    admin = ports[f"{name}.admin"]
    router = replace(config.router, admin_port=admin)
    settings = environment(replace(config, router=router, data=str(layout.spool(name))))
    return Part(
        name=name,
        argv=(*COMMAND, "worker", kind),
        env=env | settings,
        log=layout.log(name),
        ports={"admin": admin},
        probe=http_alive(admin),
        needs=NEEDED,
        stop_s=WORKER_STOP_S,
    )

"""What `parley up` decides before it starts anything: ports, configuration, parts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from msgspec.structs import replace

from cli import stack
from cli.embedded.packages import Missing, folder, script
from cli.layout import Layout
from cli.ports import PortTaken
from cli.secrets import Secrets, load
from core.auth.tokens import SigningKey
from core.config import Config, Gateway, Model, Provider, Route
from core.config import load as load_config

USERS = Config(
    gateway=Gateway(port=9000, ws_port=9001),
    providers=(Provider(name="mine", base_url="https://llm.example.org/v1", api_key="k"),),
    models=(Model(alias="big", routes=(Route(provider="mine", model="b"),), context_window=9, max_output=3),),
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "data")
    made.make()
    return made


@pytest.fixture
def secrets(layout: Layout) -> Secrets:
    return load(layout.secrets)


def test_secrets_are_made_once_and_are_private(layout: Layout, secrets: Secrets) -> None:
    assert load(layout.secrets) == secrets
    assert len({secrets.postgres, secrets.redis, secrets.nats, secrets.model}) == 4
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in layout.secrets.iterdir())
    SigningKey.load(str(secrets.signing_key))


def test_ports_are_remembered_and_replaced_when_they_are_taken(layout: Layout) -> None:
    first = stack.internal_ports(layout, True, ())
    assert len(set(first.values())) == len(first) == len(stack.port_names(True))
    assert stack.internal_ports(layout, True, ()) == first
    assert stack.MODEL not in stack.internal_ports(layout, False, ())
    assert stack.internal_ports(layout, True, ()) == first
    with socket.socket() as other:
        other.bind(("127.0.0.1", first["nats"]))
        other.listen()
        second = stack.internal_ports(layout, True, [first["redis"]])
    assert {name for name in first if first[name] != second[name]} == {"nats", "redis"}


def test_the_users_models_come_first_and_ours_is_added(layout: Layout, secrets: Secrets) -> None:
    ports = stack.internal_ports(layout, True, ())
    config = stack.configure(USERS, layout, ports, secrets, True)
    assert [model.alias for model in config.models] == ["big", "smollm2"]
    assert [provider.name for provider in config.providers] == ["mine", "local"]
    assert config.default_model == "big"
    assert config.providers[1].base_url == f"http://127.0.0.1:{ports['model']}/v1"
    assert stack.configure(Config(), layout, ports, secrets, True).default_model == "smollm2"
    assert stack.configure(USERS, layout, ports, secrets, False).models == USERS.models


def test_addresses_are_the_stacks_and_what_the_user_says_stays(layout: Layout, secrets: Secrets) -> None:
    ports = stack.internal_ports(layout, False, ())
    user = replace(USERS, gateway=replace(USERS.gateway, origins=("https://chat.example.org",), drain_s=60.0))
    config = stack.configure(user, layout, ports, secrets, False)
    assert config.postgres.dsn == f"postgresql://parley:{secrets.postgres}@127.0.0.1:{ports['postgres']}/parley"
    assert config.gateway.origins == ("https://chat.example.org",)
    assert config.gateway.drain_s == stack.GATEWAY_DRAIN_S
    assert "http://localhost:9000" in stack.configure(USERS, layout, ports, secrets, False).gateway.origins
    slowest = max(stack.GATEWAY_DRAIN_S + 2.0, stack.WORKER_STOP_S) + 2 * stack.WORKER_STOP_S
    assert slowest < stack.STOP_S + 1.0


def test_each_of_our_processes_has_its_own_ports_and_folder(layout: Layout, secrets: Secrets) -> None:
    ports = stack.internal_ports(layout, True, ())
    config = stack.configure(USERS, layout, ports, secrets, True)
    parts = {part.name: part for part in stack.parts(config, layout, ports, secrets, True)}
    assert list(parts) == [*stack.SERVERS, "model", *stack.GATEWAYS, *stack.ROUTERS, *stack.WORKERS]
    assert {name for stage in stack.STOP_ORDER for name in stage} == set(parts)
    ours = [load_config(environ=parts[name].env) for name in (*stack.GATEWAYS, *stack.ROUTERS, *stack.WORKERS)]
    assert len({one.data for one in ours}) == len(ours)
    assert [one.gateway.own_port for one in ours[:2]] == [ports["gateway-1.own"], ports["gateway-2.own"]]
    assert {one.gateway.port for one in ours} == {9000}
    assert all("PARLEY_POSTGRES__DSN" not in parts[name].env for name in (*stack.SERVERS, "model"))
    said = " ".join(word for part in parts.values() for word in part.argv)
    assert not any(secret in said for secret in (secrets.postgres, secrets.redis, secrets.nats, secrets.model))


def test_the_public_ports_must_differ() -> None:
    with pytest.raises(PortTaken, match="--port and --ws-port are both 9000"):
        stack.check_addresses(Config(gateway=Gateway(port=9000, ws_port=9000)))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(Missing, match="pip install no-such-thing"):
        folder("no_such_thing", "no-such-thing")
    with pytest.raises(Missing, match="pip install no-such-thing"):
        script("no-such-program", "no-such-thing")


@pytest.mark.parametrize("host", ["localhost", "example.org", "", "127.0.0"])
def test_a_host_that_is_no_address_is_named(host: str) -> None:
    with pytest.raises(PortTaken, match="IP address"):
        stack.check_addresses(Config(gateway=Gateway(host=host)))

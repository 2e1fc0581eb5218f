"""Configuration: the file, the environment over it, and an error that names the setting."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import Config, ConfigError, Gateway, Model, Nats, Provider, Redis, Route, environment, inherited, load

FULL = """
zone = "eu"
default_model = "small"

[gateway]
port = 9000
origins = ["https://chat.example", "https://other.example"]
https = true
drain_s = 2

[[providers]]
name = "near"
base_url = "http://127.0.0.1:9100/v1"

[[models]]
alias = "small"
context_window = 4096
max_output = 512
routes = [{provider = "near", model = "tiny"}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "parley.toml"
    path.write_text(FULL)
    return path


def test_without_anything_the_defaults_hold() -> None:
    assert load(environ={}) == Config()


def test_a_file_sets_what_it_names_and_nothing_else(file: Path) -> None:
    config = load(str(file), {})
    assert (config.zone, config.pool) == ("eu", Config().pool)
    assert (config.gateway.port, config.gateway.ws_port) == (9000, Gateway().ws_port)
    assert config.gateway.origins == ("https://chat.example", "https://other.example")
    assert config.gateway.https is True
    assert config.gateway.drain_s == 2.0
    assert config.providers == (Provider(name="near", base_url="http://127.0.0.1:9100/v1"),)
    assert config.models[0].routes == (Route(provider="near", model="tiny"),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("heartbeat_s", "pong_s", "stuck_s") for value in ("0", "-1", "nan", "inf")),
        *((name, value) for name in ("drain_s", "unready_s") for value in ("-1", "nan", "inf")),
        *(
            (name, value)
            for name in ("frames_per_s", "bytes_per_s", "handshakes_per_s")
            for value in ("-1", "nan", "inf")
        ),
        ("connections_per_user", "-1"),
        ("connections_per_address", "-1"),
        ("max_connections", "0"),
        ("bytes_at_once", "131071"),
    ],
)
def test_a_number_that_makes_no_sense_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"gateway\.{name} is .+; it must be"):
        load(environ={f"PARLEY_GATEWAY__{name.upper()}": value})


def test_a_rate_or_cap_of_0_is_no_limit() -> None:
    names = ("CONNECTIONS_PER_USER", "CONNECTIONS_PER_ADDRESS", "HANDSHAKES_PER_S", "FRAMES_PER_S", "BYTES_PER_S")
    gateway = load(environ={f"PARLEY_GATEWAY__{name}": "0" for name in names} | {"PARLEY_GATEWAY__BYTES_AT_ONCE": "1"})
    assert gateway.gateway.bytes_at_once == 1, "a bucket of a rate that is not set"


def test_the_file_can_be_named_by_the_environment_and_an_argument_wins(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('zone = "us"')
    assert load(environ={"PARLEY_CONFIG": str(other)}).zone == "us"
    assert load(str(file), {"PARLEY_CONFIG": str(other)}).zone == "eu"


def test_the_environment_wins_over_the_file(file: Path) -> None:
    config = load(
        str(file),
        {
            "PARLEY_ZONE": "us",
            "PARLEY_GATEWAY__PORT": "9001",
            "PARLEY_GATEWAY__HTTPS": "false",
            "PARLEY_NATS__URLS": '["nats://a:1", "nats://b:2"]',
            "PARLEY_PROVIDERS": '[{"name": "far", "base_url": "http://far/v1", "idle_s": 5}]',
            "HOME": "/somewhere",
        },
    )
    assert config.zone == "us"
    assert config.gateway.port == 9001
    assert config.gateway.https is False
    assert config.gateway.drain_s == 2.0
    assert config.nats.urls == ("nats://a:1", "nats://b:2")
    assert config.providers == (Provider(name="far", base_url="http://far/v1", idle_s=5.0),)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"PARLEY_GATEWAY__PROT": "1"}, "prot"),
        ({"PARLEY_GATEWY__PORT": "1"}, "gatewy"),
        ({"PARLEY_GATEWAY__PORT": "many"}, "gateway.port"),
        ({"PARLEY_GATEWAY": "1"}, "gateway"),
        ({"PARLEY_NATS__URLS": '["a"'}, "PARLEY_NATS__URLS"),
        ({"PARLEY_PROVIDERS": '[{"name": "near"}]'}, "base_url"),
        ({"PARLEY_ZONE": "eu", "PARLEY_ZONE__NAME": "eu"}, "zone"),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ=environ)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("zone = ", "not valid TOML"),
        ("zone = 5", "zone"),
        ("[gateway]\nprot = 1", "prot"),
        ("[limits]\nturns_at_once = 'few'", "limits.turns_at_once"),
        ("zone = 1\n[gateway]\n", "zone"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_the_file(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(path), {})
    assert named in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read") as caught:
            load(str(path), {})
        assert str(path) in str(caught.value)


def test_a_file_that_is_no_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('zone = "süd"'.encode("latin-1"))
    with pytest.raises(ConfigError):
        load(str(path), {})


words = st.text("abcXYZ 0123456789.:/-_=\"'\\\nä√", max_size=20)
configs = st.builds(
    Config,
    zone=words,
    data=words,
    gateway=st.builds(
        Gateway,
        port=st.integers(0, 65535),
        https=st.booleans(),
        drain_s=st.floats(0, 100),
        origins=st.lists(words, max_size=3).map(tuple),
    ),
    nats=st.builds(Nats, urls=st.lists(words, max_size=3).map(tuple)),
    redis=st.builds(Redis, url=words, degraded_share=st.floats(0, 1)),
    providers=st.lists(st.builds(Provider, name=words, base_url=words, send_tags=st.booleans()), max_size=2).map(tuple),
    models=st.lists(
        st.builds(
            Model,
            alias=words,
            routes=st.lists(st.builds(Route, provider=words, model=words), max_size=2).map(tuple),
            context_window=st.integers(1, 1 << 20),
            max_output=st.integers(1, 1 << 20),
            system_prompt=st.text("[{\"a'\n", max_size=10),
        ),
        max_size=2,
    ).map(tuple),
)


@given(configs)
def test_children_are_configured_as_their_supervisor(config: Config) -> None:
    assert load(environ=environment(config)) == config


@pytest.mark.parametrize("zone", ["[eu]", "{eu}"])
def test_children_are_configured_with_texts_that_look_like_json(zone: str) -> None:
    assert load(environ=environment(Config(zone=zone))).zone == zone


def test_what_is_inherited_holds_no_setting_of_ours() -> None:
    environ = {"PATH": "/bin", "PARLEY_ZONE": "eu", "PARLEY_CONFIG": "file", "XPARLEY_A": "1"}
    assert inherited(environ) == {"PATH": "/bin", "XPARLEY_A": "1"}

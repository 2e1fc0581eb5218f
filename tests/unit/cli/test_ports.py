"""Ports: reserved, chosen, and their holders found."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest

from cli.ports import PortTaken, base_url, choose, holder, is_free, port, reserve


def test_a_chosen_port_is_free_and_not_one_for_outgoing_connections() -> None:
    first = choose()
    assert first != choose([first])
    assert 1024 < first < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert is_free(first)


def test_a_reserved_port_is_shared_only_with_those_who_share() -> None:
    port = choose()
    with reserve("127.0.0.1", port, "--port"):
        assert not is_free(port)
        with pytest.raises(PortTaken, match=f"port {port} is in use; use --port"):
            reserve("127.0.0.1", port, "--port")
        with socket.socket() as sharing:
            sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sharing.bind(("127.0.0.1", port))
            sharing.listen()
            # What only reserves gets no connection: every one reaches the listener.
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    sharing.accept()[0].close()
    assert is_free(port)


def test_the_holder_of_a_port_is_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert holder(port) == (os.getpid(), psutil.Process().name())
        with pytest.raises(PortTaken, match=rf"port {port} is in use by PID {os.getpid()} \(.+\); use --ws-port"):
            reserve("127.0.0.1", port, "--ws-port")
    assert holder(port) is None


def test_an_address_that_is_not_ours_is_told() -> None:
    with pytest.raises(PortTaken, match=r"cannot listen on 192\.0\.2\.1 port"):
        reserve("192.0.2.1", choose(), "--port")


@pytest.mark.parametrize("text", ["0", "-5", "70000", "http", ""])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(ValueError):
        port(text)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("192.0.2.7", "http://192.0.2.7:80"),
    ],
)
def test_a_server_is_reached_where_it_listens(host: str, url: str) -> None:
    assert base_url(host, 80) == url

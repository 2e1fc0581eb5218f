"""`parley up` with its real servers: start, stop, death, recovery; and the commands that look at it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.polling import until
from tests.support.processes import alive, naming, tree
from tests.support.stack import ROOT, Stack, fetch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PARTS = [
    *("up", "postgres", "nats", "redis"),
    *("gateway-1", "gateway-2", "router-1", "router-2", "ledger", "janitor"),
]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Stack]:
    """A stack of this test's own, not started."""
    made = Stack(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that the tests of this file share and leave as they found it."""
    made = Stack(tmp_path_factory.mktemp("up"))
    try:
        made.start()
        yield made
    finally:
        made.close()


def nothing_left(stack: Stack, processes: list[psutil.Process]) -> bool:
    return not alive(processes) and not naming(str(stack.layout.data))


# --- start and stop -----------------------------------------------------------------------------------------------


def test_starts_shows_what_it_does_stops_and_starts_again(tmp_path: Path) -> None:
    stack = Stack(tmp_path, model=True)
    try:
        assert stack.start() < 20
        for part in [*PARTS[1:], "model"]:
            assert re.search(rf"^  {part} +ready after \d+\.\d s \(PID \d+\)$", stack.said(), re.MULTILINE), part
        assert re.search(rf"^ready after \d+\.\d s: {stack.base_url}/#code=\S+$", stack.said(), re.MULTILINE)
        assert "parley admin user add" in stack.said()
        first_code = stack.login_code

        everything = tree(stack.process.pid)
        assert len(everything) > len(PARTS)
        assert stack.stop(signal.SIGINT) < 10
        assert stack.process.returncode == 0
        assert nothing_left(stack, everything)

        assert stack.start() < 8
        assert stack.login_code != first_code
        everything = tree(stack.process.pid)
        assert stack.stop(signal.SIGTERM) < 10
        assert stack.process.returncode == 0
        assert nothing_left(stack, everything)
    finally:
        stack.close()


def test_ctrl_c_reaches_only_up_and_a_second_one_kills_at_once(fresh: Stack) -> None:
    fresh.start()
    group = os.getpgid(fresh.process.pid)
    everything = tree(fresh.process.pid)
    assert [process.pid for process in everything if os.getpgid(process.pid) == group] == [fresh.process.pid]

    # A part that does not answer would hold up an orderly stop.
    fresh.kill("gateway-1", signal.SIGSTOP)
    os.killpg(group, signal.SIGINT)
    until(lambda: "stopping" in fresh.said(), 5.0, "the stop has begun")
    os.killpg(group, signal.SIGINT)
    fresh.process.wait(3.0)
    until(lambda: nothing_left(fresh, everything), 1.0, "nothing is left")


def test_ctrl_c_while_it_starts(fresh: Stack) -> None:
    fresh.launch()
    until(lambda: "making its cluster" in fresh.said(), 20.0, "it has begun")
    everything = tree(fresh.process.pid)
    assert fresh.stop() < 10
    assert fresh.process.returncode == 0
    assert nothing_left(fresh, everything)
    fresh.start()


def test_sigkill_leaves_no_orphan_and_the_next_start_recovers(fresh: Stack) -> None:
    fresh.start()
    person = fresh.register()
    everything = tree(fresh.process.pid)
    postgres = fresh.pid("postgres")
    assert any(process.ppid() == postgres for process in everything)

    fresh.stop(signal.SIGKILL)
    until(lambda: nothing_left(fresh, everything), 5.0, "no orphan is left")
    assert fresh.status() == {}

    fresh.start()
    body = {"email": person.email, "password": person.password}
    assert fetch("POST", f"{fresh.base_url}/v1/auth/login", body)["user"]["id"] == person.user_id


# --- what it refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "shared"), [("--port", False), ("--ws-port", False), ("--port", True)])
def test_a_taken_port_is_named_with_who_has_it(fresh: Stack, option: str, shared: bool) -> None:
    """Also where the other one would let us share it: two stacks must not answer at one address."""
    port = fresh.port if option == "--port" else fresh.ws_port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        other.bind(("127.0.0.1", port))
        other.listen()
        fresh.launch()
        assert fresh.process.wait(20.0) == 1
    name = psutil.Process().name()
    assert f"port {port} is in use by PID {os.getpid()} ({name}); use {option}" in fresh.said()
    assert "ready" not in fresh.said()


def test_one_up_for_a_data_folder(running: Stack) -> None:
    answer = running.cli("up", "--port", "1", "--ws-port", "2")
    assert answer.returncode == 1
    assert f"already running on {running.layout.data} (PID {running.process.pid})" in answer.stderr
    assert all(row["state"] == "ready" for row in running.status().values())


def test_a_wrong_setting_is_named(fresh: Stack, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[gateway]\nprot = 8080\n")
    answer = fresh.cli("up", "--config", str(wrong))
    assert answer.returncode == 2
    assert "prot" in answer.stderr
    assert "Traceback" not in answer.stderr


# --- while it runs ------------------------------------------------------------------------------------------------


def test_status(running: Stack) -> None:
    answer = running.cli("status", "--json")
    assert answer.returncode == 0
    rows = json.loads(answer.stdout)
    assert [row["part"] for row in rows] == PARTS
    assert all(set(row) == {"part", "pid", "state", "since", "ports"} for row in rows)
    assert {row["state"] for row in rows} == {"ready"}
    assert rows[0]["pid"] == running.process.pid
    assert {row["pid"] for row in rows[1:]} <= {process.pid for process in tree(running.process.pid)}
    gateway = next(row for row in rows if row["part"] == "gateway-1")
    assert gateway["ports"]["http"] == running.port
    assert gateway["ports"]["ws"] == running.ws_port
    assert f"http://127.0.0.1:{gateway['ports']['own']}" == running.own_base_url("gateway-1")
    table = running.cli("status").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["PART", *PARTS]


def test_status_where_nothing_runs(fresh: Stack) -> None:
    answer = fresh.cli("status", "--json")
    assert (answer.returncode, json.loads(answer.stdout)) == (3, [])
    assert "no `parley up` runs on" in fresh.cli("status").stderr


def test_logs(running: Stack) -> None:
    everything = running.cli("logs", "-n", "1000").stdout
    for part in ("postgres", "nats", "redis", "gateway-1"):
        assert re.search(rf"^{part} +\| \S", everything, re.MULTILINE), part
    one = running.cli("logs", "postgres", "-n", "1000").stdout
    assert "database system is ready to accept connections" in one
    assert "|" not in one.splitlines()[0]
    unknown = running.cli("logs", "nobody")
    assert unknown.returncode == 1
    assert "postgres" in unknown.stderr


def test_secrets_and_data_are_private(running: Stack) -> None:
    layout = running.layout
    assert stat.S_IMODE(layout.data.stat().st_mode) == 0o700
    private = [*layout.secrets.iterdir(), *layout.run.iterdir(), *layout.logs.iterdir()]
    assert len(private) > 10
    assert {path.name: oct(path.stat().st_mode & 0o077) for path in private if path.stat().st_mode & 0o077} == {}
    secrets = [path.read_text().strip() for path in layout.secrets.iterdir()]
    shown = [" ".join(process.cmdline()) for process in tree(running.process.pid)]
    shown += [running.said(), running.cli("logs", "-n", "1000").stdout]
    assert [text for text in shown for secret in secrets if secret in text] == []


def test_servers_listen_on_loopback_only(running: Stack) -> None:
    listening = [
        connection.laddr.ip
        for process in tree(running.process.pid)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= len(PARTS)
    assert set(listening) == {"127.0.0.1"}


def test_a_child_that_dies_is_started_again_and_the_others_go_on(running: Stack) -> None:
    others = {name: row["pid"] for name, row in running.status().items() if name != "gateway-1"}
    old = running.kill("gateway-1")
    # Gateways share their port: the other one takes what comes, at once.
    until(lambda: f"(PID {old}) died with SIGKILL" in running.said(), 5.0, "the death is told")
    assert fetch("GET", f"{running.base_url}/v1/config")["ws_url"]
    running.wait_replaced("gateway-1", old)
    until(lambda: "gateway-1  ready again after" in running.said(), 5.0, "the return is told")
    assert {name: row["pid"] for name, row in running.status().items() if name != "gateway-1"} == others


@pytest.mark.parametrize("part", ["postgres", "nats", "redis"])
def test_a_server_that_dies_comes_back_and_the_stack_with_it(running: Stack, part: str) -> None:
    old = running.kill(part)
    running.wait_replaced(part, old)
    until(lambda: _ready(running), 20.0, "both gateways are ready")
    assert running.register().token


@pytest.mark.parametrize("part", ["postgres", "nats", "redis", "router-1"])
def test_a_part_can_be_stopped_and_started(running: Stack, part: str) -> None:
    stopped = running.cli("stop", part)
    assert (stopped.returncode, stopped.stdout) == (0, f"{part}: stopped\n")
    row = running.status()[part]
    assert (row["state"], row["pid"]) == ("stopped", None)
    assert running.cli("status").returncode == 1
    started = running.cli("start", part)
    assert (started.returncode, started.stdout) == (0, f"{part}: ready\n")
    until(lambda: _ready(running), 20.0, "both gateways are ready")
    assert "there is no part 'nobody'" in running.cli("stop", "nobody").stderr


def _ready(stack: Stack) -> bool:
    try:
        for gateway in ("gateway-1", "gateway-2"):
            fetch("GET", f"{stack.own_base_url(gateway)}/readyz")
    except OSError:
        return False
    return True


def test_what_keeps_dying_stops_the_stack(fresh: Stack) -> None:
    fresh.start()
    everything = tree(fresh.process.pid)
    killed: set[int] = set()

    def kill_it() -> bool:
        pid = fresh.status().get("janitor", {}).get("pid")
        if pid is not None and pid not in killed:
            killed.add(pid)
            psutil.Process(pid).kill()
        return fresh.process.poll() is not None

    until(kill_it, 40.0, "the stack has stopped")
    assert len(killed) == 5
    assert fresh.process.returncode == 1
    assert "parley: janitor" in fresh.said()
    assert "5 times in a row" in fresh.said()
    assert str(fresh.layout.log("janitor")) in fresh.said()
    assert nothing_left(fresh, everything)


# --- accounts -----------------------------------------------------------------------------------------------------


def test_accounts_from_the_command_line(running: Stack) -> None:
    added = running.cli("admin", "user", "add", "Ada@Example.org", "--admin")
    assert added.returncode == 0
    password = re.search(r"^password: (\S+)$", added.stdout, re.MULTILINE)
    assert password
    login = f"{running.base_url}/v1/auth/login"
    assert fetch("POST", login, {"email": "ada@example.org", "password": password[1]})["user"]["role"] == "admin"

    again = running.cli("admin", "user", "add", "ada@example.org")
    assert (again.returncode, again.stdout) == (1, "")
    assert "already an account" in again.stderr

    changed = running.cli("admin", "user", "password", "ada@example.org", "--password-stdin", stdin="correct horse\n")
    assert changed.returncode == 0
    assert "correct horse" not in changed.stdout
    assert fetch("POST", login, {"email": "ada@example.org", "password": "correct horse"})["access_token"]


def test_the_schema_is_up_to_date(running: Stack) -> None:
    assert running.cli("migrate").stdout == "nothing to do\n"
    assert "pending" not in running.cli("migrate", "--status").stdout


def test_the_link_logs_the_owner_in_once(running: Stack) -> None:
    body = {"code": running.login_code}
    assert fetch("POST", f"{running.base_url}/v1/auth/login", body)["user"]["role"] == "admin"
    with pytest.raises(OSError, match="401"):
        fetch("POST", f"{running.base_url}/v1/auth/login", body)


def test_help_names_every_command() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for command in ("up", "status", "logs", "chat", "gateway", "worker", "migrate", "admin", "reconcile"):
        assert re.search(rf"^    {command}\b", answer.stdout, re.MULTILINE), command

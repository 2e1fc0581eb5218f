"""The supervisor, with small real programs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from cli import supervisor as module
from cli.supervisor import Part, PartFailed, Supervisor
from core.config import inherited
from tests.support.polling import eventually, until
from tests.support.processes import alive

UP = "print('up', flush=True); time.sleep(60)"
OBEDIENT = f"import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); {UP}"
STUBBORN = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); {UP}"
FAILING = "print('cannot open the safe', flush=True); raise SystemExit(7)"


class Told(list[tuple[str, str]]):
    """What a supervisor has told."""

    def __call__(self, part: str, text: str) -> None:
        self.append((part, text))

    def of(self, part: str) -> str:
        return "\n".join(text for name, text in self if name == part)


def program(folder: Path, name: str, code: str, *, start_s: float = 10.0, stop_s: float = 2.0) -> Part:
    """A Python program that is ready when it has printed `up`."""
    log = folder / f"{name}.log"

    async def probe() -> bool:
        return b"up" in log.read_bytes()

    return Part(
        name=name,
        argv=(sys.executable, "-S", "-c", code),
        env=inherited(),
        log=log,
        ports={},
        probe=probe,
        start_s=start_s,
        stop_s=stop_s,
    )


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def supervisor(told: Told) -> AsyncIterator[Supervisor]:
    made = Supervisor(told)
    yield made
    await made.kill()


async def test_starts_tells_and_stops_in_order(supervisor: Supervisor, told: Told, tmp_path: Path) -> None:
    for name in ("first", "second"):
        supervisor.add(program(tmp_path, name, OBEDIENT))
    assert {status.state for status in supervisor.statuses()} == {"stopped"}
    await supervisor.start(["first", "second"])
    assert [status.state for status in supervisor.statuses()] == ["ready", "ready"]
    pids = {status.part: status.pid for status in supervisor.statuses()}
    assert f"ready after 0.{told.of('first').split('0.')[1][0]} s (PID {pids['first']})" == told.of("first")

    first = psutil.Process(pids["first"])
    stopping = asyncio.create_task(supervisor.stop([["second"], ["first"]], within_s=5.0))
    await eventually(lambda: supervisor["second"].state == "stopped")
    await stopping
    assert not alive([first])
    assert [(status.state, status.pid) for status in supervisor.statuses()] == [("stopped", None)] * 2


async def test_each_program_has_a_session_of_its_own(supervisor: Supervisor, tmp_path: Path) -> None:
    runner = supervisor.add(program(tmp_path, "one", OBEDIENT))
    await supervisor.start(["one"])
    assert runner.pid is not None
    assert os.getsid(runner.pid) == runner.pid != os.getsid(0)


async def test_what_dies_is_started_again(supervisor: Supervisor, told: Told, tmp_path: Path) -> None:
    runner = supervisor.add(program(tmp_path, "one", OBEDIENT))
    await supervisor.start(["one"])
    old = runner.pid
    assert old is not None
    os.kill(old, signal.SIGKILL)
    await eventually(lambda: runner.state == "ready" and runner.pid not in (None, old))
    assert f"(PID {old}) died with SIGKILL; starting it again in 0.1 s" in told.of("one")
    assert f"ready again after 0.{told.of('one').rsplit(' 0.')[-1]}" in told.of("one")


async def test_what_keeps_dying_fails_with_its_last_lines(
    supervisor: Supervisor, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    supervisor.add(program(tmp_path, "one", FAILING))
    with pytest.raises(PartFailed, match=r"one .* died with exit status 7, 5 times in a row") as failure:
        await supervisor.start(["one"])
    assert failure.value.lines == ("cannot open the safe",) * 5
    assert (await supervisor.failed()) is failure.value
    assert supervisor["one"].state == "failed"
    delays = [text.rsplit(" in ", 1)[1] for name, text in told if name == "one"]
    assert len(delays) == 4


async def test_deaths_long_ago_do_not_count(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "DEATHS_WITHIN_S", 0.0)
    runner = supervisor.add(program(tmp_path, "one", OBEDIENT))
    await supervisor.start(["one"])
    for _ in range(module.DEATHS + 1):
        old = runner.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        await eventually(lambda old=old: runner.state == "ready" and runner.pid not in (None, old))


async def test_a_program_that_is_not_there_fails(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    part = program(tmp_path, "one", OBEDIENT)
    supervisor.add(replace(part, argv=("/nowhere",)))
    with pytest.raises(PartFailed, match=r"cannot be started: No such file or directory \(/nowhere\)"):
        await supervisor.start(["one"])


async def test_what_does_not_get_ready_is_started_again(supervisor: Supervisor, told: Told, tmp_path: Path) -> None:
    code = "import pathlib, sys, time; p = pathlib.Path(sys.argv[0]); time.sleep(60)"
    part = program(tmp_path, "one", code, start_s=0.3)
    runner = supervisor.add(part)
    runner.start()
    await eventually(lambda: "was not ready within 0 s; starting it again" in told.of("one"))


async def test_a_part_waits_for_what_it_needs(supervisor: Supervisor, told: Told, tmp_path: Path) -> None:
    server = supervisor.add(program(tmp_path, "server", OBEDIENT))
    client = supervisor.add(replace(program(tmp_path, "client", OBEDIENT), needs=("server",)))
    client.start()
    await eventually(lambda: client.state == "waiting")
    await supervisor.start(["server", "client"])
    assert [name for name, text in told if text.startswith("ready")] == ["server", "client"]

    await server.stop()
    assert client.state == "ready"
    old = client.pid
    assert old is not None
    os.kill(old, signal.SIGKILL)
    await eventually(lambda: "starting it again" in told.of("client"))
    assert (client.state, client.pid) == ("waiting", None)
    await supervisor.start(["server"])
    await eventually(lambda: client.state == "ready")


async def test_waiting_for_a_part_that_is_stopped_ends(supervisor: Supervisor, tmp_path: Path) -> None:
    runner = supervisor.add(program(tmp_path, "one", "import time; time.sleep(60)"))
    starting = asyncio.create_task(supervisor.start(["one"]))
    await eventually(lambda: runner.state == "starting")
    await runner.stop()
    with pytest.raises(PartFailed, match="one was stopped"):
        await starting


async def test_what_ignores_the_signal_is_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    runner = supervisor.add(program(tmp_path, "one", STUBBORN, stop_s=0.2))
    await supervisor.start(["one"])
    assert runner.pid is not None
    process = psutil.Process(runner.pid)
    began = time.monotonic()
    await runner.stop()
    assert time.monotonic() - began < 2.0
    assert not alive([process])


async def test_a_stopped_part_stays_stopped_and_starts_when_asked(supervisor: Supervisor, tmp_path: Path) -> None:
    runner = supervisor.add(program(tmp_path, "one", OBEDIENT))
    await supervisor.start(["one"])
    await runner.stop()
    await runner.stop()
    assert (runner.state, runner.pid) == ("stopped", None)
    await supervisor.start(["one"])
    assert runner.state == "ready"


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, sys, time
from cli.processes import spawn
from core.config import inherited
child = spawn((sys.executable, "-c", {STUBBORN!r}), env=inherited(), output=1)
print(child.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "up\n"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not alive([child]), 5.0, "the child has died")

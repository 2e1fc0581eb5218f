"""`parley up`: everything on this machine, started, watched and stopped together."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import shlex
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from cli import owner, stack
from cli.control import listening
from cli.embedded.packages import Missing
from cli.embedded.postgres import make_cluster, make_database
from cli.layout import InUse, Layout, write_json
from cli.logfiles import keep_bounded
from cli.main import version
from cli.ports import PortTaken, base_url, port, reserve
from cli.secrets import Secrets
from cli.secrets import load as load_secrets
from cli.supervisor import Part, PartFailed, Status, Supervisor
from core.config import Config, environment, inherited, load
from core.errors import Unavailable
from core.schema.migrate import MigrationError, migrate

FAILURES = (PartFailed, MigrationError, Unavailable, OSError)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=port, metavar="N", help="for the page, HTTP and SSE (default: 8080)")
    parser.add_argument("--ws-port", type=port, metavar="N", help="for WebSockets (default: 8081)")
    parser.add_argument("--host", metavar="ADDRESS", help="where to listen for clients (default: 127.0.0.1)")
    parser.add_argument("--data", type=Path, default=Path(".parley"), metavar="DIR", help="what is kept (.parley)")
    parser.add_argument("--config", metavar="FILE", help="configuration (TOML): providers, models, limits, …")
    parser.add_argument("--no-model", action="store_true", help="without the local model")


def run(args: argparse.Namespace) -> int:
    """Returns 0 after a stop that was asked for, 1 where something failed."""
    os.umask(0o077)
    layout = Layout(args.data)
    with contextlib.ExitStack() as held:
        try:
            layout.make()
            held.callback(os.close, layout.take())
            config = _with_options(load(args.config), args)
            stack.check_addresses(config)
            for number, option in ((config.gateway.port, "--port"), (config.gateway.ws_port, "--ws-port")):
                held.enter_context(contextlib.closing(reserve(config.gateway.host, number, option)))
            up = Up(config, layout, with_model=not args.no_model)
        except (InUse, PortTaken, Missing) as error:
            print(f"parley: {error}", file=sys.stderr)
            return 1
        except OSError as error:
            print(f"parley: {error}", file=sys.stderr)
            return 1
        _raise_file_limit()
        return asyncio.run(up.run())


def _with_options(config: Config, args: argparse.Namespace) -> Config:
    given = {"port": args.port, "ws_port": args.ws_port, "host": args.host}
    return replace(config, gateway=replace(config.gateway, **{k: v for k, v in given.items() if v is not None}))


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Up:
    """One run of the stack. Making it raises `PortTaken`, `Missing`, `OSError`; nothing runs yet."""

    def __init__(self, user: Config, layout: Layout, *, with_model: bool) -> None:
        self._layout = layout
        self._with_model = with_model
        self._began = time.monotonic()
        self._since = time.time()
        self._state = "starting"
        public = (user.gateway.port, user.gateway.ws_port)
        self._secrets: Secrets = load_secrets(layout.secrets)
        self._ports = stack.internal_ports(layout, with_model, public)
        self._config = stack.configure(user, layout, self._ports, self._secrets, with_model)
        self._parts: list[Part] = stack.parts(self._config, layout, self._ports, self._secrets, with_model)
        write_json(layout.environment, environment(self._config))
        self._supervisor = Supervisor(self._tell)
        for part in self._parts:
            self._supervisor.add(part)
        self._link = ""
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def url(self) -> str:
        return base_url(self._config.gateway.host, self._config.gateway.port)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._signalled)
        _print(f"parley {version()}, data in {self._layout.data}")
        logs = asyncio.create_task(keep_bounded(part.log for part in self._parts))
        try:
            async with listening(self._layout, self._control):
                return await self._until_stopped()
        finally:
            logs.cancel()
            await asyncio.wait([logs])

    def _signalled(self) -> None:
        (self._hurry if self._asked.is_set() else self._asked).set()

    async def _until_stopped(self) -> int:
        """Starts, serves, stops; whatever happens, nothing of ours runs afterwards."""
        status = 0
        work = asyncio.create_task(self._serve())
        asked = asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait([work, asked], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                status = 1
                self._explain(work.exception())
        finally:
            for task in (work, asked):
                task.cancel()
            await asyncio.wait([work, asked])
            await self._stop()
        return status

    async def _serve(self) -> None:
        """Runs until cancelled, or until something fails: it then raises one of `FAILURES`."""
        failed = asyncio.create_task(self._supervisor.failed())
        start = asyncio.create_task(self._start())
        try:
            await asyncio.wait([failed, start], return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                await start
            raise await failed
        finally:
            for task in (start, failed):
                task.cancel()
            await asyncio.wait([start, failed])

    async def _start(self) -> None:
        async with asyncio.TaskGroup() as group:
            if self._with_model:
                group.create_task(self._supervisor.start([stack.MODEL]))
            servers = [
                group.create_task(self._postgres()),
                group.create_task(self._supervisor.start(["nats", "redis"])),
            ]
            await asyncio.wait(servers)
            await self._supervisor.start([*stack.GATEWAYS, *stack.ROUTERS, *stack.WORKERS])
        self._enter("ready")
        _print(f"\nready after {time.monotonic() - self._began:.1f} s: {self._link}")
        parley, data = self._command()
        _print(f"The link logs you in once, within 15 minutes. Another account: {parley} admin user add EMAIL{data}")
        _print(f"Ask from here: {parley} chat{data}. Stop: Ctrl-C.\n")

    def _command(self) -> tuple[str, str]:
        """How `parley` is called from here on this data folder: the command, and the option that names the folder."""
        own = Path(sys.executable).with_name("parley")
        # `make run` has put the environment on its own PATH only.
        called = os.path.relpath(own) if own.exists() else "parley"
        usual = self._layout.data == Layout(Path(".parley")).data
        return called, "" if usual else f" --data {shlex.quote(str(self._layout.data))}"

    async def _postgres(self) -> None:
        if not self._layout.postgres.exists():
            self._tell("postgres", "making its cluster")
        await make_cluster(self._layout, self._secrets, inherited())
        await self._supervisor.start(["postgres"])
        await make_database(self._ports["postgres"], self._secrets)
        began = time.monotonic()
        applied = await migrate(self._config.postgres.dsn)
        self._link = await owner.prepare(self._config, self._layout, self.url)
        self._tell("schema", f"{len(applied)} migrations applied in {time.monotonic() - began:.1f} s")

    async def _stop(self) -> None:
        began = time.monotonic()
        self._enter("stopping")
        _print("\nstopping; Ctrl-C again kills at once")
        orderly = asyncio.create_task(self._supervisor.stop(stack.STOP_ORDER, stack.STOP_S))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([orderly, hurry], return_when=asyncio.FIRST_COMPLETED)
        for task in (orderly, hurry):
            task.cancel()
        await asyncio.wait([orderly, hurry])
        await self._supervisor.kill()
        _print(f"stopped after {time.monotonic() - began:.1f} s")

    def _explain(self, error: BaseException | None) -> None:
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                self._explain(inner)
            return
        if not isinstance(error, FAILURES):
            assert error is not None
            raise error
        _print(f"parley: {error}")
        if isinstance(error, PartFailed):
            for line in error.lines:
                _print(f"  {error.part} | {line}")
            _print(f"parley: all of it: {self._layout.log(error.part)}")

    def _enter(self, state: str) -> None:
        self._state, self._since = state, time.time()

    def _tell(self, part: str, text: str) -> None:
        _print(f"  {part:<10} {text}")

    async def _control(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"do": "status"}:
                return {"parts": [self._own_status(), *map(_shown, self._supervisor.statuses())]}
            case {"do": ("stop" | "start") as what, "part": str(name)}:
                if name not in self._supervisor.names():
                    raise ValueError(f"there is no part {name!r}; there are: {', '.join(self._supervisor.names())}")
                runner = self._supervisor[name]
                try:
                    await (runner.stop() if what == "stop" else self._supervisor.start([name]))
                except PartFailed as error:
                    raise ValueError(str(error)) from error
                self._tell(name, f"{runner.state}, as asked")
                return {"part": name, "state": runner.state}
            case _:
                raise ValueError("unknown request")

    def _own_status(self) -> dict[str, Any]:
        gateway = self._config.gateway
        ports = {"http": gateway.port, "ws": gateway.ws_port}
        return {"part": "up", "pid": os.getpid(), "state": self._state, "since": _time(self._since), "ports": ports}


def _print(text: str) -> None:
    # A terminal that is gone must not take down what runs.
    with contextlib.suppress(OSError):
        print(text, flush=True)


def _shown(status: Status) -> dict[str, Any]:
    return {
        "part": status.part,
        "pid": status.pid,
        "state": status.state,
        "since": _time(status.since),
        "ports": status.ports,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

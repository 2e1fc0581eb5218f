"""`python -m benchmarks.peers NAME PORT`: one of them, until it is ended."""

from __future__ import annotations

import argparse
from importlib import import_module

# The module is imported where it is run, so that no library is in another's memory.
SERVERS = {
    "floor": "floor:run",
    "listener": "listener:run",
    "picows": "picows_server:run",
    "websockets": "websockets_server:run",
    "aiohttp": "aiohttp_server:run",
    "granian-asgi": "granian_server:run_asgi",
    "granian-rsgi": "granian_server:run_rsgi",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("name", choices=SERVERS)
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    module, function = SERVERS[args.name].split(":")
    getattr(import_module(f"benchmarks.peers.{module}"), function)(args.port)


if __name__ == "__main__":
    main()

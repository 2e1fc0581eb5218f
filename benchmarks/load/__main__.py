"""`python -m benchmarks.load NAME`: the first line on stdin says what to do, in the generator's own `Plan`."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from benchmarks.load import admit, completions, edge, engine, floor
from benchmarks.load.peer import Gone, Peer

Generator = Callable[[Peer, Any], Awaitable[None]]

GENERATORS: dict[str, Generator] = {
    "completions": completions.run,
    "admit": admit.run,
    "edge": edge.run,
    "engine": engine.run,
    "floor": floor.run,
}


async def _main(name: str) -> None:
    peer = Peer()
    await GENERATORS[name](peer, await peer.hear())


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(Gone):
        uvloop.run(_main(sys.argv[1]))


if __name__ == "__main__":
    main()

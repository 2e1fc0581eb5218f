"""Connections that are refused as they come: told so on the bare socket, and given a moment to read it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable

log = logging.getLogger("ext.ws")

SWEEP_S = 0.05
DROPPED_BYTES = 65_536


class Refusals:
    """Sockets whose answer is sent and whose sending side is shut, waiting for their peers to leave.

    A socket that is closed while bytes of the peer's are unread, or before they come, resets the connection, and the
    reset can overtake the answer. So a few are kept, the newest: who is pushed out is closed once what it has sent so
    far is read away. Their cost is a file and an entry in a queue; one timer serves them all and runs while there
    are any.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, patience_s: float, on_empty: Callable[[], None]) -> None:
        self._loop = loop
        self._patience_s = patience_s
        self._on_empty = on_empty
        self._kept: deque[tuple[float, socket.socket]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def tell(self, sock: socket.socket, answer: bytes, room: int) -> None:
        """Sends `answer` and takes over `sock` (non-blocking); afterwards at most `room` sockets are kept."""
        try:
            sock.send(answer)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            log.debug("a refused connection was gone before it could be told")
            sock.close()
            return
        self._kept.append((self._loop.time() + self._patience_s, sock))
        while len(self._kept) > room:
            self.close_oldest()
        if self._kept and self._timer is None:
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)

    def close_oldest(self) -> bool:
        """Gives up a socket, and thereby a file; returns whether there was one."""
        if not self._kept:
            return False
        sock = self._kept.popleft()[1]
        _drained(sock)
        sock.close()
        return True

    def close_all(self) -> None:
        while self.close_oldest():
            pass

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        for _ in range(len(self._kept)):
            until, sock = self._kept.popleft()
            if _drained(sock) or until <= now:
                sock.close()
            else:
                self._kept.append((until, sock))
        if self._kept:
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)
        else:
            self._on_empty()


def _drained(sock: socket.socket) -> bool:
    """Drops what has come; returns whether the peer has left."""
    try:
        return not sock.recv(DROPPED_BYTES)
    except BlockingIOError:
        return False
    except OSError:
        return True

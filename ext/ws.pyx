# cython: language_level=3
"""A WebSocket listener for asyncio and uvloop: RFC 6455 without extensions. The stub says how it is used."""

import asyncio
import errno
import logging
import os
import resource
import socket
import sys

from ext.ws_answers import crowded, encode_overloaded, spread_ms
from ext.ws_budget import Budget
from ext.ws_connection import BufferedConnection, Connection
from ext.ws_frames import close_code_valid
from ext.ws_hops import Hops
from ext.ws_refusals import Refusals
from ext.ws_types import Accept, Handler, Limits, Refuse, Request
from ext.ws_writer import Shared

__all__ = ["Accept", "Budget", "Connection", "Handler", "Hops", "Limits", "Listener", "Refuse", "Request", "listen"]

log = logging.getLogger("ext.ws")

# Between two batches the loop serves everyone else.
ACCEPTS_PER_TURN = 64
CLOSES_PER_TURN = 256
# How long the listener leaves its queue alone when the system has no memory for another connection.
BACK_OFF_S = 0.1
# Connections that were reset are gone after a turn or two of the loop.
RESET_S = 1.0


class Listener:
    def __init__(self, loop, sock, accept, limits, budget):
        self._loop = loop
        self._sock = sock
        self._port = sock.getsockname()[1]
        self._limits = limits
        self._empty = loop.create_future()
        self._budget = budget
        self._door = budget.door
        self._shared = Shared(loop, accept, limits, self._on_empty, budget.door if budget.asks else None)
        self._adopting = set()
        self._accepting = True
        self._starved = None
        self._admission = budget.admission
        self._refusals = Refusals(loop, limits.close_s, self._on_empty)
        self._refused = 0
        self._spare_file = None
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._file_limit = sys.maxsize if files == resource.RLIM_INFINITY else files - limits.reserved_files
        if self._file_limit <= sock.fileno():
            raise ValueError(f"Limits.reserved_files leaves no room below the limit of {files} files")
        self._keep_spare_file()
        budget.join(self._shared)
        loop.add_reader(sock.fileno(), self._on_readable)

    @property
    def port(self):
        return self._port

    @property
    def connections(self):
        return self._shared.connections

    @property
    def refused(self):
        return self._refused

    @property
    def accepting(self):
        return self._accepting

    def stop_accepting(self):
        if not self._accepting:
            return
        self._accepting = False
        if self._starved is None:
            self._loop.remove_reader(self._sock.fileno())
        else:
            self._starved.cancel()
        # The queue holds at most the backlog; who arrives while it is emptied is served within that bound too.
        for _ in range(2 * self._limits.backlog):
            if not self._accept_one():
                break
        self._sock.close()
        self._give_up_spare_file()
        self._on_empty()

    def close_all(self, int code=1001, str reason=""):
        if not close_code_valid(code):
            raise ValueError(f"close code {code} may not be sent")
        if not self._accepting:
            self._shared.draining = True
        self._close_batch(self._shared.wheel.timers(), code, reason)

    async def wait_left(self, double deadline):
        try:
            await asyncio.wait_for(asyncio.shield(self._empty), deadline)
        except TimeoutError:
            return False
        return True

    async def wait_closed(self, double deadline):
        if await self.wait_left(deadline):
            return True
        for task in self._adopting:
            task.cancel()
        for connection in self._shared.wheel.timers():
            connection.abort()
        self._refusals.close_all()
        self._on_empty()
        await asyncio.wait([self._empty, *self._shared.tasks], timeout=RESET_S)
        return False

    def _on_empty(self):
        self._keep_spare_file()
        if not (self._accepting or self._shared.connections or self._refusals or self._empty.done()):
            self._empty.set_result(None)

    def _close_batch(self, connections, code, reason):
        for connection in connections[:CLOSES_PER_TURN]:
            connection.close_any(code, reason)
        if len(connections) > CLOSES_PER_TURN:
            self._loop.call_soon(self._close_batch, connections[CLOSES_PER_TURN:], code, reason)

    def _on_readable(self):
        for _ in range(ACCEPTS_PER_TURN):
            if not self._accept_one():
                return

    def _accept_one(self):
        """Take one connection from the kernel's queue; returns whether there may be another."""
        try:
            sock, peer = self._sock.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:
            return True
        except OSError as error:
            return self._accept_to_refuse(error)
        sock.setblocking(False)
        limits = self._limits
        if sock.fileno() >= self._file_limit:
            self._refuse(sock, spread_ms(limits.retry_after_s), min(limits.refusals, limits.reserved_files // 4))
        elif self._budget.full():
            self._refuse(sock, spread_ms(limits.retry_after_s), limits.refusals)
        else:
            self._admit(sock, peer[:2])
        return True

    def _admit(self, sock, peer):
        limits = self._limits
        proxied = self._door.told_later(peer)
        if not proxied and self._door.full(peer[0]):
            self._refused += 1
            self._refusals.tell(sock, crowded(limits.retry_after_max_s).encode(), limits.refusals)
            return
        now = self._loop.time()
        if not self._admission.admit(now):
            self._refuse(sock, self._admission.come_back_ms(now), limits.refusals)
            return
        place = None if proxied else self._door.enter(peer[0])
        self._serve(sock, BufferedConnection(self._shared, peer, place, proxied and self._door.awaits_header()))

    def _accept_to_refuse(self, error):
        # Out of files. One is kept so that the next can still be told: in an answer's lingering socket or by itself.
        room = max(1, len(self._refusals))
        if error.errno == errno.EMFILE and (self._refusals.close_oldest() or self._give_up_spare_file()):
            try:
                sock = self._sock.accept()[0]
            except (BlockingIOError, InterruptedError):
                self._keep_spare_file()
                return False
            except OSError as again:
                error = again
            else:
                sock.setblocking(False)
                self._refuse(sock, spread_ms(self._limits.retry_after_s), room)
                return True
        self._pause(error)
        return False

    def _refuse(self, sock, retry_after_ms, room):
        self._refused += 1
        self._refusals.tell(sock, encode_overloaded(retry_after_ms), room)

    def _keep_spare_file(self):
        if self._accepting and self._spare_file is None:
            try:
                self._spare_file = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                log.debug("there is no file to spare")

    def _give_up_spare_file(self):
        if self._spare_file is None:
            return False
        os.close(self._spare_file)
        self._spare_file = None
        return True

    def _serve(self, sock, connection):
        task = self._loop.create_task(self._adopt(sock, connection))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    def _pause(self, error):
        # The queue stays readable, so watching it would spin until a file is free.
        log.warning("accepting no connections for %.1f s: %s", BACK_OFF_S, error)
        if self._accepting:
            self._loop.remove_reader(self._sock.fileno())
            self._starved = self._loop.call_later(BACK_OFF_S, self._resume)

    def _resume(self):
        self._starved = None
        self._keep_spare_file()
        self._loop.add_reader(self._sock.fileno(), self._on_readable)

    async def _adopt(self, sock, connection):
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except OSError:
            log.debug("a connection was gone before it could be served")
            sock.close()
            connection.connection_lost(None)
        except BaseException:
            sock.close()
            connection.connection_lost(None)
            raise


def _bind(family, address, limits, reuse_port):
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Accepted sockets inherit these, which saves three calls for each.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if limits.so_sndbuf is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.so_sndbuf)
        if limits.notsent_lowat is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.notsent_lowat)
        sock.bind(address)
        sock.listen(limits.backlog)
    except BaseException:
        sock.close()
        raise
    return sock


async def listen(
    accept, str host, int port, limits=Limits(), *, loop=None, bint reuse_port=True, hops=Hops(), budget=None
):
    loop = asyncio.get_running_loop() if loop is None else loop
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sock = _bind(found[0][0], found[0][4], limits, reuse_port)
    try:
        return Listener(loop, sock, accept, limits, Budget(limits, hops) if budget is None else budget)
    except BaseException:
        sock.close()
        raise

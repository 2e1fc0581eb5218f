from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable

from ext.ws_budget import Budget as Budget
from ext.ws_connection import Connection as Connection
from ext.ws_hops import Hops as Hops
from ext.ws_types import Accept as Accept
from ext.ws_types import Handler as Handler
from ext.ws_types import Limits as Limits
from ext.ws_types import Refuse as Refuse
from ext.ws_types import Request as Request

class Listener:
    """One listening socket and its connections; made by `listen`."""

    @property
    def port(self) -> int:
        """The port that is listened on (the kernel's choice where 0 was asked for)."""
    @property
    def connections(self) -> int:
        """TCP connections that are open, handshakes and closing ones included."""
    @property
    def refused(self) -> int:
        """How many were answered 503 before they were read, so far."""
    @property
    def accepting(self) -> bool:
        """False once `stop_accepting` was called."""
    def stop_accepting(self) -> None:
        """Accept what the kernel has already completed, then close the listening socket. Idempotent.

        A bare close would reset connections that wait in the accept queue even where another process listens on the
        same port. What is accepted here is served like any other connection.
        """
    def close_all(self, code: int = 1001, reason: str = "") -> None:
        """Close every open connection as `Connection.close` does; handshakes in progress are answered 503.

        Done in batches over several loop turns. Connections that are accepted afterwards are not affected.
        """
    async def wait_left(self, deadline: float) -> bool:
        """Wait until no connection is left, at most `deadline` seconds; returns whether none is. Ends nothing."""
    async def wait_closed(self, deadline: float) -> bool:
        """Wait until no connection is left, at most `deadline` seconds, then reset the rest.

        Returns whether all had ended by themselves. Call `stop_accepting` first. Cancelling it resets nothing.
        """

async def listen(
    accept: Callable[[Request], Accept | Refuse | Awaitable[Accept | Refuse]],
    host: str,
    port: int,
    limits: Limits = ...,
    *,
    loop: AbstractEventLoop | None = None,
    reuse_port: bool = True,
    hops: Hops = ...,
    budget: Budget | None = None,
) -> Listener:
    """Listen for WebSocket connections (RFC 6455, no extensions, no TLS) on `host`:`port`.

    `accept` decides on each valid handshake. A plain function costs the least; where it returns an awaitable that is
    one task per handshake in progress, at most `Limits.authorising` of them; cancelled when the peer leaves or
    `Limits.handshake_s` has passed. An exception from it is logged and answered 500. `host` is an address or name; its
    first address is used. With `reuse_port` several processes share the port. `hops`: the proxies whose word is taken
    for a client's address, which `Request.peer` then is. `budget`: one that several listeners share, whose
    limits and hops count then in place of these for what it bounds. Raises OSError where the address cannot be had.
    """

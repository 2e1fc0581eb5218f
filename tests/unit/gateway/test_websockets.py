"""Who is connected: the connections of a user, what ends them, and what an idle one costs."""

from __future__ import annotations

import gc
import json
import tracemalloc
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from core.bus.port import Bus
from core.clock import SystemClock
from core.config import Config, Gateway
from core.errors import Unavailable
from core.events import EdgeMessage, UserEvent
from ext.ws import Accept, Connection, Refuse, Request
from gateway.connection import Client
from gateway.identity import Identities, Identity
from gateway.transports.websocket import PATH, SUBPROTOCOL, WebSockets
from gateway.turns import Turns
from gateway.userevents import UserEvents
from tests.support.polling import eventually

SESSIONS = 2_000
# Two ids of 36 characters are 192 of them, the rest is the handler, its session and a place among the users.
BYTES_EACH = 640


class Anybody:
    """Takes everybody at their word: `Authorization` is a user and a session."""

    def at_once(self, headers: Mapping[str, str], subprotocols: Sequence[str]) -> Identity:
        user, session = headers["authorization"].split()
        return Identity(user_id=user, role="user", zone="eu", via="bearer", session_id=session)


class Wire:
    """A connection that keeps what it was told last."""

    __slots__ = ("closed", "told")

    def __init__(self) -> None:
        self.closed: tuple[int, str] | None = None
        self.told: list[bytes] | None = None

    def send_text(self, message: bytes) -> None:
        self.told = [*(self.told or []), message]

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


class Notes:
    """Presence as one gateway sees it, at once."""

    def __init__(self) -> None:
        self.here: set[str] = set()
        self.elsewhere: dict[str, list[str]] = {}
        self.away = False

    async def start(self, users: Collection[str]) -> None: ...

    async def stop(self) -> None: ...

    def note(self, user: str) -> None:
        self.here.add(user)

    def forget(self, user: str) -> None:
        self.here.discard(user)

    async def gateways(self, user: str) -> list[str]:
        if self.away:
            raise Unavailable("presence")
        return self.elsewhere.get(user, [])


class Inboxes:
    """The bus: what was sent to which gateway."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[EdgeMessage]]] = []

    async def to_edge(self, edge: str, batch: Sequence[EdgeMessage]) -> None:
        self.sent.append((edge, list(batch)))


def new_sockets(notes: Notes | None = None, per_user: int = 100) -> WebSockets:
    identities, config = cast(Identities, Anybody()), Config(gateway=Gateway(connections_per_user=per_user))
    return WebSockets(cast(Turns, None), identities, notes or Notes(), SystemClock(), config, "gw-1")


async def connect(sockets: WebSockets, user: str, session: str, wire: Any = None) -> Client:
    request = Request(PATH, "", {"authorization": f"{user} {session}"}, (SUBPROTOCOL,), ("127.0.0.1", 1))
    answer = sockets._accept(request)
    assert isinstance(answer, Accept)
    assert answer.subprotocol == SUBPROTOCOL
    assert isinstance(answer.handler, Client)
    answer.handler.on_open(cast(Connection, wire or Wire()))
    return answer.handler


async def test_a_user_has_the_connections_that_are_open() -> None:
    sockets = new_sockets()
    one, two, three = [await connect(sockets, "ann", f"s{n}") for n in range(3)]
    other = await connect(sockets, "bob", "s9")
    assert set(sockets.of("ann")) == {one, two, three}
    assert sockets.of("bob") == (other,)
    assert sockets.of("eve") == ()
    for gone in (two, one):
        gone.on_close(1000, "")
        gone.on_close(1000, "")
    assert sockets.of("ann") == (three,)
    three.on_close(1000, "")
    assert sockets.of("ann") == ()
    again = await connect(sockets, "ann", "s1")
    assert sockets.of("ann") == (again,)


async def test_who_is_told_that_there_are_too_many_takes_no_place() -> None:
    notes = Notes()
    sockets, wires = new_sockets(notes, per_user=2), [Wire() for _ in range(6)]
    first, second = [await connect(sockets, "ann", f"s{n}", wires[n]) for n in range(2)]
    refused = [await connect(sockets, "ann", f"s{n}", wires[n]) for n in range(2, 5)]
    assert [wire.closed and wire.closed[0] for wire in wires] == [None, None, 4429, 4429, 4429, None]
    first.on_close(1000, "")
    last = await connect(sockets, "ann", "s5", wires[5])
    assert (wires[5].closed, set(sockets.of("ann"))) == (None, {second, last})
    for client in (*refused, second):
        client.on_close(4429, "")
    assert (sockets.of("ann"), notes.here) == ((last,), {"ann"})
    last.on_close(1000, "")
    assert (sockets.of("ann"), notes.here) == ((), set())


async def test_who_comes_during_a_drain_and_is_never_welcomed_is_forgotten() -> None:
    sockets, wires = new_sockets(per_user=1), [Wire(), Wire()]
    await connect(sockets, "ann", "s", wires[0])
    await sockets.drain(0.0)
    crowded = await connect(sockets, "ann", "s", wires[1])
    assert wires[1].closed is not None
    assert sockets._late == [crowded]
    crowded.on_close(4429, "")
    assert sockets._late == []


async def test_a_cap_of_none_lets_everyone_in() -> None:
    sockets, wires = new_sockets(per_user=0), [Wire() for _ in range(150)]
    for wire in wires:
        await connect(sockets, "ann", "s", wire)
    assert [wire.closed for wire in wires if wire.closed] == []


async def test_a_revocation_closes_what_it_names() -> None:
    sockets, wires = new_sockets(), [Wire() for _ in range(4)]
    for wire, (user, session) in zip(wires, [("ann", "a"), ("ann", "b"), ("ann", "b"), ("bob", "b")], strict=True):
        await connect(sockets, user, session, wire)
    sockets.revoke("ann", "b", "unauthorized")
    assert [wire.closed and wire.closed[0] for wire in wires] == [None, 4401, 4401, None]
    sockets.revoke("ann", None, "forbidden")
    assert [wire.closed and wire.closed[0] for wire in wires] == [4403, 4401, 4401, None]


async def test_presence_is_told_of_the_first_and_the_last() -> None:
    notes = Notes()
    sockets = new_sockets(notes)
    one, two = [await connect(sockets, "ann", f"s{n}") for n in range(2)]
    assert (notes.here, set(sockets.users)) == ({"ann"}, {"ann"})
    one.on_close(1000, "")
    assert notes.here == {"ann"}
    two.on_close(1000, "")
    assert (notes.here, set(sockets.users)) == (set(), set())


async def test_an_event_is_told_to_the_users_own_sockets_and_gateways_only() -> None:
    notes, bus, wires = Notes(), Inboxes(), [Wire() for _ in range(3)]
    sockets = new_sockets(notes)
    for wire, user in zip(wires, ["ann", "ann", "bob"], strict=True):
        await connect(sockets, user, "s", wire)
    notes.elsewhere = {"ann": ["gw-1", "gw-2", "gw-3"], "bob": ["gw-4"]}
    events = UserEvents("gw-1", cast(Bus, bus), notes, sockets)
    events.tell("ann", "conversation.updated", {"conversation_id": "c"})
    told = [[json.loads(text) for text in (wire.told or [])[1:]] for wire in wires]
    frame = {"type": "event", "name": "conversation.updated", "data": {"conversation_id": "c"}}
    assert told == [[frame], [frame], []]
    await eventually(lambda: len(bus.sent) == 2)
    event = UserEvent("ann", "conversation.updated", {"conversation_id": "c"})
    assert bus.sent == [("gw-2", [event]), ("gw-3", [event])]
    await events.stop()


async def test_an_event_for_nobody_here_mends_the_note() -> None:
    notes, bus = Notes(), Inboxes()
    notes.note("ann")
    events = UserEvents("gw-1", cast(Bus, bus), notes, new_sockets(notes))
    events.on_event(UserEvent("ann", "conversation.updated", {}))
    assert (notes.here, bus.sent) == (set(), [])


async def test_without_presence_the_sockets_here_are_told_all_the_same() -> None:
    notes, bus, wire = Notes(), Inboxes(), Wire()
    notes.away = True
    sockets = new_sockets(notes)
    await connect(sockets, "ann", "s", wire)
    events = UserEvents("gw-1", cast(Bus, bus), notes, sockets)
    events.tell("ann", "conversation.deleted", {"conversation_id": "c"})
    assert wire.told is not None
    assert b"conversation.deleted" in wire.told[-1]
    await eventually(lambda: not events._sending)
    assert bus.sent == []


async def test_any_other_path_is_refused() -> None:
    answer = new_sockets()._accept(Request("/", "", {}, (), ("127.0.0.1", 1)))
    assert isinstance(answer, Refuse)
    assert answer.status == 404


async def test_an_idle_session_holds_little() -> None:
    sockets, wire = new_sockets(), Wire()
    await connect(sockets, "first", "s", wire)
    gc.collect()
    objects = len(gc.get_objects())
    tracemalloc.start()
    try:
        for _ in range(SESSIONS):
            client = await connect(sockets, str(uuid.uuid4()), str(uuid.uuid4()), wire)
            wire.told = None
            client.on_text('{"type":"ping","t":1}')
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    gc.collect()
    assert grown / SESSIONS < BYTES_EACH
    assert (len(gc.get_objects()) - objects) / SESSIONS < 2.1, "what the collector visits: a handler and its session"

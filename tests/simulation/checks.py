"""What must hold when a run is over: the invariants of the rules of a turn (docs/turns.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from core.ids import generation_id
from core.ledger.port import REVISION_OPENED
from core.model import Turn
from core.turn import text_hash
from tests.simulation.device import Device, asks_the_same
from tests.simulation.world import World

ENDED_WITHIN_S: Final = 20.0


def violations(world: World) -> Iterator[str]:
    """Everything that is wrong with a run that has settled, or had its time to."""
    yield from world.failures
    for source in (world.history, world.ledger, world.net):
        yield from source.conflicts
    yield from (f"{attempt} was sent to the provider twice" for attempt in world.provider.twice)
    if not world.settled():
        yield from _unsettled(world)
        return
    for turn in world.history.rows.values():
        yield from _turn(world, turn)
    for device in world.devices:
        yield from _device(world, device)
    yield from _spent(world)
    yield from _reservations(world)


def _unsettled(world: World) -> Iterator[str]:
    for device in world.devices:
        if not device.away:
            yield from (f"{device.name} never saw the end of {name}" for name in device.shown if device.lacks(name))
            unanswered = [each.frame for each in device.requests.values() if each.open]
            yield from (f"{device.name} got no answer to {frame}" for frame in unanswered)
    for turn in world.history.rows.values():
        if turn.end is None:
            yield f"{turn.key.turn_id} never ended: epoch {turn.epoch}, run {turn.run}, cancelled {turn.cancelled}"
        if turn.key in world.history.listed:
            yield f"{turn.key.turn_id} is still listed as open, its end is {turn.end}"
    for host in world.routers:
        if host.busy or host.disk.entries or host.disk.ends:
            yield f"{host.name} is still at {host.busy} turns, {host.disk.entries}, {host.disk.ends}"


def _turn(world: World, turn: Turn) -> Iterator[str]:
    end, key = turn.end, turn.key
    assert end is not None
    name = generation_id(key.conversation_id, key.turn_id)
    if end.epoch != turn.epoch:
        yield f"{end} of a turn at epoch {turn.epoch}"
    increments = world.history.text_of(key, end.epoch, end.chunks)
    last = increments[-1].seq if increments else -1
    if (len(increments), last, text_hash(increments)) != (end.chunks, end.seq, end.hash):
        yield f"{end} does not fit its stored text {increments}"
    text = world.history.whole(turn)
    said = world.net.texts.get((name, end.epoch), [])
    meant = "".join(each.piece.d for each in said[: end.seq + 1])
    if len(said) > end.seq and text != meant:
        yield f"stored {text!r}, told {meant!r}"
    attempts = {piece.rpartition(":")[0] for piece in text.split()}
    if len(attempts) > 1:
        yield f"one epoch with the text of {attempts}"
    if end.kind == "done":
        attempt = world.provider.log[end.attempt or ""]
        if not attempt.finished or text != "".join(attempt.served):
            yield f"done, and the provider served {attempt.served}: {text!r}"
    yield from _charges(world, turn)
    yield from _alive(world, turn, name)


def _charges(world: World, turn: Turn) -> Iterator[str]:
    end = turn.end
    assert end is not None
    entries = {entry.attempt: entry for entry in world.ledger.final().values() if entry.key == turn.key}
    charged = [entry for entry in entries.values() if entry.charged_to == "user"]
    if [entry.attempt for entry in charged] != ([end.attempt] if end.attempt else []):
        yield f"the user pays for {charged}, the end is {end}"
    elif charged and (charged[0].usage, charged[0].cost) != (end.usage, end.cost):
        yield f"the end says {end.usage} {end.cost}, the ledger {charged[0]}"
    if end.attempt and not end.writer.startswith("rt"):
        yield f"{end.writer} ended it and charged {end.attempt}"


def _alive(world: World, turn: Turn, name: str) -> Iterator[str]:
    """Every turn that somebody watches ends soon after the faults do."""
    ended_at = next(each.at for each in world.history.transitions if each.after.key == turn.key and each.after.end)
    watched = any(name in device.shown and not device.away for device in world.devices)
    if watched and not world.slow_end and ended_at > world.healed_at + ENDED_WITHIN_S:
        yield f"{name} ended {ended_at - world.healed_at:.1f} s after the faults"
    assert turn.end is not None
    if world.calm and (turn.epoch or not turn.end.writer.startswith("rt")):
        yield f"{name} came to epoch {turn.epoch} and {turn.end} though nothing failed"


def _device(world: World, device: Device) -> Iterator[str]:
    for name, shown in device.shown.items():
        turn = world.row(name)
        if turn is None or turn.end is None or shown.end is None:
            continue
        stored = world.history.whole(turn)
        if (shown.epoch, shown.seq, shown.text) != (turn.end.epoch, turn.end.seq, stored):
            yield f"{device.name} shows {shown.epoch}:{shown.seq} {shown.text!r}, history holds {turn.end} {stored!r}"
    rows = {key.turn_id: turn for key, turn in world.history.rows.items()}
    for request in device.requests.values():
        turn = rows.get(request.id)
        same = turn is not None and asks_the_same(request.frame, turn)
        if request.generation and not same:
            yield f"accepted was {request.frame}, stored is {turn}"
        if request.given_up and same and request.sent == 1 and not _shared(world, device, request.id):
            yield f"told that nothing was changed by {request.frame}, stored is {turn}"


def _shared(world: World, device: Device, turn_id: str) -> bool:
    return any(other is not device and turn_id in other.requests for other in world.devices)


def _spent(world: World) -> Iterator[str]:
    told = {piece for texts in world.net.texts.values() for text in texts for piece in text.piece.d.split()}
    shown = {piece.rpartition(":")[0] for piece in told}
    for attempt in sorted(shown):
        if (attempt, REVISION_OPENED) not in world.ledger.entries:
            yield f"text of {attempt} was shown and it is not on record"
    for name, call in world.provider.log.items():
        if call.open and call.node is not None and not call.node.dead:
            yield f"{name} still streams"


def _reservations(world: World) -> Iterator[str]:
    """What is left lapses by itself only where its turn was never opened, or had ended before it was made."""
    rows = {generation_id(key.conversation_id, key.turn_id): turn for key, turn in world.history.rows.items()}
    ended = {each.after.key: each.at for each in world.history.transitions if each.after.end}
    for name, at in world.limits.reserved.items():
        turn = rows.get(name.partition("#")[0])
        if turn is not None and at < ended[turn.key]:
            yield f"the reservation of {name} leaked"

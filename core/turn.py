"""The state machine of a turn: every transition and every rule of docs/turns.md that needs neither clock nor wire.

History adapters do the same transitions as conditional writes and are held to these functions by a test; gateways and
routers ask these predicates before they act. Times are given: `now`, `since` in seconds of the caller's own monotonic
clock unless the name ends in `_ms`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec

from core.history.port import Applied, Refused
from core.model import End, EndKind, Increment, NewTurn, Turn

MAX_EPOCH: Final = 4
GO_FRESH_S: Final = 1.0
CALL_FRESH_S: Final = 1.0
UNOWNED_S: Final = 3.0
HEARTBEAT_S: Final = 0.5
LIFE_LOST_S: Final = 1.25
TAIL_LIFE_S: Final = 600.0
ABANDONED_MS: Final = 600_000
HISTORY_AWAY_S: Final = 60.0


def open_turn(row: Turn | None, deleted: bool, opened: NewTurn) -> Applied | Refused:
    """open: only if the row is absent and the conversation not deleted."""
    if row is not None:
        return _confirmed(row, 0, opened.run)
    if deleted:
        return Refused(None)
    return Applied(Turn(opened=opened, epoch=0, run=opened.run, since_ms=opened.since_ms))


def claim(row: Turn | None, epoch: int, run: str, since_ms: int) -> Applied | Refused:
    """claim: only if the epoch is as read, and the turn has neither ended nor been cancelled."""
    if row is None:
        return Refused(None)
    if row.epoch != epoch or row.end is not None or row.cancelled:
        return _confirmed(row, epoch + 1, run)
    return Applied(msgspec.structs.replace(row, epoch=epoch + 1, run=run, since_ms=since_ms))


def _confirmed(row: Turn, epoch: int, run: str) -> Applied | Refused:
    """Rule 1: refused with my own run in the row counts as applied, unless it has since ended or been cancelled."""
    mine = row.epoch == epoch and row.run == run and row.end is None and not row.cancelled
    return Applied(row) if mine else Refused(row)


def cancel(row: Turn | None) -> Applied | Refused:
    """cancel: only if not ended. The flag set already counts as applied."""
    if row is None or row.end is not None:
        return Refused(row)
    return Applied(row if row.cancelled else msgspec.structs.replace(row, cancelled=True))


def end(row: Turn | None, ending: End) -> Applied | Refused:
    """end: only if not ended and the epoch is as known to the writer. The writer's own stored end counts as applied."""
    if row is None:
        return Refused(None)
    if row.end is not None:
        mine = (row.end.writer, row.end.run, row.end.epoch) == (ending.writer, ending.run, ending.epoch)
        return Applied(row) if mine else Refused(row)
    if row.epoch != ending.epoch:
        return Refused(row)
    return Applied(msgspec.structs.replace(row, end=ending))


def answers(row: Turn | None, epoch: int, run: str) -> bool:
    """Rule 4: a run may start only while the row names it, and neither an end nor a cancel stands in it."""
    return row is not None and row.epoch == epoch and row.run == run and row.end is None and not row.cancelled


def may_go_unread(now: float, since: float) -> bool:
    """Rule 4: a `go` needs no serial read only within one second of the sender's own open or claim."""
    return now - since <= GO_FRESH_S


def may_call(now: float, granted: float) -> bool:
    """Rule 4: the last check before a provider is called: at most one second since `taken` or the run's own claim."""
    return now - granted <= CALL_FRESH_S


def unowned(now: float, last_life: float, since: float, arbiter: bool) -> bool:
    """Whether an epoch may be claimed. Rules 3 and 5, Names.

    No router has reported it for two heartbeats and a half; and 3 s have passed since it was opened or claimed,
    except for its own arbiter, who need not wait out a grant that only the arbiter gives (ADR 0003).
    """
    return now - last_life >= LIFE_LOST_S and (arbiter or now - since >= UNOWNED_S)


def may_claim(row: Turn) -> bool:
    """Rule 8: at most four claims; who would make the fifth ends the turn `interrupted`."""
    return row.epoch < MAX_EPOCH


def stale(epoch: int, known: int) -> bool:
    """Rule 5: a run of an older epoch is no sign of life and is told to stop."""
    return epoch < known


def next_delta(seq: int, last: int) -> bool:
    """Rule 6: only the delta after the last one is taken; anything else is a repeat or a hole."""
    return seq == last + 1


def complete(epoch: int, seq: int, ending: End) -> bool:
    """Rule 6: an end is shown only to who has exactly the text it ends."""
    return epoch == ending.epoch and seq == ending.seq


def abandoned(now_ms: int, newest_ms: int) -> bool:
    """Rule 10: the janitor ends a turn no sooner than ten minutes after the newest of open, claim and increment."""
    return now_ms - newest_ms >= ABANDONED_MS


def charged(row: Turn, attempt: str) -> bool:
    """Rule 12: the user pays for the attempt that the stored end names, and for no other."""
    return row.end is not None and row.end.attempt == attempt


def ended_without_router(
    row: Turn, kind: EndKind, writer: str, increments: Iterable[Increment], code: str | None, message: str | None
) -> End:
    """The end that a gateway or the janitor writes for an unowned turn: the text stored so far, charged to nobody."""
    stored = list(increments)
    return End(
        kind=kind,
        epoch=row.epoch,
        run=row.run,
        writer=writer,
        chunks=len(stored),
        seq=stored[-1].seq if stored else -1,
        finish_reason=kind,
        model=row.opened.model,
        code=code,
        message=message,
        hash=text_hash(stored),
    )


def text_hash(increments: Iterable[Increment]) -> str:
    """SHA-256 over the pieces in order, hex: lets a reader show that the text is the one that was ended."""
    digest = hashlib.sha256()
    for increment in increments:
        for piece in increment.pieces:
            digest.update(f"{piece.k}\0{piece.i}\0".encode())
            digest.update(piece.d.encode())
    return digest.hexdigest()

"""Opening a turn: what a send, a regenerate or a continue must satisfy before it is durable (rule 2 of docs/turns.md).

The row is looked up first: a resend is answered by what is stored, whatever order, clock, quota and parent say by now.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from core import metering
from core.accounts.port import Conversations
from core.catalog.port import Catalog, CatalogModel
from core.clock import Clock
from core.errors import ParleyError, Unavailable, Unknown
from core.history.port import Applied, History, Home
from core.ids import generation_id, is_uuid7, new_run, parse_generation_id, uuid7, uuid7_ms
from core.limits.port import Limits, UserLimits
from core.model import MAX_CONTENT_BYTES, Continue, NewTurn, Regenerate, Send, Turn, TurnKey

MAX_AHEAD_MS: Final = 60_000
PARAMS: Final = frozenset(
    {"temperature", "top_p", "max_tokens", "stop", "seed", "presence_penalty", "frequency_penalty"}
)

T = TypeVar("T")


async def _nothing() -> None:
    return None


class Opened(msgspec.Struct, frozen=True):
    """A durable turn. `asked_at`: when the open, or of a duplicate the read, began (monotonic seconds). `duplicate`:
    it was there before. `degraded`: admitted by a local bucket, as the shared limits are away.
    """

    turn: Turn
    duplicate: bool
    asked_at: float
    degraded: bool = False

    @property
    def generation(self) -> str:
        key = self.turn.key
        return generation_id(key.conversation_id, key.turn_id)


class Opener:
    """Judges requests and opens turns. `user_limits` are those of the account; `default_model` where none is named.
    `on_opened` is told of every turn that this opener made durable; it must not block or raise.
    """

    def __init__(
        self,
        history: History,
        conversations: Conversations,
        catalog: Catalog,
        limits: Limits,
        clock: Clock,
        user_limits: UserLimits,
        default_model: str,
        on_opened: Callable[[NewTurn], None] = lambda _: None,
    ) -> None:
        self._history = history
        self._conversations = conversations
        self._catalog = catalog
        self._limits = limits
        self._clock = clock
        self._user_limits = user_limits
        self._default_model = default_model
        self._on_opened = on_opened
        self._opening: Counter[str] = Counter()

    async def send(self, user: str, frame: Send) -> Opened:
        """A user's message. Raises `ParleyError`."""
        check_send(frame)
        conversation = frame.conversation_id
        known = TurnKey(conversation, frame.message_id) if frame.message_id else None
        asked_at = self._clock.monotonic()
        after = answer_key(frame.parent_id, "parent_id") if frame.parent_id is not None else None
        found, alias = await asyncio.gather(
            told(self._history.look(conversation, frame.message_id, after.turn_id if after else None)),
            self._alias(frame.model, conversation, user),
        )
        check_owner(found.home, user, "conversation_id")
        digest = body_hash(frame)
        if found.turn is not None:
            return self._duplicate(found.turn, digest, asked_at)
        if after is not None and (found.parent is None or after.conversation_id != conversation):
            raise ParleyError("not_found", "There is no such answer in this conversation.", param="parent_id")
        return await self._judged(known, digest, asked_at, self._new_send(user, frame, found.parent, alias, digest))

    async def _new_send(self, user: str, frame: Send, parent: Turn | None, alias: str, digest: str) -> NewTurn:
        conversation = frame.conversation_id
        if parent is not None and parent.end is None:
            message = "The answer before this message still runs; wait for its end or cancel it."
            raise ParleyError("busy", message, param="parent_id", retry_after_ms=500)
        model = await self._model(alias)
        key = self._key(conversation, frame.message_id, parent, "message_id")
        return NewTurn(
            key=key,
            owner=user,
            kind="send",
            message_turn=key.turn_id,
            parent_turn=parent.key.turn_id if parent else None,
            source_turn=None,
            content=frame.content,
            model=model.alias,
            price_version=model.price.version,
            params=frame.params,
            max_tokens=answer_bound(frame.params, model),
            body_hash=digest,
            run=new_run(),
            since_ms=self._clock.wall_ms(),
        )

    async def _judged(
        self,
        known: TurnKey | None,
        digest: str,
        asked_at: float,
        judging: Awaitable[NewTurn],
        before: Callable[[], Awaitable[None]] = _nothing,
    ) -> Opened:
        """Opens what is judged good. What is refused is looked up once more: the same id may have been stored, here or
        elsewhere, since its row was read, and is then its own parent, or older than one.
        """
        try:
            turn = await judging
        except ParleyError:
            row = await told(self._history.read(known)) if known else None
            if row is None:
                raise
            return self._duplicate(row, digest, asked_at)
        return await self._open(turn, before)

    async def branch(
        self, user: str, frame: Regenerate | Continue, before: Callable[[], Awaitable[None]] = _nothing
    ) -> Opened:
        """Another answer to the same message, or the rest of one that broke off. Raises `ParleyError`.

        `before` is awaited once the branch is judged and admitted, right before it is opened; not for a duplicate.
        """
        if frame.turn_id is not None:
            check_id(frame.turn_id, "turn_id")
        source_key = answer_key(frame.generation_id)
        conversation = source_key.conversation_id
        known = TurnKey(conversation, frame.turn_id) if frame.turn_id else None
        asked_at = self._clock.monotonic()
        home, row, source = await asyncio.gather(
            told(self._history.home(conversation)),
            told(self._history.read(known)) if known else _nothing(),
            told(self._history.read(source_key)),
        )
        check_owner(home, user, "generation_id")
        digest = body_hash(frame)
        if row is not None:
            return self._duplicate(row, digest, asked_at)
        if source is None:
            raise _no_such_answer()
        return await self._judged(known, digest, asked_at, self._new_branch(user, frame, source, digest), before)

    async def _new_branch(self, user: str, frame: Regenerate | Continue, source: Turn, digest: str) -> NewTurn:
        conversation = source.key.conversation_id
        if isinstance(frame, Continue):
            check_continuable(source)
        key = self._key(conversation, frame.turn_id, source, "turn_id")
        wanted = frame.model if isinstance(frame, Regenerate) else None
        model = await self._model(wanted or source.opened.model)
        return NewTurn(
            key=key,
            owner=user,
            kind="continue" if isinstance(frame, Continue) else "regenerate",
            message_turn=source.opened.message_turn,
            parent_turn=source.opened.parent_turn,
            source_turn=source.key.turn_id,
            content=source.opened.content,
            model=model.alias,
            price_version=model.price.version,
            params=source.opened.params,
            max_tokens=answer_bound(source.opened.params, model),
            body_hash=digest,
            run=new_run(),
            since_ms=self._clock.wall_ms(),
        )

    def _duplicate(self, row: Turn, digest: str, asked_at: float) -> Opened:
        if row.opened.body_hash != digest:
            message = "This id was used before with another body; make a new id for a new message."
            raise ParleyError("conflict", message, param="message_id" if row.opened.kind == "send" else "turn_id")
        return Opened(row, True, asked_at)

    def _key(self, conversation: str, given: str | None, after: Turn | None, param: str) -> TurnKey:
        now_ms = self._clock.wall_ms()
        if given is None:
            newest = uuid7_ms(after.key.turn_id) if after else 0
            return TurnKey(conversation, uuid7(max(now_ms, newest + 1)))
        check_order(given, after.key.turn_id if after else None, now_ms, param)
        return TurnKey(conversation, given)

    async def _alias(self, wanted: str | None, conversation: str, user: str) -> str:
        """The model that was asked for, else the conversation's, else the default."""
        if wanted is not None:
            return wanted
        try:
            stored = await self._conversations.conversation(conversation, user)
        except Unavailable:
            stored = None
        return (stored.model if stored else None) or self._default_model

    async def _model(self, wanted: str) -> CatalogModel:
        model = await told(self._catalog.model(wanted))
        if model is None:
            message = f"There is no model {wanted[:80]!r}; GET /v1/models lists them."
            raise ParleyError("invalid", message, param="model")
        return model

    async def _open(self, turn: NewTurn, before: Callable[[], Awaitable[None]]) -> Opened:
        asked_at = self._clock.monotonic()
        reservation = generation_id(turn.key.conversation_id, turn.key.turn_id)
        admission = await self._limits.admit(turn.owner, reservation, metering.reservation(turn), self._user_limits)
        self._opening[reservation] += 1
        try:
            await before()
            result = await self._history.open(turn)
        except Unknown as error:
            message = "It is not known whether this was stored; send the same id again."
            raise ParleyError("unknown", message, retry_after_ms=500) from error
        except Unavailable as error:
            await self._release_unless_shared(turn.owner, reservation)
            raise away(error) from error
        except ParleyError:
            await self._release_unless_shared(turn.owner, reservation)
            raise
        finally:
            self._opening[reservation] -= 1
            if not self._opening[reservation]:
                del self._opening[reservation]
        if isinstance(result, Applied):
            self._on_opened(turn)
            return Opened(result.turn, False, asked_at, admission.degraded)
        if result.turn is not None:
            return self._duplicate(result.turn, turn.body_hash, asked_at)
        await self._release(turn.owner, reservation)
        raise _no_conversation("conversation_id")

    async def _release_unless_shared(self, account: str, reservation: str) -> None:
        # Another send of the same id may open the turn at this moment; the reservation is then that turn's.
        if self._opening[reservation] == 1:
            await self._release(account, reservation)

    async def _release(self, account: str, reservation: str) -> None:
        try:
            await self._limits.settle(account, reservation, 0)
        except Unavailable:
            return  # it lapses by itself


async def told(reading: Awaitable[T]) -> T:
    """A read whose store is away is a clear, retryable refusal."""
    try:
        return await reading
    except Unavailable as error:
        raise away(error) from error


def away(_: Unavailable) -> ParleyError:
    """The refusal while a store is away."""
    message = "The platform cannot store or read this right now; nothing was changed. Try again."
    return ParleyError("unavailable", message, retry_after_ms=1000)


def _no_conversation(param: str) -> ParleyError:
    noun = "answer" if param == "generation_id" else "conversation"
    return ParleyError("not_found", f"There is no such {noun}.", param=param)


def _no_such_answer() -> ParleyError:
    return _no_conversation("generation_id")


def check_owner(home: Home | None, user: str, param: str) -> Home:
    """The one place where a conversation's owner is checked before a turn is read or written."""
    if home is None or home.owner != user or home.deleted_at_ms is not None:
        raise _no_conversation(param)
    return home


def check_id(value: str, param: str) -> None:
    if not is_uuid7(value):
        raise ParleyError("invalid", f"{param} must be a UUIDv7 in lower case.", param=param)


def answer_key(generation: str, param: str = "generation_id") -> TurnKey:
    """The turn an answer's id stands for; what is no id stands for nothing."""
    parsed = parse_generation_id(generation)
    if parsed is None:
        raise ParleyError("not_found", "There is no such answer.", param=param)
    return TurnKey(*parsed)


def check_send(frame: Send) -> None:
    """What can be judged from the frame alone."""
    if not is_uuid7(frame.conversation_id):
        raise _no_conversation("conversation_id")
    if frame.message_id is not None:
        check_id(frame.message_id, "message_id")
    if not frame.content.strip():
        raise ParleyError("invalid", "content must not be empty.", param="content")
    if "\x00" in frame.content:
        raise ParleyError("invalid", "content must not contain U+0000.", param="content")
    try:
        size = len(frame.content.encode())
    except UnicodeEncodeError as error:
        raise ParleyError("invalid", "content holds half a surrogate pair.", param="content") from error
    if size > MAX_CONTENT_BYTES:
        message = f"content has {size} bytes; at most {MAX_CONTENT_BYTES} are taken."
        raise ParleyError("invalid", message, param="content")
    if frame.files:
        raise ParleyError("invalid", "files are not taken here.", param="files")
    check_params(frame.params)


_NUMBERS: Final = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}


def check_params(params: dict[str, Any]) -> None:
    """Sampling parameters: known names, sane values, bounded size."""
    for name, value in params.items():
        if name not in PARAMS:
            raise ParleyError("invalid", f"There is no parameter {name[:40]!r}.", param="params")
        if name in _NUMBERS:
            low, high = _NUMBERS[name]
            good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        elif name == "stop":
            texts = value if isinstance(value, list) else [value]
            good = 1 <= len(texts) <= 4 and all(isinstance(text, str) and len(text) <= 256 for text in texts)
        else:
            low_int = 1 if name == "max_tokens" else -(2**31)
            good = isinstance(value, int) and not isinstance(value, bool) and low_int <= value < 2**31
        if not good:
            raise ParleyError("invalid", f"params.{name} has a value that is not taken.", param=f"params.{name}")


def check_order(given: str, parent: str | None, now_ms: int, param: str) -> None:
    """A turn's id is greater than its parent's and at most 60 s ahead of this clock."""
    if uuid7_ms(given) > now_ms + MAX_AHEAD_MS:
        message = f"{param} lies more than 60 s in the future; make it again by the server's time {now_ms}."
        raise ParleyError("id_out_of_order", message, param=param)
    if parent is not None and given <= parent:
        message = f"{param} must be greater than the id it follows; make it again by the server's time {now_ms}."
        raise ParleyError("id_out_of_order", message, param=param)


def check_continuable(source: Turn) -> None:
    """Only a stored answer that broke off, was cancelled or was cut by length goes on."""
    end = source.end
    good = end is not None and (end.kind in ("interrupted", "cancelled") or end.finish_reason == "length")
    if not good:
        message = "Only an answer that was interrupted, cancelled or cut by length can be continued."
        raise ParleyError("invalid", message, param="generation_id")


def answer_bound(params: dict[str, Any], model: CatalogModel) -> int:
    """Tokens the answer may have at most: what was asked for, never above the model's own bound."""
    wanted = params.get("max_tokens")
    return min(int(wanted), model.max_output) if wanted else model.max_output


def body_hash(frame: Send | Regenerate | Continue) -> str:
    """SHA-256 of the request as sent, in a canonical order of fields."""
    return hashlib.sha256(msgspec.json.encode(frame, order="deterministic")).hexdigest()

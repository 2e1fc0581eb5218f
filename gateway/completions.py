"""Stateless answers without the bus: the gateway that took the call streams from the provider itself (ADR 4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine
from contextlib import aclosing
from typing import Any, Final, Protocol, TypeVar

from core import metering
from core.catalog.port import Catalog, Route
from core.clock import Clock
from core.config import Config
from core.errors import ParleyError, Unavailable, Unknown
from core.ledger.port import Entry
from core.limits.port import Admission, Limits, UserLimits
from core.providers.port import Provider, ProviderError, ProviderMessage, ProviderRequest
from gateway.api.completions_port import Admitted, Completed, CompletionEvent, CompletionRequest
from gateway.calls import Call, Outcome, Plan, refusal
from gateway.identity import Identity
from gateway.opening import told
from gateway.patience import Patience

MAX_CALL_S: Final = 900.0
RENEW_EVERY_S: Final = 30.0
RECORD_S: Final = 15.0
STOP_S: Final = 5.0

log = logging.getLogger(__name__)

T = TypeVar("T")


class Recorder(Protocol):
    """Puts usage records where they survive: the stream or, within 50 ms, a local fsynced spool.

    Idempotency: a record may be given again. Errors: `Unavailable` or `Unknown` only where both failed.
    """

    async def record(self, entry: Entry) -> object: ...


class DirectCompletions:
    """The port `Completions` over providers that this process calls.

    Every attempt is on record before any of its text is told, and closed by a task that this object owns, so a client
    that leaves takes no record with it. What a user pays for is settled by the ledger worker; a call that cost its
    user nothing gives its reservation back here.
    """

    def __init__(
        self,
        catalog: Catalog,
        providers: dict[str, Provider],
        limits: Limits,
        recorder: Recorder,
        clock: Clock,
        config: Config,
    ) -> None:
        self._catalog = catalog
        self._providers = providers
        self._limits = limits
        self._recorder = recorder
        self._clock = clock
        self._settings = {provider.name: provider for provider in config.providers}
        self._user_limits = UserLimits(
            requests_per_minute=config.limits.requests_per_minute,
            turns_at_once=config.limits.turns_at_once,
            tokens_per_day=config.limits.tokens_per_day,
        )
        self._running: set[Call] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def running(self) -> int:
        """Calls under way, for metrics."""
        return len(self._running)

    async def stop(self) -> None:
        """Refuses new calls, breaks off those that still run and waits, at most `STOP_S` seconds, until all are on
        record. Asked once the streams were drained, and before recorder, limits and providers are closed. Idempotent.
        """
        self._stopping = True
        for call in tuple(self._running):
            self._end(call, call.broken)
            call.patience.end()
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        if not self._tasks:
            return
        _, late = await asyncio.wait(tuple(self._tasks), timeout=STOP_S)
        for task in late:
            log.error("%s did not end within %.0f s", task.get_name(), STOP_S)
            task.cancel()

    async def stream(self, identity: Identity, request: CompletionRequest) -> AsyncIterator[list[CompletionEvent]]:
        """See the port. Raises `ParleyError`."""
        if self._stopping:
            raise _going_away()
        plan = await self._plan(request)
        call = Call(identity.user_id, plan, self._clock.wall_ms(), Patience(MAX_CALL_S))
        admission = await self._admit(call)
        ending: Outcome = "cancelled"
        try:
            yield [self._admitted(admission)]
            while not call.answered:
                try:
                    async with aclosing(self._attempt(call)) as attempt:
                        async for pieces in attempt:
                            yield pieces
                except ProviderError as error:
                    await self._again(call, error)
            usage = call.usage
            await asyncio.shield(self._end(call, "done"))
            yield [Completed(finish_reason=call.finish_reason, usage=usage)]
        except Exception:
            ending = call.broken
            raise
        finally:
            self._end(call, ending)

    async def _plan(self, request: CompletionRequest) -> Plan:
        """Judges the request. Raises `invalid`, `context_too_long`, `unavailable`."""
        model = await told(self._catalog.model(request.model))
        if model is None:
            message = f"There is no model {request.model[:80]!r}; GET /v1/models lists them."
            raise ParleyError("invalid", message, param="model")
        routes = tuple(route for route in model.routes if self._serves(route))
        if not routes:
            message = f"No provider of {model.alias!r} is configured here; choose another model."
            raise ParleyError("unavailable", message, param="model", retry_after_ms=1000)
        prompt = metering.estimate_usage((message.content for message in request.messages), "").prompt_tokens
        room = model.context_window - prompt
        if room < 1:
            text = f"The messages need {prompt} tokens and the model's window has {model.context_window}; shorten them."
            raise ParleyError("context_too_long", text, param="messages")
        return Plan(
            model=model,
            routes=routes,
            messages=tuple(ProviderMessage(message.role, message.content) for message in request.messages),
            params=request.params,
            prompt_tokens=prompt,
            max_tokens=min(request.max_tokens or model.max_output, model.max_output, room),
        )

    def _serves(self, route: Route) -> bool:
        return route.provider in self._providers and route.provider in self._settings

    async def _admit(self, call: Call) -> Admission:
        """One call to the limits. Raises what they refuse with."""
        plan = call.plan
        wanted = plan.prompt_tokens + plan.max_tokens
        try:
            admission = await self._limits.admit(call.account, call.reservation, wanted, self._user_limits)
        except BaseException as failure:
            call.patience.close()
            if isinstance(failure, asyncio.CancelledError):
                self._spawn(self._settle(call, 0), "release")
            raise
        call.degraded = admission.degraded
        self._running.add(call)
        if self._renewing is None and not self._stopping:
            self._renewing = asyncio.create_task(self._renew(), name="reservations of completions")
        return admission

    def _admitted(self, admission: Admission) -> Admitted:
        return Admitted(
            requests_limit=self._user_limits.requests_per_minute,
            requests_remaining=admission.requests_remaining,
            tokens_limit=self._user_limits.tokens_per_day,
            tokens_remaining=admission.tokens_remaining,
            reset_ms=admission.reset_ms,
        )

    async def _attempt(self, call: Call) -> AsyncGenerator[list[CompletionEvent], None]:
        """One call of a provider, to its end. Its pieces come once its opening is on record."""
        if self._stopping:
            raise _going_away()
        opening = self._spawn(self._record(call.open(self._clock.wall_ms())), "opening record")
        route = call.current
        settings = self._settings[route.provider]
        request = ProviderRequest(
            model=route.model,
            messages=call.plan.messages,
            max_tokens=call.plan.max_tokens,
            params=call.plan.params,
            deadline_first_token_s=settings.first_token_s,
            deadline_idle_s=settings.idle_s,
            tags={"attempt": call.attempt},
        )
        async with aclosing(self._providers[route.provider].stream(request)) as source:
            while not call.full and (events := await self._within(call, anext(source, None))) is not None:
                pieces = call.take(events)
                if pieces:
                    await self._on_record(call, opening)
                    call.show(pieces)
                    yield [*pieces]
        await self._on_record(call, opening)
        call.answered = True

    async def _on_record(self, call: Call, opening: asyncio.Task[bool]) -> None:
        if not (opening.result() if opening.done() else await self._within(call, asyncio.shield(opening))):
            message = "The call cannot be put on record right now, so it was not answered. Try again."
            raise ParleyError("unavailable", message, retry_after_ms=1000)

    async def _within(self, call: Call, step: Awaitable[T]) -> T:
        """Waits for one step of a call: not beyond the call's time, and not beyond `stop`."""
        try:
            return await call.patience.wait(step)
        except TimeoutError:
            if not call.ended:
                raise ParleyError("provider_error", f"The answer took longer than {MAX_CALL_S:.0f} s.") from None
            raise _going_away() from None

    async def _again(self, call: Call, error: ProviderError) -> None:
        """Returns when the next attempt may begin; raises what the client is told where there is none."""
        # What the provider said may repeat what it was asked: it stays out of the log.
        log.info("attempt %s at %s failed: %s (HTTP %s)", call.attempt, call.current.provider, error.kind, error.status)
        if call.ended:
            raise _going_away() from error
        wait_s = call.retry_in_s(error)
        if wait_s is None:
            call.failure = error
            raise refusal(error, call.shown) from error
        self._spawn(self._record(call.close("error", error)), "closing record")
        call.next_route()
        await self._within(call, asyncio.sleep(wait_s))

    def _end(self, call: Call, outcome: Outcome) -> asyncio.Task[None]:
        """Ends a call; the first outcome counts. The task is done when that is on record."""
        if call.closing is None:
            self._running.discard(call)
            call.patience.close()
            entry = call.close(outcome, call.failure) if call.attempting else None
            call.closing = self._spawn(self._close(call, entry), "closing record")
        return call.closing

    async def _close(self, call: Call, entry: Entry | None) -> None:
        """The ledger worker settles what the user pays, except for what it will not see and for what is held here."""
        recorded = await self._record(entry) if entry is not None else False
        tokens = call.charged_tokens
        if not (tokens and recorded) or call.degraded:
            await self._settle(call, tokens)

    async def _record(self, entry: Entry) -> bool:
        """Whether the record survives this process."""
        try:
            async with asyncio.timeout(RECORD_S):
                await self._recorder.record(entry)
        except (Unavailable, Unknown, TimeoutError) as error:
            log.error("revision %d of attempt %s is lost: %r", entry.revision, entry.attempt, error)
            return False
        return True

    async def _settle(self, call: Call, tokens: int) -> None:
        try:
            await self._limits.settle(call.account, call.reservation, tokens)
        except Unavailable as error:
            log.info("the reservation %s is left to lapse: %s", call.reservation, error)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            held = [(call.account, call.reservation) for call in self._running]
            try:
                if held:
                    await self._limits.renew(held)
            except Unavailable as error:
                log.info("%d reservations are not renewed: %s", len(held), error)

    def _spawn(self, action: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(action, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("the %s of a completion failed", task.get_name(), exc_info=task.exception())


def _going_away() -> ParleyError:
    return ParleyError("overloaded", "This gateway is going away; call again.", retry_after_ms=1000)

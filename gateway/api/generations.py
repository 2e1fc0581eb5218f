"""`/v1/generations`: answers, while they are made and afterwards."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Request, Response, get, post
from litestar.params import FromPath, JSONBody

from core.model import Continue, EndFrame, Regenerate
from gateway.api.bodies import Body, Identifier, StrictJSON
from gateway.api.messages import named, told
from gateway.api.scope import headers_of
from gateway.api.services import Caller, Svc
from gateway.api.streams import parse_event_id, wants_events
from gateway.api.turns_port import GenerationView
from gateway.identity import require_scope


class NewRegeneration(Body, frozen=True, kw_only=True):
    turn_id: Identifier | None = None
    model: Identifier | None = None


class NewContinuation(Body, frozen=True, kw_only=True):
    turn_id: Identifier | None = None


class GenerationsController(Controller):
    path = "/v1/generations/{generation_id:str}"
    tags = ("generations",)

    @get()
    async def show(self, caller: Caller, services: Svc, generation_id: FromPath[str]) -> GenerationView:
        """The answer as it stands."""
        require_scope(caller, "chat")
        return await services.turns.generation(caller, generation_id)

    @get("/events")
    async def events(
        self, request: Request[Any, Any, Any], caller: Caller, services: Svc, generation_id: FromPath[str]
    ) -> Response[None]:
        """The answer as an event stream, from the event after `Last-Event-ID` on, up to its end."""
        require_scope(caller, "chat")
        epoch, seq = parse_event_id(headers_of(request.scope).get("last-event-id"), generation_id)
        services.streams.check(caller)
        return services.streams.respond(caller, services.turns.watch(caller, generation_id, epoch, seq))

    @post("/cancel", status_code=200)
    async def cancel(self, caller: Caller, services: Svc, generation_id: FromPath[str]) -> EndFrame:
        """Stops the answer; tells the stored end, whichever it is."""
        require_scope(caller, "chat")
        return await services.turns.cancel(caller, generation_id)

    @post("/regenerate", dto=StrictJSON[NewRegeneration], status_code=202)
    async def regenerate(
        self,
        request: Request[Any, Any, Any],
        caller: Caller,
        services: Svc,
        generation_id: FromPath[str],
        data: JSONBody[NewRegeneration],
    ) -> Response[Any]:
        """Another answer to the same message, as a branch."""
        require_scope(caller, "chat")
        turn_id = named(request, data.turn_id, "turn_id")
        events = wants_events(request)
        if events:
            services.streams.check(caller)
        frame = Regenerate(generation_id=generation_id, turn_id=turn_id, model=data.model)
        return told(services, caller, await services.turns.regenerate(caller, frame), events)

    @post("/continue", dto=StrictJSON[NewContinuation], status_code=202)
    async def go_on(
        self,
        request: Request[Any, Any, Any],
        caller: Caller,
        services: Svc,
        generation_id: FromPath[str],
        data: JSONBody[NewContinuation],
    ) -> Response[Any]:
        """The rest of an answer that broke off."""
        require_scope(caller, "chat")
        turn_id = named(request, data.turn_id, "turn_id")
        events = wants_events(request)
        if events:
            services.streams.check(caller)
        frame = Continue(generation_id=generation_id, turn_id=turn_id)
        return told(services, caller, await services.turns.continue_(caller, frame), events)

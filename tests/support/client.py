"""A client of docs/protocol.md for tests: HTTP and WebSockets of one user, and answers collected as a client must.

It is written from the protocol's page and shares no code with the product beyond ids: what it accepts is what a client
may rely on. What a server must never do (a repeat, an end on incomplete text) fails the test that sees it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict, deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import aiohttp

from core.ids import uuid7
from tests.support.polling import eventually
from tests.support.stack import Person, Stack

ANSWER_S = 20.0
RETRY_S = 0.2
ENDS = frozenset({"done", "cancelled", "interrupted", "failed"})

Frame = dict[str, Any]
T = TypeVar("T")


class Refused(Exception):
    """The `error` frame, or the body's `error` of an HTTP answer."""

    def __init__(self, error: Frame) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.error = error
        self.code: str = error.get("code", "")

    @property
    def retryable(self) -> bool:
        return bool(self.error.get("retryable"))

    @property
    def after_s(self) -> float:
        """How long to wait before the next try."""
        return float(self.error.get("retry_after_ms") or RETRY_S * 1000) / 1000


class Gone(Exception):
    """The connection is closed. `code` is the close code, 1006 where there was no close frame."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the connection was closed: {code}")
        self.code = code


def new_id() -> str:
    """A UUIDv7 of now, as clients make them."""
    return uuid7(time.time_ns() // 1_000_000)


class Shown:
    """What a client shows of one answer. It outlives connections: give it to `Device.resume`.

    `epoch` and `seq` are the address of what was seen; `frames` all that came for it, `accepted` included.
    """

    def __init__(self, generation_id: str) -> None:
        self.generation_id = generation_id
        self.epoch = 0
        self.seq = -1
        self.parts: dict[tuple[str, int], str] = {}
        self.frames: list[Frame] = []
        self.end: Frame | None = None
        self.whole = True

    def __repr__(self) -> str:
        return f"{self.generation_id} at {self.epoch}:{self.seq}, the last frames {self.frames[-8:]}"

    @property
    def text(self) -> str:
        """The visible text: all parts of the kind `text`."""
        return self.of_kind("text")

    def of_kind(self, wanted: str) -> str:
        """The text of all parts of a kind, in their order."""
        return "".join(text for (kind, _), text in sorted(self.parts.items()) if kind == wanted)

    @property
    def ended(self) -> str | None:
        """The type of the end frame; None while the answer runs."""
        return None if self.end is None else str(self.end["type"])

    def count(self, kind: str) -> int:
        """How many frames of this type came."""
        return sum(frame["type"] == kind for frame in self.frames)

    def take(self, frame: Frame) -> None:
        """Raises AssertionError where the server breaks the protocol."""
        self.frames.append(frame)
        kind = frame["type"]
        if self.end is not None:
            # It is told again to who sent or resumed it twice; a client knows all of it.
            assert kind not in ENDS or frame == self.end, self
        elif kind == "delta" and frame["e"] >= self.epoch:
            self._delta(frame)
        elif kind == "snapshot" and frame["epoch"] >= self.epoch:
            self._snapshot(frame)
        elif kind == "resumed":
            assert (frame["epoch"], frame["seq"]) == (self.epoch, self.seq), self
        elif kind == "restart" and frame["epoch"] > self.epoch:
            self._begin(frame["epoch"])
        elif kind in ENDS:
            self._end(frame)

    def _begin(self, epoch: int) -> None:
        self.epoch, self.seq, self.parts, self.whole = epoch, -1, {}, True

    def _append(self, number: int, kind: str, text: str) -> None:
        self.parts[kind, number] = self.parts.get((kind, number), "") + text

    def _delta(self, frame: Frame) -> None:
        assert self.whole, "a delta in the middle of a snapshot"
        if frame["e"] > self.epoch:
            assert not self.parts, "a newer epoch without `restart` after text was shown"
            self._begin(frame["e"])
        assert frame["n"] > self.seq, f"delta {frame['n']} again: {self.seq} was seen"
        self._append(frame.get("i", 0), frame.get("k", "text"), frame["d"])
        self.seq = frame["n"]

    def _snapshot(self, frame: Frame) -> None:
        if frame["at"] == 0:
            self._begin(frame["epoch"])
        assert frame["at"] == sum(map(len, self.parts.values())), "a piece of the snapshot is missing"
        for part in frame["parts"]:
            self._append(part["i"], part["k"], part["d"])
        self.seq, self.whole = frame["seq"], not frame["more"]

    def _end(self, frame: Frame) -> None:
        assert self.whole, "an end in the middle of a snapshot"
        if self.seq == -1 and frame["epoch"] > self.epoch:
            self._begin(frame["epoch"])
        assert (frame["epoch"], frame["seq"]) == (self.epoch, self.seq), self
        self.end = frame


class Device:
    """One WebSocket. Everything that comes is in `frames`; what belongs to an answer that is watched, in `answers`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.frames: list[Frame] = []
        self.answers: dict[str, Shown] = {}
        self.close_code: int | None = None
        self._socket = socket
        self._asked: defaultdict[str, deque[asyncio.Future[Frame]]] = defaultdict(deque)
        self._changed = asyncio.Event()
        self._broken: Exception | None = None
        self._reader = asyncio.create_task(self._read())

    @property
    def closed(self) -> bool:
        return self.close_code is not None

    # What a client does.

    async def tell(self, frame: Frame) -> None:
        """Sends a frame as it is. Raises `Gone`."""
        await self.tell_raw(json.dumps(frame))

    async def tell_raw(self, text: str) -> None:
        """Sends a text message as it is. Raises `Gone`, and AssertionError where the server broke the protocol."""
        if self._broken is not None:
            raise self._broken
        if self.closed or self._socket.closed:
            raise Gone(self.close_code or 1006)
        try:
            await self._socket.send_str(text)
        except (ConnectionError, aiohttp.ClientError) as error:
            raise Gone(1006) from error

    async def ask(self, frame: Frame, within_s: float = ANSWER_S) -> Frame:
        """Sends a `send`, `regenerate` or `continue` that has its id; returns its `accepted`. Raises `Refused`, `Gone`
        and TimeoutError.
        """
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._asked[frame.get("message_id") or frame["turn_id"]].append(future)
        await self.tell(frame)
        answer = await asyncio.wait_for(future, within_s)
        if answer["type"] == "error":
            raise Refused(answer)
        return answer

    async def send(self, conversation_id: str, content: str, **fields: Any) -> Shown:
        """Sends a message and returns its answer, which is watched from here on."""
        frame = {"type": "send", "message_id": new_id(), "conversation_id": conversation_id, "content": content}
        return self.answers[(await self.ask(frame | fields))["generation_id"]]

    async def regenerate(self, generation_id: str, **fields: Any) -> Shown:
        frame = {"type": "regenerate", "turn_id": new_id(), "generation_id": generation_id}
        return self.answers[(await self.ask(frame | fields))["generation_id"]]

    async def go_on(self, generation_id: str, **fields: Any) -> Shown:
        """`continue`."""
        frame = {"type": "continue", "turn_id": new_id(), "generation_id": generation_id}
        return self.answers[(await self.ask(frame | fields))["generation_id"]]

    async def resume(self, answer: Shown | str) -> Shown:
        """Watches an answer from where it was seen last; a generation's id is an answer of which nothing was seen."""
        shown = Shown(answer) if isinstance(answer, str) else answer
        self.answers[shown.generation_id] = shown
        address = {"epoch": shown.epoch, "seq": shown.seq}
        await self.tell({"type": "resume", "generation_id": shown.generation_id, **address})
        return shown

    async def cancel(self, answer: Shown) -> None:
        await self.tell({"type": "cancel", "generation_id": answer.generation_id})

    async def ping(self) -> None:
        """A round trip: what was sent before has been read by the gateway."""
        token = new_id()
        await self.tell({"type": "ping", "t": token})
        await self.until(lambda: any(frame.get("t") == token for frame in self.frames if frame["type"] == "pong"))

    # What comes.

    async def until(self, condition: Callable[[], T | None], within_s: float = ANSWER_S, what: str = "") -> T:
        """The condition's first true answer, asked after every frame. Raises `Gone` when the connection ends before,
        TimeoutError, and AssertionError where the server broke the protocol.
        """
        try:
            async with asyncio.timeout(within_s):
                while True:
                    if self._broken is not None:
                        raise self._broken
                    self._changed.clear()
                    if answer := condition():
                        return answer
                    if self.close_code is not None:
                        raise Gone(self.close_code)
                    await self._changed.wait()
        except TimeoutError:
            last = [frame["type"] for frame in self.frames[-5:]]
            raise TimeoutError(f"not within {within_s} s: {what or 'it happens'}; the last frames: {last}") from None

    async def first(self, kind: str, within_s: float = ANSWER_S) -> Frame:
        """The first frame of this type on this connection."""
        return await self.until(
            lambda: next((frame for frame in self.frames if frame["type"] == kind), None), within_s, f"`{kind}` comes"
        )

    async def finish(self, answer: Shown, within_s: float = ANSWER_S) -> Shown:
        """The answer with its end."""
        await self.until(lambda: answer.end, within_s, "the answer ends")
        return answer

    async def seen(self, answer: Shown, characters: int = 1, within_s: float = ANSWER_S) -> Shown:
        """The answer once so much of its text is shown."""
        await self.until(lambda: len(answer.text) >= characters, within_s, f"{characters} characters are shown")
        return answer

    async def gone(self, within_s: float = ANSWER_S) -> int:
        """The close code, once the server has closed the connection."""
        return await self.until(lambda: self.close_code, within_s, "the server closes")

    async def close(self) -> None:
        """Leaves as a client does that has time. Raises AssertionError where the server had broken the protocol."""
        await self._socket.close()
        await self._reader
        if self._broken is not None:
            raise self._broken

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self._take(json.loads(message.data))
                self._changed.set()
        except (AssertionError, KeyError, ValueError) as error:
            self._broken = error
        finally:
            self.close_code = self._socket.close_code or 1006
            for future in (future for waiting in self._asked.values() for future in waiting):
                if not future.done():
                    future.set_exception(self._broken or Gone(self.close_code))
            self._changed.set()

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame)
        kind = frame["type"]
        asked = frame.get("message_id") or frame.get("turn_id")
        named = frame.get("g") or frame.get("generation_id")
        if kind == "accepted":
            self.answers.setdefault(frame["generation_id"], Shown(frame["generation_id"]))
        if kind != "error" and named in self.answers:
            self.answers[named].take(frame)
        waiting = self._asked[asked] if kind in ("accepted", "error") and asked else None
        while waiting:
            future = waiting.popleft()
            if not future.done():
                future.set_result(frame)
                break


class User:
    """A person at a stack: HTTP, and any number of devices. An async context manager that closes what it opened."""

    def __init__(self, stack: Stack, person: Person) -> None:
        self.stack = stack
        self.person = person
        self._devices: list[Device] = []
        self._http = aiohttp.ClientSession(headers=person.headers, timeout=aiohttp.ClientTimeout(total=ANSWER_S))

    @classmethod
    async def new(cls, stack: Stack) -> User:
        """Somebody who has just registered."""
        return cls(stack, await asyncio.to_thread(stack.register))

    async def again(self) -> User:
        """The same person on another computer: a login of its own. Raises `Refused`."""
        body = {"email": self.person.email, "password": self.person.password, "cookie": False}
        token = (await self.call("POST", "/v1/auth/login", body))["access_token"]
        return User(self.stack, self.person._replace(token=token))

    async def __aenter__(self) -> User:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        results = await asyncio.gather(*(device.close() for device in self._devices), return_exceptions=True)
        await self._http.close()
        broken = [result for result in results if isinstance(result, BaseException)]
        if broken and error is None:
            raise broken[0]

    async def connect(self, gateway: str | None = None, url: str | None = None, **headers: str) -> Device:
        """A device, welcomed; at any gateway, at this one, or at a `url`. Raises `aiohttp.ClientError` where it is
        refused.
        """
        url = url or (self.stack.ws_url if gateway is None else self.stack.own_ws_url(gateway))
        socket = await self._http.ws_connect(url, protocols=("parley.v1",), headers=headers, max_msg_size=0)
        device = Device(socket)
        self._devices.append(device)
        await device.first("welcome")
        return device

    def url(self, path: str, gateway: str | None = None) -> str:
        return (self.stack.base_url if gateway is None else self.stack.own_base_url(gateway)) + path

    async def call(self, method: str, path: str, body: Any = None, gateway: str | None = None, **headers: str) -> Any:
        """One HTTP call with JSON in and out; None for an empty answer. Raises `Refused`."""
        async with self._http.request(method, self.url(path, gateway), json=body, headers=headers) as response:
            text = await response.text()
        answer = json.loads(text) if text else None
        if response.status >= 400:
            assert isinstance(answer, dict), f"{method} {path}: {response.status} without an error"
            raise Refused({"status": response.status, **answer["error"]})
        return answer

    def stream(
        self, method: str, path: str, body: Any = None, gateway: str | None = None, **headers: str
    ) -> aiohttp.client._RequestContextManager:
        """An HTTP call whose answer the caller reads; for event streams."""
        return self._http.request(method, self.url(path, gateway), json=body, headers=headers)

    def stream_at(self, url: str, method: str = "GET", body: Any = None) -> aiohttp.client._RequestContextManager:
        """`stream` at a whole URL, such as of a gateway that is not the stack's."""
        return self._http.request(method, url, json=body)

    async def conversation(self) -> str:
        """A new conversation's id."""
        return str((await self.call("POST", "/v1/conversations", {"id": new_id()}))["id"])

    async def generation(self, answer: Shown | str, gateway: str | None = None) -> Frame:
        """An answer as the API tells it: `{id, status, epoch, seq, text, parts, end}`."""
        name = answer if isinstance(answer, str) else answer.generation_id
        return dict(await self.call("GET", f"/v1/generations/{name}", gateway=gateway))

    async def stored(self, answer: Shown | str, within_s: float = ANSWER_S) -> Frame:
        """As `generation`, once it has ended."""

        async def ended() -> Frame:
            found = await self.generation(answer)
            return found if found["end"] else {}

        return await eventually(ended, within_s, "the answer is stored")
